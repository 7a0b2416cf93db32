"""The folder an encoder is exported to and loaded from: safetensors, JSON and a checked list of digests.

    encoder.safetensors   the trunk, in timm's names       config.json        shapes, and what the exporter says of the training
    text.safetensors      text tower, both projections,    preprocessor.json  how to prepare an image
                          logit_scale (StableRep+ only)    tokenizer.json     (StableRep+ only)
    SHA256SUMS            written last, `sha256sum -c` reads it; MODEL_CARD.md and lineage.json join by `add_files`

Equal weights give equal bytes, and `model_id` is a digest of every file that decides an embedding. Loading verifies each file before a
byte of it is interpreted. Pickles are neither written nor read.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as pack_safetensors
from torch import Tensor, nn

from stablerep.errors import CheckpointError, ConfigError, DivergenceError
from stablerep.identity import content_id, sha256_bytes
from stablerep.losses import LOG_SCALE_MAX
from stablerep.models.digests import SUMS, is_plain_name, read_sums, verified_bytes, write_bytes, write_sums
from stablerep.models.encoder import Encoder, TextParts
from stablerep.models.preprocess import Preprocessor
from stablerep.models.trunk import build_trunk
from stablerep.models.two_tower import ModelSpec, TwoTower, build_text_parts, num_features
from stablerep.typed import decode

FORMAT = "stablerep-encoder-1"
ENCODER, TEXT = "encoder.safetensors", "text.safetensors"
CONFIG, PREPROCESSOR, TOKENIZER = "config.json", "preprocessor.json", "tokenizer.json"
_IDENTITY = (ENCODER, TEXT, CONFIG, PREPROCESSOR, TOKENIZER)


@dataclass(frozen=True)
class SavedEncoder:
    """What was written: the id of the encoder, the digest of encoder.safetensors, and its facts."""

    model_id: str
    sha256: str
    embedding_dim: int
    has_text: bool


def save_encoder(
    folder: Path, model: TwoTower, *, config: dict[str, Any], preprocessor: dict[str, Any], tokenizer_json: str = ""
) -> SavedEncoder:
    """Write the encoder of a trained model in float32; the projection head is dropped.

    Args:
        folder: made when missing; an earlier export in it is replaced.
        model: a model in any floating type, on any device.
        config: plain data about the training, kept under "training" in config.json; part of the id, so no times and no host names.
        preprocessor: fields of `Preprocessor` (`default_preprocessor`).
        tokenizer_json: the tokeniser of the text tower; needed if and only if there is one.

    Raises:
        ConfigError: the preprocessor does not fit the model, or the tokeniser is missing or superfluous.
        DivergenceError: a weight is not finite.
    """
    _check_arguments(model, preprocessor, tokenizer_json)
    description = {
        "format": FORMAT,
        "spec": asdict(model.spec),
        "embedding_dim": num_features(model.trunk),
        "has_text": model.text is not None,
        "training": config,
    }
    files = {
        ENCODER: _pack(model.trunk.state_dict(), ENCODER),
        CONFIG: _json_bytes(description),
        PREPROCESSOR: _json_bytes(preprocessor),
    }
    if model.text is not None:
        files[TEXT] = _pack(_text_state(model), TEXT)
        files[TOKENIZER] = tokenizer_json.encode("utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SUMS, *_IDENTITY):
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    sums = {name: sha256_bytes(data) for name, data in files.items()}
    write_sums(folder, sums)
    return SavedEncoder(_model_id(sums), sums[ENCODER], num_features(model.trunk), model.text is not None)


def add_files(folder: Path, files: Mapping[str, str]) -> None:
    """Add texts that do not decide an embedding (MODEL_CARD.md, lineage.json) to an exported folder and to its digests.

    Raises:
        ConfigError: a name that `save_encoder` owns, or that is not a plain file name.
        CheckpointError: the folder is no export.
    """
    sums = read_sums(folder)
    for name, text in files.items():
        if name in (*_IDENTITY, SUMS) or not is_plain_name(name):
            raise ConfigError(f"encoder folder: expected the plain name of an additional file, found {name!r}")
        write_bytes(folder / name, text.encode("utf-8"))
        sums[name] = sha256_bytes(text.encode("utf-8"))
    write_sums(folder, sums)


def load_encoder(folder: Path, device: torch.device | str = "cpu") -> Encoder:
    """Load an exported encoder in float32, after verifying every file against SHA256SUMS.

    Raises:
        CheckpointError: a file is missing, damaged, not what its name says, or does not fit the configuration; names the file.
    """
    sums = read_sums(folder)
    data = {name: verified_bytes(folder / name, sha256) for name, sha256 in sums.items()}
    description = _json_object(folder, data, CONFIG)
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{folder / CONFIG}: expected format {FORMAT}, found {description.get('format')!r}; export the model again")
    try:
        spec = decode(ModelSpec, description.get("spec"), where=f"{folder / CONFIG}: spec")
        preprocessor = decode(Preprocessor, _json_object(folder, data, PREPROCESSOR), where=str(folder / PREPROCESSOR))
        with torch.random.fork_rng(devices=[]):
            trunk = build_trunk(**asdict(spec.trunk), is_filled_later=True)
            text_parts = build_text_parts(spec, num_features(trunk), nn.BatchNorm1d)
    except (ValueError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder}: the configuration does not describe an encoder: {error}") from error
    _fill(trunk, _tensors(folder, data, ENCODER), folder / ENCODER)
    return Encoder(
        trunk,
        _load_text(folder, data, text_parts),
        model_id=_model_id(sums),
        spec=spec,
        preprocessor=preprocessor,
        embedding_dim=num_features(trunk),
        training=cast("dict[str, Any]", description.get("training", {})),
        device=device,
    )


def _check_arguments(model: TwoTower, preprocessor: dict[str, Any], tokenizer_json: str) -> None:
    try:
        checked = decode(Preprocessor, preprocessor, where="preprocessor")
    except (ValueError, TypeError) as error:
        raise ConfigError(f"encoder export: expected the fields of a preprocessor: {error}") from error
    if not checked.size_px == checked.crop == model.spec.trunk.size_px or checked.resize < checked.crop:
        raise ConfigError(
            f"preprocessor: expected size_px and crop of {model.spec.trunk.size_px} and resize no smaller, found "
            f"size_px={checked.size_px}, crop={checked.crop}, resize={checked.resize}"
        )
    if (model.text is not None) != bool(tokenizer_json):
        raise ConfigError(
            f"encoder export: expected a tokeniser if and only if there is a text tower, found "
            f"{'a' if model.text is not None else 'no'} text tower and {'a' if tokenizer_json else 'no'} tokeniser"
        )


def _text_state(model: TwoTower) -> dict[str, Tensor]:
    parts = {"text": model.text, "image_projection": model.image_projection, "text_projection": model.text_projection}
    state = {f"{prefix}.{name}": value for prefix, part in parts.items() if part is not None for name, value in part.state_dict().items()}
    return state | {"logit_scale": cast("Tensor", model.logit_scale).detach().clamp(0.0, LOG_SCALE_MAX).reshape(1)}


def _load_text(folder: Path, data: dict[str, bytes], parts: tuple[nn.Module | None, ...]) -> TextParts | None:
    tower, image_projection, text_projection = parts
    if tower is None or image_projection is None or text_projection is None:
        return None
    state = _tensors(folder, data, TEXT)
    _needed(folder, data, TOKENIZER)
    scale = state.pop("logit_scale", torch.tensor([float("nan")]))
    holder = nn.ModuleDict({"text": tower, "image_projection": image_projection, "text_projection": text_projection})
    _fill(holder, state, folder / TEXT)
    if scale.numel() != 1 or not 0.0 <= float(scale) <= LOG_SCALE_MAX + 1e-6:
        raise CheckpointError(f"{folder / TEXT}: expected one logit_scale from 0 to ln 100, found {scale.tolist()}")
    return TextParts(tower, image_projection, text_projection, float(scale))


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split("\n")[1:2]).strip()  # torch lists every tensor
        raise CheckpointError(f"{path}: the weights do not fit config.json: {first[:300]}") from error


def _pack(state: Mapping[str, Tensor], name: str) -> bytes:
    packed: dict[str, Tensor] = {}
    for key in sorted(state):
        tensor = state[key].detach().to("cpu")
        tensor = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        if not bool(torch.isfinite(tensor).all()):
            raise DivergenceError(f"{name}: expected finite weights, found NaN or infinity in {key}; export an earlier checkpoint")
        packed[key] = tensor.contiguous().clone()
    return pack_safetensors(packed, metadata={"format": "pt"})


def _tensors(folder: Path, data: dict[str, bytes], name: str) -> dict[str, Tensor]:
    try:
        return parse_safetensors(_needed(folder, data, name))
    except SafetensorError as error:
        raise CheckpointError(f"{folder / name}: expected a safetensors file (pickles are never read): {error}") from error


def _json_object(folder: Path, data: dict[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(_needed(folder, data, name))
    except ValueError as error:
        raise CheckpointError(f"{folder / name}: expected JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{folder / name}: expected a JSON object, found {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _needed(folder: Path, data: dict[str, bytes], name: str) -> bytes:
    if name not in data:
        raise CheckpointError(f"{folder}: expected {name} among the files of {SUMS}, found {', '.join(sorted(data))}")
    return data[name]


def _model_id(sums: Mapping[str, str]) -> str:
    return content_id("model", {name: sums[name] for name in _IDENTITY if name in sums})


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")
