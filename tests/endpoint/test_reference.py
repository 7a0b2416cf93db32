from pathlib import Path

import numpy as np
import pytest

from stablerep.endpoint.reference import REFERENCE_FILE, ExactReferences, load_references, write_references
from stablerep.errors import CheckpointError

IDS = ["a", "b", "c"]
EMBEDDING_RF = np.array([[1, 0, 0, 0], [0, 2, 0, 0], [3, 3, 0, 0]], np.float32)


def test_neighbours_are_sorted_by_cosine_whatever_the_length() -> None:
    found = ExactReferences(IDS, EMBEDDING_RF).search(np.array([[0.1, 0, 0, 0], [9, 10, 0, 0]], np.float32), 2)
    assert found.ids == [["a", "c"], ["c", "b"]]
    np.testing.assert_allclose(found.scores_BK, [[1, 0.5**0.5], [19 / (2 * 181) ** 0.5, 10 / 181**0.5]], rtol=1e-6)


def test_there_are_never_more_neighbours_than_references() -> None:
    found = ExactReferences(IDS, EMBEDDING_RF).search(np.ones((1, 4), np.float32), 10)
    assert (found.ids, found.scores_BK.shape) == ([["c", "a", "b"]], (1, 3))


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_what_was_written_is_found(tmp_path: Path, kind: type) -> None:
    write_references(tmp_path, IDS, EMBEDDING_RF.astype(kind), "model-1")
    loaded = load_references(tmp_path, "model-1", 4)
    assert loaded is not None
    assert loaded.search(EMBEDDING_RF[1:2], 1).ids == [["b"]]


def test_a_folder_without_references_has_none(tmp_path: Path) -> None:
    assert load_references(tmp_path, "model-1", 4) is None


@pytest.mark.parametrize(
    ("ids", "embedding_RF", "model_id", "message"),
    [
        (IDS, EMBEDDING_RF, "model-2", "expected references of model-1, found those of 'model-2'"),
        (IDS[:2], EMBEDDING_RF, "model-1", r"found 2 ids and embeddings \[3, 4\]"),
        (IDS, EMBEDDING_RF[:, :3], "model-1", "as many embeddings of 4"),
        ([], EMBEDDING_RF[:0], "model-1", "expected 1 to 200000 ids"),
        (IDS, EMBEDDING_RF * np.nan, "model-1", "expected finite embeddings"),
    ],
)
def test_references_that_do_not_fit_are_refused(
    tmp_path: Path, ids: list[str], embedding_RF: np.ndarray, model_id: str, message: str
) -> None:
    write_references(tmp_path, ids, embedding_RF, model_id)
    with pytest.raises(CheckpointError, match=message):
        load_references(tmp_path, "model-1", 4)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / REFERENCE_FILE).write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="expected a safetensors file with tensor `embedding`"):
        load_references(tmp_path, "model-1", 4)
