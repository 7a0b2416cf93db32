"""Encoders as ONNX and for timm: the same embeddings, and nothing that answers differently counts."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from tiny_encoder import picture, write_encoder

from stablerep.batches.decode import decode_image
from stablerep.cli import main
from stablerep.endpoint.compute import Compute
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor, Question
from stablerep.endpoint.preprocess import preprocess_image
from stablerep.errors import CheckpointError, ConfigError
from stablerep.models import Encoder, add_files, formats, load_encoder
from stablerep.models.digests import read_sums, write_sums
from stablerep.models.onnx_trunk import OnnxTrunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("encoder")
    write_encoder(made, seed=1)
    return made


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(folder)


@pytest.fixture(scope="module")
def onnx_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("onnx")
    assert main(["convert", str(folder), "--format", "onnx", "--to", str(to)]) == 0
    return to


@pytest.fixture(scope="module")
def served_folder(folder: Path, onnx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder with its ONNX file, as export leaves it."""
    made = tmp_path_factory.mktemp("served")
    for path in (*folder.iterdir(), onnx_folder / "encoder.onnx"):
        (made / path.name).write_bytes(path.read_bytes())
    write_sums(made, read_sums(folder) | read_sums_of_onnx(onnx_folder))
    return made


def prepared(encoder: Encoder, num_images: int) -> torch.Tensor:
    return torch.stack([preprocess_image(picture(seed, size=(50, 40)), encoder.preprocessor, Limits()) for seed in range(num_images)])


@pytest.mark.parametrize("num_images", [1, 2, 3, 17])
def test_onnx_runtime_gives_the_same_embeddings_for_batches_of_any_size(encoder: Encoder, onnx_folder: Path, num_images: int) -> None:
    images_N3SS = prepared(encoder, num_images)
    session = onnxruntime.InferenceSession(onnx_folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["embedding"], {"image": images_N3SS.numpy()})
    np.testing.assert_allclose(found, encoder.embed(images_N3SS).numpy(), atol=1e-5)


def test_the_onnx_file_says_how_images_are_prepared_and_nothing_of_the_machine(encoder: Encoder, folder: Path, onnx_folder: Path) -> None:
    content = (onnx_folder / "encoder.onnx").read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["model_id"] == encoder.model_id
    assert json.loads(facts["preprocessor"]) == json.loads((folder / "preprocessor.json").read_text())
    assert [(entry.name, entry.type.tensor_type.shape.dim[0].dim_param) for entry in model.graph.input] == [("image", "N")]
    assert b".py" not in content  # places in source files of the machine
    assert (onnx_folder / "SHA256SUMS").read_text() == f"{hashlib.sha256(content).hexdigest()}  encoder.onnx\n"
    assert formats.onnx_bytes(encoder) == content


def test_where_onnx_runtime_is_missing_the_reference_evaluator_compares(
    encoder: Encoder, onnx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stablerep.models.onnx_runtime", None)
    content, images_N3SS = (onnx_folder / "encoder.onnx").read_bytes(), prepared(encoder, 3)
    with pytest.raises(ConfigError, match="expected the package onnxruntime, found none"):
        OnnxTrunk(content, "encoder.onnx")
    trunk = formats.runnable(content)
    torch.testing.assert_close(trunk(images_N3SS), encoder.embed(images_N3SS), atol=1e-5, rtol=0)


def test_timm_loads_the_folder_and_prepares_images_as_we_do(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    assert main(["convert", str(folder), "--format", "timm", "--to", str(tmp_path)]) == 0
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images_N3SS = prepared(encoder, 4)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images_N3SS), encoder.embed(images_N3SS), atol=1e-6, rtol=0)
    data = timm.data.resolve_model_data_config(loaded)
    preprocessor = encoder.preprocessor
    assert (data["input_size"], tuple(data["mean"]), tuple(data["std"])) == ((3, 32, 32), preprocessor.mean, preprocessor.std)
    assert (data["interpolation"], data["crop_pct"]) == ("bicubic", preprocessor.crop / preprocessor.resize)
    image_3HW = decode_image(picture(0), preprocessor.resize)
    assert image_3HW.shape[1:] == (32, 32)


def test_the_snippets_of_the_manual(folder: Path, onnx_folder: Path, tmp_path: Path) -> None:
    formats.write_timm(folder, tmp_path)
    manual = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text()
    snippets = [block for block in re.findall(r"```python\n(.*?)```", manual, re.DOTALL) if "digits-" in block]
    for snippet in snippets:
        exec(snippet.replace("digits-onnx", str(onnx_folder)).replace("digits-timm", str(tmp_path)), {})
    assert len(snippets) == 2


def test_the_predictor_runs_the_trunk_by_onnx_runtime(served_folder: Path) -> None:
    by_torch, by_onnx = (Predictor(served_folder, Limits(), Compute(is_onnx=is_onnx)) for is_onnx in (False, True))
    files = [picture(seed, size=(50, 40)) for seed in range(5)]
    question = Question(labels=("a", "b"))
    expected, found = by_torch.predict(files, question), by_onnx.predict(files, question)
    np.testing.assert_allclose(found.embedding_NF, expected.embedding_NF, atol=1e-5)
    np.testing.assert_allclose(found.scores_NK, expected.scores_NK, atol=1e-4)
    assert not np.array_equal(found.embedding_NF, expected.embedding_NF)  # another engine, other last digits
    assert by_onnx.model_id == by_torch.model_id


def test_an_onnx_file_of_another_encoder_does_not_load(folder: Path, served_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_encoder(other, seed=2)
    (other / "encoder.onnx").write_bytes((served_folder / "encoder.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"expected encoder\.onnx in SHA256SUMS, found none; export with deploy\.runtime_engine=onnx"):
        Predictor(other, Limits(), Compute(is_onnx=True))
    write_sums(other, read_sums(other) | read_sums_of_onnx(served_folder))
    with pytest.raises(CheckpointError, match=r"encoder\.onnx: expected the embeddings of model-\w+ within 0\.0001, found"):
        Predictor(other, Limits(), Compute(is_onnx=True))


def read_sums_of_onnx(folder: Path) -> dict[str, str]:
    return {"encoder.onnx": read_sums(folder)["encoder.onnx"]}


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"is_compiled": True}, {"device": "cuda"}])
def test_onnx_runtime_is_for_cpus(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="ONNX Runtime: expected a CPU and fp32"):
        Compute(is_onnx=True, **options)


@pytest.mark.parametrize("write", [formats.write_onnx, formats.write_timm])
def test_what_answers_differently_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object) -> None:
    embed = Encoder.embed
    monkeypatch.setattr(Encoder, "embed", lambda self, images: embed(self, images) + 2e-4)
    with pytest.raises(CheckpointError, match=r"expected the embeddings of model-\w+ within 0.0001, found 0.0002"):
        write(folder, tmp_path / "to")  # type: ignore[operator]
    assert not list(tmp_path.glob("to/SHA256SUMS"))


def test_a_damaged_encoder_is_not_converted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in folder.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    add_files(damaged, {"note.txt": "x"})
    (damaged / "encoder.safetensors").write_bytes(b"junk")
    assert main(["convert", str(damaged), "--format", "timm", "--to", str(tmp_path / "to")]) == 4
    assert "encoder.safetensors: damaged" in capsys.readouterr().err


def test_junk_is_no_onnx_encoder() -> None:
    with pytest.raises(CheckpointError, match=r"x\.onnx: expected an ONNX encoder, found another file"):
        OnnxTrunk(b"junk", "x.onnx")
