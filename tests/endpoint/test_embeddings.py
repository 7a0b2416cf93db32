"""The file of embeddings and its journal: what a kill leaves is found again, and nothing of another model."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stablerep.endpoint.embeddings import EmbeddingsFile, Kind, Row
from stablerep.errors import ConfigError

KIND = Kind("model-a", False, "path")


def rows() -> list[Row]:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    good = [Row(f"{n}.png", f"sha-{n}", values[n]) for n in range(3)]
    return [good[0], Row("bad.png", "sha-bad", error="400: expected a JPEG"), good[1], good[2]]


@pytest.fixture(params=["out.parquet", "out.npy"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "folder" / request.param


def known(path: Path, kind: Kind = KIND) -> dict[str, list[float]]:
    file = EmbeddingsFile(path, kind)
    file.close()
    return {key: row.embedding_F.tolist() for key, row in file.known.items() if row.embedding_F is not None}


def expected(*positions: int) -> dict[str, list[float]]:
    return {row.key: row.embedding_F.tolist() for row in (rows()[n] for n in positions) if row.embedding_F is not None}


def test_a_journal_that_a_kill_cut_anywhere_gives_back_whole_rows(path: Path) -> None:
    file = EmbeddingsFile(path, KIND)
    file.keep(rows())
    file.close()
    journal = path.with_name(f"{path.name}.journal")
    content = journal.read_bytes()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    assert known(path) == expected(0, 2, 3)
    for cut in range(0, len(content), 7):
        journal.write_bytes(content[:cut])
        num_rows = max(0, sum(end <= cut for end in ends) - 1)
        assert known(path) == expected(*[0, 2, 3][:num_rows])
        again = EmbeddingsFile(path, KIND)
        again.keep([rows()[3]])
        again.close()
        assert known(path) == expected(*[0, 2, 3][:num_rows], 3)


def test_a_finished_file_is_known_and_says_what_was_refused(path: Path) -> None:
    file = EmbeddingsFile(path, KIND)
    file.keep(rows())
    file.finish(rows())
    assert [each.name for each in path.parent.iterdir() if "journal" in each.name or each.name.startswith(".")] == []
    assert known(path) == expected(0, 2, 3)
    if path.suffix == ".npy":
        matrix = np.load(path)
        lines = [json.loads(line) for line in path.with_name("out.npy.jsonl").read_text().splitlines()[1:]]
        assert np.isnan(matrix[1]).all()
        assert not np.isnan(matrix[[0, 2, 3]]).any()
    else:
        lines = pq.read_table(path).to_pylist()
        assert lines[1]["embedding"] is None
        assert pq.read_schema(path).field("embedding").type == pa.list_(pa.float32(), 4)
    assert [(line["path"], line["error"]) for line in lines] == [(row.key, row.error) for row in rows()]


def test_equal_rows_give_equal_bytes(path: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        file = EmbeddingsFile(tmp_path / name / path.name, KIND)
        file.finish(rows())
        contents.append({each.name: each.read_bytes() for each in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("kind", [Kind("model-b", False, "path"), Kind("model-a", True, "path")])
@pytest.mark.parametrize("is_finished", [True, False])
def test_embeddings_of_another_kind_are_not_mixed_in(path: Path, kind: Kind, is_finished: bool) -> None:
    file = EmbeddingsFile(path, KIND)
    file.keep(rows())
    if is_finished:
        file.finish(rows())
    else:
        file.close()
    with pytest.raises(ConfigError, match="remove it or name another file"):
        EmbeddingsFile(path, kind)


def test_a_kill_between_the_two_files_of_npy_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    first = EmbeddingsFile(path, KIND)
    first.finish(rows()[:2])
    old = path.read_bytes()
    second = EmbeddingsFile(path, KIND)
    second.keep(rows()[1:])
    journal = (tmp_path / "out.npy.journal").read_bytes()
    second.finish(rows())
    path.write_bytes(old)
    (tmp_path / "out.npy.journal").write_bytes(journal)
    assert known(path) == expected(2, 3)  # rows of the first file are asked again, for nothing says whose they are


@pytest.mark.parametrize(("name", "content"), [("a.csv", None), ("a.parquet", b"PAR0"), ("a.npy", b"")])
def test_what_is_no_file_of_embeddings_is_left_alone(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"expected (a file that ends with .parquet or .npy|a Parquet file|a\.npy\.jsonl beside it)"):
        EmbeddingsFile(tmp_path / name, KIND)
    assert content is None or (tmp_path / name).read_bytes() == content
