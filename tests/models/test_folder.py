"""The exported folder: equal bytes, equal embeddings, and every way it can be damaged."""

import json
import pickle
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from stablerep.errors import CheckpointError, ConfigError, DataError, DivergenceError
from stablerep.losses import LOG_SCALE_MAX
from stablerep.models import (
    HeadSpec,
    ModelSpec,
    TextSpec,
    TrunkSpec,
    TwoTower,
    add_files,
    build_two_tower,
    default_preprocessor,
    load_encoder,
    normalisation,
    save_encoder,
)

TRUNK = TrunkSpec("vit_tiny_patch16_224", size_px=16, patch_px=8, width=32, depth=2, num_heads=2, mlp_ratio=2.0)
TEXT = TextSpec(vocabulary_size=30, eot_id=29, context_length=8, width=16, depth=1, num_heads=2, out_dim=10, projection="mlp")
HEAD = HeadSpec(num_layers=2, hidden_dim=24, out_dim=12)
TOKENIZER = '{"words": ["a"]}'
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[3, 4, 29, 0], [5, 29, 0, 0]])


def model(has_text: bool = True, seed: int = 0) -> TwoTower:
    """A model whose batch norms have seen data."""
    built = build_two_tower(ModelSpec(TRUNK, HEAD, TEXT if has_text else None), seed=seed)
    generator = torch.Generator().manual_seed(1)
    built(torch.randn(2, 6, 3, 16, 16, generator=generator), torch.full((6, 3), 29) if has_text else None)
    return built.eval()


def save(folder: Path, built: TwoTower, **changes):
    arguments = {"config": {"recipe": "test"}, "preprocessor": default_preprocessor(16), "tokenizer_json": TOKENIZER if built.text else ""}
    return save_encoder(folder, built, **(arguments | changes))


@pytest.fixture
def folder(tmp_path) -> Path:
    save(tmp_path / "export", model())
    return tmp_path / "export"


