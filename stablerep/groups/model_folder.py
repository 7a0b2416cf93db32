"""What a diffusers folder must be before anything is spent on it: complete, safetensors only, not truncated; and its digest.

Reads JSON and safetensors headers, never a weight, and imports no model library. The digest is over the files that decide the images:
those of the components named in model_index.json, without the safety checker, without weight variants (fp16, non-EMA), without
pickles.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from stablerep.errors import DataError
from stablerep.identity import digest, sha256_bytes

INDEX_FILE = "model_index.json"
CARD_FILE = "README.md"
UNSTATED = "unstated"

_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".jinja")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack")
_IGNORED_COMPONENTS = ("safety_checker", "feature_extractor", "image_encoder")
_CHUNK_BYTES = 1 << 20


def model_index(folder: Path) -> dict[str, Any]:
    """`model_index.json` as read.

    Raises:
        DataError: it is missing, not JSON, or names no pipeline class.
    """
    path = folder / INDEX_FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: expected a diffusers pipeline folder with {INDEX_FILE}, found none; a single checkpoint file must first be "
            "converted with diffusers and written with save_pretrained"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected JSON, found something else ({error}); download the model again") from error
    checked = cast("dict[str, Any]", index) if isinstance(index, dict) else {}
    if not isinstance(checked.get("_class_name"), str):
        raise DataError(f"{path}: expected an object with _class_name, found none; download the model again")
    return checked


def component_names(index: dict[str, Any]) -> list[str]:
    """The components of a pipeline that decide its images."""
    present = (name for name, entry in index.items() if isinstance(entry, list) and entry[:1] != [None])
    return sorted(name for name in present if name not in _IGNORED_COMPONENTS)


def content_files(names: Iterable[str], index: dict[str, Any]) -> list[str]:
    """Of the file names of a folder (relative, POSIX), those that decide the images, sorted."""
    components = component_names(index)
    return sorted(name for name in names if name == INDEX_FILE or _is_content(PurePosixPath(name), components))


def check_model(folder: Path) -> dict[str, Any]:
    """Refuse a folder that is incomplete, truncated, or holds its weights as pickles; returns its `model_index.json`.

    Raises:
        DataError: saying which file and what to do.
    """
    index = model_index(folder)
    files = list(_files(folder))
    content = content_files(files, index)
    refuse_pickles(files, index, str(folder))
    for component in component_names(index):
        inside = [name for name in content if name.startswith(f"{component}/")]
        if not inside:
            raise DataError(f"{folder / component}: expected the files of this component of {INDEX_FILE}, found none; download it again")
        _check_weights(folder, component, inside)
    return index


def refuse_pickles(names: Iterable[str], index: dict[str, Any], where: str) -> None:
    """Refuse a model whose weights are only there as pickles.

    Raises:
        DataError: with the way to convert them.
    """
    names = sorted(names)
    content = content_files(names, index)
    for component in component_names(index):
        pickles = [name for name in names if name.startswith(f"{component}/") and name.endswith(_PICKLES)]
        if pickles and not any(name.startswith(f"{component}/") and name.endswith(".safetensors") for name in content):
            raise DataError(
                f"{where}/{pickles[0]}: expected weights as .safetensors, found a pickle, which can run code when it is loaded; convert it "
                "where you trust it: load the pipeline with diffusers and write it with save_pretrained(folder, safe_serialization=True)"
            )


def model_digest(folder: Path, index: dict[str, Any]) -> str:
    """SHA-256 over the sorted pairs (relative name, SHA-256) of the files that decide the images."""
    return digest([[name, file_sha256(folder / name)] for name in content_files(_files(folder), index)])


def image_size_px(folder: Path, index: dict[str, Any]) -> int:
    """Height of the images the model makes: the denoiser's size times the factor of the autoencoder.

    Raises:
        DataError: the configuration does not say.
    """
    vae = _config(folder, "vae" if "vae" in index else "vqvae")
    widths = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [0]
    for denoiser in ("unet", "transformer"):
        size = _config(folder, denoiser).get("sample_size")
        if size:
            return int(size if isinstance(size, int) else size[0]) * 2 ** (len(widths) - 1)
    if size := vae.get("sample_size"):
        return int(size)
    raise DataError(f"{folder}: expected sample_size in the configuration of unet, transformer or vae, found none")


def stated_licence(folder: Path) -> str:
    """The `license:` of the model card's front matter, or `unstated`."""
    card = folder / CARD_FILE
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
    if lines[:1] != ["---"]:
        return UNSTATED
    for line in lines[1:]:
        if line == "---":
            break
        key, _, value = line.partition(":")
        if key.strip() == "license" and value.strip():
            return value.strip().strip("\"'")
    return UNSTATED


def _is_content(name: PurePosixPath, components: list[str]) -> bool:
    if len(name.parts) < 2 or name.parts[0] not in components or name.suffix not in _SUFFIXES:
        return False
    variant = name.name.removesuffix(".index.json").removesuffix(".safetensors")
    return ".safetensors" not in name.name or "." not in variant


def _check_weights(folder: Path, component: str, names: list[str]) -> None:
    weights = [name for name in names if name.endswith(".safetensors")]
    for name in weights:
        check_safetensors(folder / name)
    for name in names:
        if name.endswith(".safetensors.index.json"):
            listed = set(_json(folder / name).get("weight_map", {}).values())
            if missing := sorted(listed - {PurePosixPath(weight).name for weight in weights}):
                raise DataError(f"{folder / component}: expected {', '.join(missing)} as {name} says, found none; download it again")
    has_model = any(PurePosixPath(name).name == "config.json" for name in names)
    if has_model and not weights:
        raise DataError(f"{folder / component}: expected weights as .safetensors, found none; download the model again")


def check_safetensors(path: Path) -> None:
    """Compare the header of a safetensors file with its size (https://github.com/huggingface/safetensors, Format)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(header_size)) if 0 < header_size <= size - 8 else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise DataError(f"{path}: expected a safetensors file, found a damaged header ({size} bytes); download the model again")
    entries = cast("dict[str, dict[str, Any]]", header)
    ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    expected = 8 + header_size + max(ends, default=0)
    if size != expected:
        raise DataError(f"{path}: expected {expected} bytes as its header says, found {size}; the download is damaged, repeat it")


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _config(folder: Path, component: str) -> dict[str, Any]:
    path = folder / component / "config.json"
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found something else ({error}); download the model again") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return sha256_bytes(iter(lambda: stream.read(_CHUNK_BYTES), b""))
