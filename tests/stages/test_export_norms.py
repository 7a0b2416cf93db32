"""How long embeddings of training images are: measured at export, compared with where the encoder is served."""

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from tiny_groups import GENERATOR
from tiny_training import TINY, overrides_of, tiny_run, train_alone

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.meter import Meter
from stablerep.endpoint.predictor import Predictor, Question
from stablerep.integrations.kserve_model import EncoderModel
from stablerep.integrations.prometheus_sink import PrometheusSink
from stablerep.models.digests import read_sums
from stablerep.records import DatasetRef
from stablerep.shards.read import GroupDataset
from stablerep.stages import export, export_norms
from stablerep.stages.pretrain_run import checkpoint_ref
from stablerep.store import Store
from stablerep.telemetry import Reporter

DRIFT = "stablerep_endpoint_embedding_norm_drift_sigmas"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, str]]:
    """A store with a finished run, and its records."""
    store = Store(str(tmp_path_factory.mktemp("trained")))
    plan = tiny_run(store)
    checkpoint = checkpoint_ref(train_alone(store, plan), store.at(plan.prefix))
    return store, {"dataset": plan.dataset.to_json(), "generator": GENERATOR.to_json(), "checkpoint": checkpoint.to_json()}


def exported(trained: tuple[Store, dict[str, str]]) -> Path:
    store, records = trained
    return Path(export.run("smoke", overrides_of(TINY), store.uri, **records).uri.removeprefix("file://"))


def training_images(trained: tuple[Store, dict[str, str]]) -> list[bytes]:
    dataset = GroupDataset(trained[0], DatasetRef.from_json(trained[1]["dataset"]))
    return [file for position in range(dataset.num_groups) for file in dataset.images(position, range(dataset.num_images(position)))]


class Served:
    """An exported folder behind KServe's model class, and the registry that /metrics shows."""

    def __init__(self, folder: Path) -> None:
        self.registry = CollectorRegistry()
        meter = Meter(Reporter("serve", (PrometheusSink(self.registry, "stablerep_endpoint_"),)))
        self.model = EncoderModel("stablerep", Limits(), meter)
        self.model.load_folder(str(folder))

    def drift_after(self, files: Sequence[bytes]) -> float | None:
        """What the gauge says once these images have been embedded; None where there is no gauge."""
        body = {"instances": [{"b64": base64.b64encode(file).decode()} for file in files]}
        asyncio.run(self.model(body))
        return self.registry.get_sample_value(DRIFT)


def test_images_unlike_the_training_images_move_the_gauge_of_an_exported_encoder(trained: tuple[Store, dict[str, str]]) -> None:
    files = training_images(trained)
    served = Served(exported(trained))
    try:
        for _ in range(6):
            like_training = served.drift_after(files)
        for _ in range(6):
            unlike_training = served.drift_after([_negative(file) for file in files])
    finally:
        served.model.close()
    assert like_training == pytest.approx(0.0, abs=0.2)
    assert unlike_training is not None
    assert abs(unlike_training) > 1.5


def test_the_numbers_are_those_of_the_server_and_the_file_is_in_the_digests(trained: tuple[Store, dict[str, str]]) -> None:
    folder, files = exported(trained), training_images(trained)
    predictor = Predictor(folder, Limits())
    norms = predictor.norms(predictor.forward(predictor.prepare(files, Question())))
    found = json.loads((folder / "statistics.json").read_text())["embedding_norm"]
    assert (found["mean"], found["std"]) == (pytest.approx(np.mean(norms), rel=1e-5), pytest.approx(np.std(norms), rel=1e-2))
    assert found["num_images"] == len(files) == 48
    assert "statistics.json" in read_sums(folder)
    assert predictor.facts.metadata["embedding_norm"] == found


def test_a_large_data_set_is_sampled_evenly(trained: tuple[Store, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    store, records = trained
    dataset = GroupDataset(store, DatasetRef.from_json(records["dataset"]))
    for num_images, expected in ((5, [(0, 1), (2, 1), (4, 1), (7, 1), (9, 1)]), (30, [(position, 2) for position in range(12)])):
        monkeypatch.setattr(export_norms, "NUM_IMAGES", num_images)
        files = list(export_norms._files(store, DatasetRef.from_json(records["dataset"])))
        assert files == [file for position, number in expected for file in dataset.images(position, range(number))]


def test_a_folder_without_the_file_is_served_without_the_gauge(
    trained: tuple[Store, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """As older exports are, and those whose training images are gone."""
    store, records = trained
    files = training_images(trained)
    dataset = DatasetRef.from_json(records["dataset"])
    store.delete("models")
    for key in store.list(f"groups/{dataset.dataset_id}"):
        store.delete(key)
    folder = exported(trained)
    assert "export without statistics.json, so the server will not tell drift" in capfd.readouterr().err
    assert "statistics.json" not in {*read_sums(folder), *(path.name for path in folder.iterdir())}
    served = Served(folder)
    try:
        assert served.drift_after(files[:3]) is None
        assert served.registry.get_sample_value("stablerep_endpoint_embedding_norm") > 0  # type: ignore[operator]
        assert served.model.facts["embedding_norm"] is None
    finally:
        served.model.close()


def _negative(file: bytes) -> bytes:
    content = io.BytesIO()
    Image.fromarray(255 - np.asarray(Image.open(io.BytesIO(file)))).save(content, "PNG")
    return content.getvalue()