def reseal(folder: Path) -> None:
    """Digests that fit the files, as somebody who tampers would write them."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_embeddings_of_the_loaded_encoder_are_those_of_the_model_to_the_last_bit(tmp_path):
    built = model()
    saved = save(tmp_path, built)
    encoder = load_encoder(tmp_path)
    with torch.no_grad():
        features = built.trunk(IMAGES)
        image_text = torch.nn.functional.normalize(built.image_projection(features), dim=1)
        text = torch.nn.functional.normalize(built.text_projection(built.text(TOKENS)), dim=1)
    assert torch.equal(encoder.embed(IMAGES), features)
    assert torch.equal(encoder.embed_image_for_text(IMAGES), image_text)
    assert torch.equal(encoder.embed_text(TOKENS), text)
    assert encoder.logit_scale == built.logit_scale.item()
    assert encoder.model_id == saved.model_id
    assert (encoder.embedding_dim, encoder.size_px, encoder.has_text) == (32, 16, True)
    assert (encoder.mean, encoder.std) == normalisation(16)
    assert encoder.spec == built.spec
    assert encoder.training == {"recipe": "test"}
    assert encoder.embed(IMAGES).dtype == torch.float32
    assert not encoder.embed(IMAGES).requires_grad


def test_an_encoder_without_text(tmp_path):
    built = model(has_text=False)
    assert not save(tmp_path, built).has_text
    encoder = load_encoder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SHA256SUMS", "config.json", "encoder.safetensors", "preprocessor.json"]
    assert not encoder.has_text
    with torch.no_grad():
        assert torch.equal(encoder.embed(IMAGES), built.trunk(IMAGES))
    for call in (lambda: encoder.embed_text(TOKENS), lambda: encoder.embed_image_for_text(IMAGES), lambda: encoder.logit_scale):
        with pytest.raises(ConfigError, match=r"expected a text tower, found none; train with pretrain\.text_weight above 0"):
            call()


def test_the_head_is_dropped(folder):
    assert b"head" not in (folder / "encoder.safetensors").read_bytes()[:10_000]
    assert b"head." not in (folder / "text.safetensors").read_bytes()[:10_000]


def test_equal_weights_give_equal_bytes_and_ids(tmp_path):
    first, second = save(tmp_path / "a", model()), save(tmp_path / "b", model())
    assert first == second
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert first.sha256 == sha256((tmp_path / "a" / "encoder.safetensors").read_bytes()).hexdigest()
    assert save(tmp_path / "a", model()) == first  # again into the same folder


def test_whatever_decides_an_embedding_decides_the_id(tmp_path):
    base = save(tmp_path / "base", model()).model_id
    others = [
        save(tmp_path / "weights", model(seed=1)),
        save(tmp_path / "config", model(), config={"recipe": "other"}),
        save(tmp_path / "preprocessor", model(), preprocessor=default_preprocessor(16) | {"interpolation": "bilinear"}),
        save(tmp_path / "tokenizer", model(), tokenizer_json='{"words": []}'),
        save(tmp_path / "image-only", model(has_text=False)),
    ]
    assert len({base, *(other.model_id for other in others)}) == 6
    add_files(tmp_path / "base", {"MODEL_CARD.md": "# Card\n", "lineage.json": "{}"})
    assert load_encoder(tmp_path / "base").model_id == base


def test_a_second_export_leaves_nothing_of_the_first(tmp_path):
    save(tmp_path, model())
    save(tmp_path, model(has_text=False))
    assert not (tmp_path / "text.safetensors").exists()
    assert not load_encoder(tmp_path).has_text


def test_half_precision_models_are_written_wide(tmp_path):
    built = model(has_text=False).bfloat16()
    save(tmp_path, built)
    assert load_encoder(tmp_path).embed(IMAGES).dtype == torch.float32


def test_the_list_of_digests_is_that_of_sha256sum(folder):
    add_files(folder, {"MODEL_CARD.md": "# Card\n"})
    assert subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, check=False).returncode == 0
    listed = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert listed == sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    assert (folder / "MODEL_CARD.md").read_text() == "# Card\n"


@pytest.mark.parametrize(
    "name", ["encoder.safetensors", "text.safetensors", "config.json", "preprocessor.json", "tokenizer.json", "MODEL_CARD.md"]
)
def test_a_damaged_or_missing_file_is_named(folder, name):
    add_files(folder, {"MODEL_CARD.md": "# Card\n"})
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(
        CheckpointError, match=rf"{name}: damaged: expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}} .*copy the export again"
    ):
        load_encoder(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: expected the file that SHA256SUMS lists, found none"):
        load_encoder(folder)


def test_an_interrupted_export_is_refused(folder, tmp_path):
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match=r"expected an exported encoder with SHA256SUMS, found config\.json, encoder\.safetensors"):
        load_encoder(folder)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_encoder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="found an empty folder"):
        load_encoder(tmp_path / "empty")


def test_pickles_are_never_read(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    (folder / "encoder.safetensors").write_bytes(pickle.dumps(Trap()))
    reseal(folder)
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors: expected a safetensors file \(pickles are never read\)"):
        load_encoder(folder)
    assert not (tmp_path / "executed").exists()
    other = tmp_path / "pickled"
    other.mkdir()
    torch.save({}, other / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"found pytorch_model\.bin; .*pickles are never read\): run the export stage"):
        load_encoder(other)


@pytest.mark.parametrize("line", ["0" * 64 + "  ../secret", "0" * 64 + "  .hidden", "0" * 63 + "  a", "hello", "0" * 64 + "  a/b"])
def test_a_list_that_points_elsewhere_is_refused(folder, line):
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(line + "\n")
    with pytest.raises(CheckpointError, match="expected lines of a SHA-256 and a plain file name"):
        load_encoder(folder)


def test_a_list_of_other_bytes_is_refused(folder):
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="expected digests and file names, found other bytes"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["encoder.safetensors", "text.safetensors", "config.json", "preprocessor.json", "tokenizer.json"])
def test_a_file_the_list_forgot_is_named(folder, name):
    (folder / name).unlink()
    reseal(folder)
    with pytest.raises(CheckpointError, match=f"expected {name} among the files of SHA256SUMS"):
        load_encoder(folder)


def change_config(folder: Path, change) -> None:
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))
    reseal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "expected format stablerep-encoder-1, found 'other'; export the model again"),
        (lambda d: d["spec"]["trunk"].update(depth=3), r"encoder\.safetensors: the weights do not fit config\.json: .*blocks\.2"),
        (lambda d: d["spec"]["trunk"].update(width=64), r"encoder\.safetensors: the weights do not fit config\.json: .*size mismatch"),
        (lambda d: d["spec"]["text"].update(depth=2), r"text\.safetensors: the weights do not fit config\.json"),
        (lambda d: d["spec"]["trunk"].update(architecture="vit_none"), "the configuration does not describe an encoder: .*vit_none"),
        (lambda d: d["spec"]["trunk"].update(colour="red"), "the configuration does not describe an encoder: .*unknown key 'colour'"),
        (lambda d: d.pop("spec"), "the configuration does not describe an encoder"),
    ],
)
def test_a_configuration_that_does_not_fit_is_explained(folder, change, message):
    change_config(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "config.json: expected JSON"), ("[1]", "expected a JSON object, found list")])
def test_a_configuration_that_is_no_json_object_is_refused(folder, text, message):
    (folder / "config.json").write_text(text)
    reseal(folder)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(folder)


def test_a_scale_out_of_range_is_refused(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "text.safetensors")
    save_file(state | {"logit_scale": torch.tensor([7.0])}, folder / "text.safetensors")
    reseal(folder)
    with pytest.raises(CheckpointError, match=r"expected one logit_scale from 0 to ln 100, found \[7\.0\]"):
        load_encoder(folder)
    state.pop("logit_scale")
    save_file(state, folder / "text.safetensors")
    reseal(folder)
    with pytest.raises(CheckpointError, match=r"expected one logit_scale from 0 to ln 100, found \[nan\]"):
        load_encoder(folder)


def test_a_scale_that_grew_too_large_is_exported_as_it_is_used(tmp_path):
    built = model()
    with torch.no_grad():
        built.logit_scale.fill_(6.0)
    save(tmp_path, built)
    assert load_encoder(tmp_path).logit_scale == pytest.approx(LOG_SCALE_MAX)


def test_a_model_that_diverged_is_not_exported(tmp_path):
    built = model()
    with torch.no_grad():
        built.trunk.cls_token[0, 0, 3] = float("nan")
    with pytest.raises(DivergenceError, match=r"encoder\.safetensors: expected finite weights, found NaN or infinity in cls_token"):
        save(tmp_path / "never", built)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocessor": default_preprocessor(32)}, "expected size_px and crop of 16 and resize no smaller, found size_px=32"),
        ({"preprocessor": default_preprocessor(16) | {"resize": 8}}, "resize=8"),
        ({"preprocessor": default_preprocessor(16) | {"sharpness": 1}}, "preprocessor: unknown key 'sharpness'"),
        ({"preprocessor": {"size_px": 16}}, "expected the fields of a preprocessor: .*missing 5 required"),
        ({"tokenizer_json": ""}, "if and only if there is a text tower, found a text tower and no tokeniser"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        save(tmp_path, model(), **changes)
    with pytest.raises(ConfigError, match="found no text tower and a tokeniser"):
        save(tmp_path, model(has_text=False), tokenizer_json=TOKENIZER)


@pytest.mark.parametrize("name", ["encoder.safetensors", "SHA256SUMS", "../up", ".hidden", ""])
def test_only_additional_files_can_be_added(folder, name):
    with pytest.raises(ConfigError, match="expected the plain name of an additional file"):
        add_files(folder, {name: "x"})
    load_encoder(folder)


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 16, 17), torch.zeros(3, 16, 16), torch.zeros(2, 1, 16, 16), torch.zeros(2, 3, 16, 16).byte()]
)
def test_images_of_another_shape_are_refused(folder, images):
    encoder = load_encoder(folder)
    with pytest.raises(DataError, match=r"expected normalised float images \[B, 3, 16, 16\], found shape"):
        encoder.embed(images)
    assert encoder.embed(IMAGES[:0]).shape == (0, 32)


def test_loading_leaves_the_global_generator_alone(folder):
    state = torch.get_rng_state()
    load_encoder(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_normalisation_and_preprocessor():
    assert normalisation(32) == ((0.5,) * 3, (0.5,) * 3)
    assert normalisation(63) == ((0.5,) * 3, (0.5,) * 3)
    assert normalisation(64) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert default_preprocessor(224)["resize"] == 256
    assert default_preprocessor(224)["crop"] == default_preprocessor(224)["size_px"] == 224
    assert default_preprocessor(32)["resize"] == 32


def test_importing_models_imports_no_platform_library():
    """A trunk is paid for when it is built; transformers is never needed here."""
    libraries = ("transformers", "timm", "diffusers", "deepspeed", "sklearn")
    code = f"import sys, stablerep.models; print([name for name in {libraries} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"
