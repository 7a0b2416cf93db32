"""The generator stage: the same record every time, a fit that is made once."""

import subprocess
import sys

import pytest

from stablerep.errors import DataError
from stablerep.groups.resolve import locate_generator
from stablerep.records import GeneratorRef
from stablerep.stages import generator
from stablerep.store import Store

FIT = "generator.fit=true generator.fit_data=digits generator.fit_num_vae_steps=2 generator.fit_num_steps=3"


def test_the_embedded_model_without_torch(store: Store) -> None:
    code = (
        "import sys; from stablerep.stages.generator import run\n"
        f"print(run('quickstart', '', {store.uri!r}).to_json())\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    record, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert GeneratorRef.from_json(record) == generator.run("quickstart", "", store.uri)


def test_licence_and_errors_come_through(store: Store) -> None:
    assert generator.run("smoke", "generator.licence=mit", store.uri).licence == "mit"
    with pytest.raises(DataError, match=r"expected an embedded model, one of .*mnist"):
        generator.run("smoke", "generator.model=embedded:cats", store.uri)


def _fit_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> GeneratorRef:
    reference = generator.run("smoke", FIT, store.uri)
    assert reference.uri.startswith("store:generators/fit-")
    assert (reference.pipeline_class, reference.size_px) == ("StableDiffusionPipeline", 32)
    assert reference.licence not in ("", "unstated")
    monkeypatch.setattr("stablerep.groups.fit.fit_generator", None)  # another fit would fail
    assert generator.run("smoke", FIT, store.uri) == reference
    return reference


@pytest.mark.slow
def test_a_fit_is_kept_in_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = _fit_once(store, monkeypatch)
    folder = locate_generator(reference, store)
    assert folder == store.local_path(reference.uri.removeprefix("store:"))
    assert "stablerep generator --recipe smoke --set" in (folder / "fit.json").read_text()
    assert "generator.fit_num_steps=3" in (folder / "fit.json").read_text()
    entries = store.read_text("telemetry/generator.jsonl")
    assert '"value": 1.0' in entries
    assert "stablerep_stage_progress_ratio" in entries
    other = FIT.replace("num_steps=3", "num_steps=4")
    with pytest.raises(TypeError):
        generator.run("smoke", other, store.uri)


@pytest.mark.dist
def test_a_fit_is_kept_in_an_object_store(
    s3_store_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr("pathlib.Path.home", lambda: home)
    store = Store(s3_store_uri)
    reference = _fit_once(store, monkeypatch)
    assert locate_generator(reference, store) == home / ".cache" / "stablerep" / "generators" / reference.sha256
