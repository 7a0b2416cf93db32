"""The reference set of a model, the search in it, and the chain from captions to endpoint: an encoder with random weights, real shards."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from known_models import SUITE, evaluation
from PIL import Image
from tiny_encoder import write_encoder
from tiny_groups import GENERATOR, tiny_dataset

from stablerep.catalogue import ParquetCatalogue, Served
from stablerep.cli import main
from stablerep.endpoint.reference import load_references
from stablerep.errors import BadImageError, ConfigError, DataError
from stablerep.models import load_encoder
from stablerep.records import DatasetRef, ModelRef
from stablerep.shards import GroupDataset
from stablerep.stages.card_results import LIMITS, NOT_MEASURED, RESULTS, with_results
from stablerep.stages.context import Stage, open_stage
from stablerep.stages.lineage import chain, lineage, refresh
from stablerep.stages.probe_reference import MAX_IMAGES, chosen_images, embed_images, register_reference
from stablerep.stages.search import search
from stablerep.store import Store

EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"


@pytest.fixture
def dataset(store: Store) -> DatasetRef:
    return tiny_dataset(store, num_groups=12, images_per_caption=4)


def exported(store: Store, dataset: DatasetRef, has_text: bool = True) -> ModelRef:
    """A model in the store with a lineage and a card as `export` leaves them, as far as they are read."""
    path = store.local_path("models/made")
    assert path is not None
    model_id = write_encoder(path, seed=0, has_text=has_text)
    folder = path.rename(path.with_name(model_id))
    origin = {
        "captions": {"prompt_set_id": "prompts-1", "manifest_sha256": "0"},
        "generator": {"generator_id": "generator-1", "pipeline_class": "BlobPainter", "licence": GENERATOR.licence},
        "dataset": {"dataset_id": dataset.dataset_id, "num_groups": 12, "num_images": 48, "manifest_sha256": dataset.manifest_sha256},
        "run": {"run_key": "run-1", "step": 80},
        "model": {"model_id": model_id, "encoder_sha256": "0"},
    }
    (folder / "lineage.json").write_text(json.dumps(origin))
    (folder / "MODEL_CARD.md").write_text(f"# {model_id}\n\n{RESULTS}\n{NOT_MEASURED}\n{LIMITS}\n- One run.\n")
    return ModelRef(model_id, store.uri_of(f"models/{model_id}"), "0", "vit", 48, 32, has_text)


@pytest.fixture
def model(store: Store, dataset: DatasetRef) -> ModelRef:
    return exported(store, dataset)


@pytest.fixture
def stage(store: Store) -> Iterator[Stage]:
    with open_stage("probe", "smoke", "", store.uri) as opened:
        yield opened


def test_the_reference_set_is_bounded_and_spread() -> None:
    assert list(chosen_images(2, 6)) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    many = list(chosen_images(1_000_000, 10))
    assert len(many) == MAX_IMAGES
    assert (many[0], many[1], many[-1]) == ((0, 0), (500, 0), (999_500, 0))
    assert len(list(chosen_images(700, 10))) == 1400 <= MAX_IMAGES


def test_vectors_belong_to_their_images(stage: Stage, dataset: DatasetRef, model: ModelRef) -> None:
    register_reference(stage, model)
    catalogue, groups = ParquetCatalogue(stage.store), GroupDataset(stage.store, dataset)
    encoder = load_encoder(stage.store.local_path(f"models/{model.model_id}") or Path())
    for space in ("features", "beside_text"):
        found = catalogue.reference(model.model_id, space)
        assert found is not None
        assert len(found.images) == 48
        for image, vector in list(zip(found.images, found.vectors_ND, strict=True))[::7]:
            expected = embed_images(encoder, groups.images(image.position, [image.image_index]))[space][0]
            torch.testing.assert_close(torch.from_numpy(vector), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
            assert image.image_id == f"{dataset.dataset_id}/{groups.caption(image.position).caption_id}/{image.image_index}"
    folder = stage.store.local_path(f"models/{model.model_id}")
    served = load_references(folder or Path(), model.model_id, model.embedding_dim)
    features = catalogue.reference(model.model_id, "features")
    assert served is not None
    assert features is not None
    near = served.search(features.vectors_ND, 1)
    assert [ids[0] for ids in near.ids] == [image.image_id for image in features.images], "the endpoint finds each image itself"
    assert np.allclose(near.scores_BK, 1, atol=1e-3)
    before = {key: stage.store.sha256(key) for key in stage.store.list("catalogue")}
    register_reference(stage, model)
    assert before == {key: stage.store.sha256(key) for key in stage.store.list("catalogue")}, "made once"


def test_without_its_images_a_model_has_no_reference_set(stage: Stage, dataset: DatasetRef, model: ModelRef) -> None:
    stage.store.delete(f"groups/{dataset.dataset_id}")
    register_reference(stage, model)
    with pytest.raises(DataError, match=f"{model.model_id}: expected beside text of a reference set in .*, found none; run probe again"):
        search(stage.store.uri, "a bus", model_id=model.model_id)


def test_an_image_finds_its_own_group(stage: Stage, dataset: DatasetRef, model: ModelRef, tmp_path: Path) -> None:
    register_reference(stage, model)
    groups = GroupDataset(stage.store, dataset)
    path = tmp_path / "asked <b>.PNG"
    path.write_bytes(groups.images(7, [2])[0])
    found = search(stage.store.uri, str(path), model_id=model.model_id, count=5)
    assert found.space == "features"
    nearest = found.neighbours[0]
    assert (nearest.image.position, nearest.image.image_index) == (7, 2)
    assert nearest.distance == pytest.approx(0, abs=1e-5)
    assert len({neighbour.image.caption_id for neighbour in found.neighbours}) == 5
    assert found.html.count('class="card"') == 5
    assert found.html.count('class="hit"') == 5
    assert found.html.count("<img") == 1 + 5 * 4
    assert "asked &lt;b&gt;.PNG" in found.html
    assert "<b>.PNG" not in found.html
    assert "http" not in found.html.replace("http-equiv", ""), "nothing is loaded from elsewhere"
    assert found.lines()[0] == f" 1.000  {groups.caption(7).text}"


def test_a_text_is_compared_in_the_space_of_texts(
    stage: Stage, model: ModelRef, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register_reference(stage, model)
    found = search(stage.store.uri, "a <i>small</i> seven", model_id=model.model_id, count=3)
    assert found.space == "beside_text"
    assert [n.distance for n in found.neighbours] == sorted(n.distance for n in found.neighbours)
    assert "a &lt;i&gt;small&lt;/i&gt; seven" in found.html
    monkeypatch.chdir(tmp_path)
    assert main(["search", "a small seven", "--store", stage.store.uri, "--model", model.model_id, "--count", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[3] == f"page: {(tmp_path / 'build' / 'search.html').as_uri()}"
    assert "blob number" in (tmp_path / "build" / "search.html").read_text()


def test_refusals(stage: Stage, store: Store, dataset: DatasetRef) -> None:
    blind = exported(store, dataset, has_text=False)
    register_reference(stage, blind)
    with pytest.raises(ConfigError, match=r"has no text tower; search with an image, or train with pretrain\.text_weight above 0"):
        search(store.uri, "a bus", model_id=blind.model_id)
    with pytest.raises(DataError, match=r"none\.jpg: expected an image file, found nothing there"):
        search(store.uri, "none.jpg", model_id=blind.model_id)
    with pytest.raises(ConfigError, match="expected a text or an image, and 1 or more groups, found ' ' and 12"):
        search(store.uri, " ", model_id=blind.model_id)
    with pytest.raises(DataError, match=r"expected a promoted model in .* run the pipeline first"):
        search(store.uri, "a bus")


def test_a_bad_image_is_named(stage: Stage, model: ModelRef, tmp_path: Path) -> None:
    register_reference(stage, model)
    path = tmp_path / "no.png"
    packed = io.BytesIO()
    Image.new("RGB", (8, 8)).save(packed, "png")
    path.write_bytes(packed.getvalue()[:40])
    with pytest.raises(BadImageError, match="expected a JPEG, PNG, WebP or BMP image, found 40 bytes"):
        search(stage.store.uri, str(path), model_id=model.model_id)


def test_the_chain_grows_from_captions_to_endpoint(store: Store, model: ModelRef) -> None:
    catalogue, model_id = ParquetCatalogue(store), model.model_id
    assert "endpoint" not in lineage(store.uri, model_id)
    catalogue.register_evaluation(evaluation(model_id, 0.9), EARLY)
    store.write(f"evals/{model_id}/{SUITE}/decision.json", json.dumps({"is_promoted": True}))
    catalogue.promote(model_id, SUITE, EARLY)
    served = Served("stablerep", model_id, "http://127.0.0.1:8080", "local", "process-1", 3.5)
    catalogue.register_served(served, EARLY)
    assert catalogue.is_served(served)
    assert not catalogue.is_served(Served("stablerep", model_id, "http://127.0.0.1:8080", "local", "process-2", 3.5))
    refresh(store, model_id)
    before = store.read(f"models/{model_id}/lineage.json")
    refresh(store, model_id)
    assert store.read(f"models/{model_id}/lineage.json") == before
    kept = json.loads(before)
    assert kept == chain(store, model_id)
    assert kept["endpoints"][0]["revision"] == "process-1"
    assert kept["evaluations"][0]["gate"] == "promoted"
    text = lineage(store.uri, model_id).splitlines()
    assert text[0] == f"endpoint: stablerep (http://127.0.0.1:8080, revision process-1, verified {EARLY})"
    assert text[-2:] == [
        "               ├─ captions: prompts-1",
        "               └─ generator: generator-1 (BlobPainter, licence CC0-1.0)",
    ]
    diagram = lineage(store.uri, model_id, "mermaid").splitlines()
    assert diagram[0] == "graph LR"
    assert '  n0["captions<br/>prompts-1"]' in diagram
    assert "  n0 --> n2" in diagram
    assert json.loads(lineage(store.uri, model_id, "json")) == kept
    card = store.read_text(f"models/{model_id}/MODEL_CARD.md")
    assert "| **this encoder** | 90.0 [88.8, 91.0] |" in card
    assert NOT_MEASURED not in card
    assert card.endswith(f"{LIMITS}\n- One run.\n")


def test_a_card_without_results_stays() -> None:
    assert with_results("# old card\n", [evaluation("model-a", 0.5)]) == "# old card\n"
    card = f"a\n{RESULTS}\nx\n{LIMITS}b"
    assert with_results(with_results(card, [evaluation("model-a", 0.5)]), []) == f"a\n{RESULTS}\n{NOT_MEASURED}\n{LIMITS}b"


def test_a_model_that_is_not_there(store: Store) -> None:
    refresh(store, "model-none")
    with pytest.raises(DataError, match=r"expected the lineage of model-none at .* export the model again"):
        lineage(store.uri, "model-none")
