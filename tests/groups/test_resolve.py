"""From a name to a verified folder: what is found, what is refused and with which words, what the digest sees."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_diffusion

from stablerep.errors import DataError
from stablerep.groups.model_folder import check_model, image_size_px, model_digest
from stablerep.groups.resolve import default_cache, locate_generator, resolve_generator
from stablerep.store import Store

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.write_sd(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "my model"))


def _digest(folder: Path) -> str:
    return model_digest(folder, check_model(folder))


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_embedded(store: Store) -> None:
    folder, reference = resolve_generator("embedded:mnist", "", "", store)
    assert (folder / "model_index.json").is_file()
    assert (reference.uri, reference.pipeline_class, reference.size_px) == ("embedded:mnist", "StableDiffusionPipeline", 32)
    assert reference.licence == "cc-by-sa-3.0"
    assert reference.generator_id.startswith("generator-")
    assert locate_generator(reference, store) == folder
    with pytest.raises(DataError, match=r"one of .*mnist.*, found 'imagenet'"):
        resolve_generator("embedded:imagenet", "", "", store)


def test_one_model_by_every_name(model: Path, store: Store, tmp_path: Path) -> None:
    """Folder, file URI and a key of the store are the same model, and are found again from the record alone."""
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        store.put(path, f"generators/x/{path.relative_to(model).as_posix()}")
    names = [str(model), model.as_uri(), "store:generators/x"]
    references = [resolve_generator(name, "", "mit", store, tmp_path / "cache")[1] for name in names]
    assert len({(reference.generator_id, reference.sha256) for reference in references}) == 1
    assert [reference.uri for reference in references] == [Store(str(model)).uri, Store(str(model)).uri, "store:generators/x"]
    for reference in references:
        assert _digest(locate_generator(reference, store, tmp_path / "cache")) == reference.sha256
    assert not (tmp_path / "cache").exists(), "local folders are used where they are"


@pytest.mark.dist
def test_a_remote_folder_is_downloaded_once_and_repaired(model: Path, s3_store_uri: str, tmp_path: Path) -> None:
    store = Store(s3_store_uri)
    (model / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"x" * 100)
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        store.put(path, f"models/tiny/{path.relative_to(model).as_posix()}")
    cache = tmp_path / "cache"
    folder, reference = resolve_generator(store.uri_of("models/tiny"), "", "", store, cache)
    assert (reference.sha256, reference.licence, reference.size_px) == (_digest(model), "mit", 16)
    assert folder == cache / reference.sha256
    assert not (folder / "vae" / "diffusion_pytorch_model.bin").exists(), "pickles stay where they are"
    assert [path.name for path in cache.iterdir()] == [reference.sha256]

    store.delete("models/tiny/model_index.json")
    assert locate_generator(reference, store, cache) == folder, "from the cache"
    _flip_a_bit(folder / WEIGHTS)
    with pytest.raises(DataError, match=r"expected a diffusers pipeline folder with model_index.json, found \d+ files without it"):
        locate_generator(reference, store, cache)
    store.put(model / "model_index.json", "models/tiny/model_index.json")
    assert _digest(locate_generator(reference, store, cache)) == reference.sha256


@pytest.mark.dist
def test_a_remote_pickle_is_refused_before_it_is_downloaded(model: Path, s3_store_uri: str, tmp_path: Path) -> None:
    store = Store(s3_store_uri)
    (model / WEIGHTS).rename(model / "unet" / "diffusion_pytorch_model.bin")
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        store.put(path, f"m/{path.relative_to(model).as_posix()}")
    with pytest.raises(DataError, match=r"s3://.*/m/unet/diffusion_pytorch_model.bin: expected weights as .safetensors, found a pickle"):
        resolve_generator(store.uri_of("m"), "", "", store, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_is_where_one_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_cache() == tmp_path / ".cache" / "stablerep" / "generators"
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "absent")
    assert default_cache().name == "stablerep-generators"


def test_names_that_lead_nowhere(store: Store, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"generator.model '\./nowhere': expected embedded:<name>, an existing folder, the URI .* none of them"
    ):
        resolve_generator("./nowhere", "", "", store)
    with pytest.raises(
        DataError, match=r"expected a diffusers pipeline folder with model_index.json, found none; a single checkpoint file"
    ):
        resolve_generator(tmp_path.as_uri(), "", "", store)


def test_the_hub_without_network_says_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)'stable-diffusion-v1-5/stable-diffusion-v1-5'.*no such folder and no answer from the hub"):
        resolve_generator("stable-diffusion-v1-5/stable-diffusion-v1-5", "", "", store)
    remedy = r"`hf download a/b --revision v2 --local-dir FOLDER`\) and pass the folder: --set generator.model=FOLDER"
    with pytest.raises(DataError, match=remedy):
        resolve_generator("a/b", "v2", "", store)


def test_a_model_in_the_local_hub_cache(model: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    _, reference = resolve_generator("someone/tiny", "", "mit", store)
    assert (reference.uri, reference.revision, reference.sha256) == ("hub:someone/tiny", commit, _digest(model))
    assert _digest(locate_generator(reference, store)) == reference.sha256


def test_the_digest_sees_what_decides_the_images_and_nothing_else(model: Path) -> None:
    before = _digest(model)
    (model / "README.md").write_text("hello")
    (model / "picture.png").write_bytes(b"x")
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    (model / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"x")
    (model / "safety_checker").mkdir()
    (model / "safety_checker" / "config.json").write_text("{}")
    assert _digest(model) == before
    for name in (WEIGHTS, "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json", "model_index.json"):
        content = (model / name).read_bytes()
        if name == WEIGHTS:
            _flip_a_bit(model / name)
        else:
            (model / name).write_text(json.dumps(json.loads(content) | {"more": 1}))
        assert _digest(model) != before, name
        (model / name).write_bytes(content)
    assert _digest(model) == before


def test_licence(model: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def licence(accepted: str = "") -> str:
        return resolve_generator(str(model), "", accepted, store)[1].licence

    assert licence() == "unstated"
    assert "states no licence; say which one you accept with --set generator.licence=" in caplog.text
    (model / "README.md").write_text("---\ntags: [x]\nlicense: 'creativeml-openrail-m'\n---\nlicense: mit\n")
    assert licence() == "creativeml-openrail-m"
    assert licence("apache-2.0") == "apache-2.0"
    (model / "README.md").write_text("# title\nlicense: mit\n")
    assert licence() == "unstated"


def test_pickles_are_refused(model: Path, store: Store) -> None:
    (model / WEIGHTS).rename(model / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        DataError, match=r"unet/diffusion_pytorch_model.bin: expected weights as .safetensors, found a pickle.*save_pretrained"
    ):
        resolve_generator(str(model), "", "", store)


def test_damage_is_found_before_anything_is_loaded(model: Path, store: Store) -> None:
    def resolve() -> None:
        resolve_generator(str(model), "", "", store)

    whole = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(whole[:-1000])
    with pytest.raises(
        DataError, match=rf"expected {len(whole)} bytes as its header says, found {len(whole) - 1000}; the download is damaged"
    ):
        resolve()
    (model / WEIGHTS).write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"expected a safetensors file, found a damaged header \(100 bytes\)"):
        resolve()
    (model / WEIGHTS).write_bytes(b"")
    with pytest.raises(DataError, match=r"found a damaged header \(0 bytes\)"):
        resolve()
    (model / WEIGHTS).unlink()
    with pytest.raises(DataError, match=r"unet: expected weights as .safetensors, found none; download the model again"):
        resolve()
    shutil.rmtree(model / "unet")
    with pytest.raises(DataError, match=r"unet: expected the files of this component of model_index.json, found none"):
        resolve()
    (model / "model_index.json").write_text("{]")
    with pytest.raises(DataError, match=r"model_index.json: expected JSON, found something else"):
        resolve()
    (model / "model_index.json").write_text("[1]")
    with pytest.raises(DataError, match=r"model_index.json: expected an object with _class_name, found none"):
        resolve()


def test_every_listed_part_of_the_weights_must_be_there(model: Path, store: Store) -> None:
    index = {"weight_map": {"a": "part-1.safetensors", "b": Path(WEIGHTS).name}}
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"unet: expected part-1.safetensors as .*index.json says, found none"):
        resolve_generator(str(model), "", "", store)


def test_a_model_that_changed_is_noticed(model: Path, store: Store) -> None:
    _, reference = resolve_generator(str(model), "", "mit", store)
    _flip_a_bit(model / WEIGHTS)
    with pytest.raises(
        DataError, match=r"expected the model with digest [0-9a-f]{16}\.\.\., found .* it changed since stage generator ran"
    ):
        locate_generator(reference, store)


@pytest.mark.parametrize(
    ("configs", "size_px"),
    [
        ({"unet": {"sample_size": 64}, "vae": {"block_out_channels": [1, 1, 1, 1]}}, 512),
        ({"unet": {"sample_size": [96, 64]}, "vae": {"block_out_channels": [1, 1, 1, 1]}}, 768),
        ({"transformer": {"sample_size": 128}, "vae": {"block_out_channels": [1, 1, 1, 1]}}, 1024),
        ({"transformer": {"sample_size": 32}, "vae": {"encoder_block_out_channels": [1] * 6}}, 1024),
        ({"transformer": {"in_channels": 64}, "vae": {"block_out_channels": [1], "sample_size": 1024}}, 1024),
        ({"unet": {"sample_size": 64}}, 64),
    ],
)
def test_image_size_of_other_architectures(configs: dict[str, dict[str, object]], size_px: int, tmp_path: Path) -> None:
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert image_size_px(tmp_path, {name: ["diffusers", "X"] for name in configs}) == size_px


def test_image_size_that_nobody_states(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected sample_size in the configuration of unet, transformer or vae, found none"):
        image_size_px(tmp_path, {})
