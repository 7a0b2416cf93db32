"""Finding a two-tower model by what a recipe names: what ships with the data, or any folder of open_clip, transformers or this project.

Nothing is loaded here that needs torch: a lane whose shards are done asks for the digest only. Weights are read from safetensors and from
nothing else. A remote folder is fetched once, into a cache keyed by its listing.
"""

import shutil
import uuid
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from stablerep.errors import ConfigError, DataError
from stablerep.groups.embedded_models import agreement_path
from stablerep.groups.inspection import AgreementModel
from stablerep.groups.resolve import default_cache
from stablerep.identity import digest, sha256_bytes
from stablerep.store import Store
from stablerep.typed import object_in_file

Kind = Literal["stablerep", "open_clip", "transformers"]

EMBEDDED = "embedded:"
_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".jinja")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FORMAT = "stablerep-encoder-1"
_CHUNK_BYTES = 1 << 20


def two_tower_folder(model: str, setting: str) -> Path:
    """The local folder of a model.

    Args:
        model: `embedded:<name>`, a local folder, or the URI of one.
        setting: which setting names it, for messages.

    Raises:
        DataError: nothing is there, it is no two-tower or embedding model, or its weights are pickles.
    """
    if model.startswith(EMBEDDED):
        return agreement_path(model.removeprefix(EMBEDDED))
    folder = _fetched(model) if "://" in model else Path(model).expanduser()
    kind_of(folder, setting)
    return folder


def kind_of(folder: Path, setting: str = "quality.scorer") -> Kind:
    """Whose folder it is; raises as `two_tower_folder`."""
    if not folder.is_dir():
        raise DataError(
            f"{setting} {str(folder)!r}: expected embedded:<name>, or an existing folder or URI of open_clip, transformers or an encoder "
            "of this project, found no such folder; correct the path"
        )
    names = sorted(path.name for path in folder.iterdir())
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if name.endswith(_PICKLES)]
        found = f"{pickles[0]}, a pickle, which can run code when it is loaded" if pickles else "none"
        raise DataError(
            f"{setting} {folder}: expected weights as .safetensors, found {found}; convert it where you trust it, with save_pretrained of "
            "its library"
        )
    if "open_clip_config.json" in names:
        return "open_clip"
    config = object_in_file(folder / "config.json")
    if config.get("format") == _FORMAT:
        return "stablerep"
    if "model_type" in config:
        return "transformers"
    raise DataError(
        f"{setting} {folder}: expected open_clip_config.json, or a config.json of transformers or of this project, found "
        f"{', '.join(names[:8])}; name the folder that save_pretrained wrote"
    )


@cache
def folder_digest(folder: Path) -> str:
    """SHA-256 over the sorted pairs (name, SHA-256) of the files that decide embeddings; read once a process."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    return digest([[path.name, _sha256(path)] for path in files])


def open_two_tower(folder: Path, device: str, setting: str = "quality.scorer") -> AgreementModel:
    """Load the model of a folder.

    Args:
        folder: of `two_tower_folder`.
        device: auto, cpu, cuda ...
        setting: which setting names it, for messages.

    Raises:
        ConfigError: torch is not installed here, or there is no such device.
        DataError: the files are damaged.
    """
    try:
        from stablerep.groups import two_tower_models
    except ImportError as error:
        raise ConfigError(
            f"{setting} {folder}: needs torch and the model's library, which are not installed here ({error.name}); install "
            "stablerep[generate], as in the image `generate`"
        ) from error
    opener: Any = {
        "stablerep": two_tower_models.OwnTowers,
        "open_clip": two_tower_models.OpenClipTowers,
        "transformers": two_tower_models.TransformersTowers,
    }[kind_of(folder, setting)]
    try:
        return cast("AgreementModel", opener(folder, folder_digest(folder), device))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{setting} {folder}: cannot be loaded ({type(error).__name__}: {error}); download the model again") from error


def _fetched(uri: str) -> Path:
    source = Store(uri)
    if source.is_local:
        path = source.local_path("config.json")
        return cast("Path", path).parent
    sizes = {name: size for name, size in source.sizes("").items() if "/" not in name and name.endswith(_SUFFIXES)}
    folder = default_cache() / f"towers-{digest([uri, sorted(sizes.items())])[:16]}"
    if not folder.is_dir():
        staging = folder.with_name(f"downloading-{uuid.uuid4().hex}")
        try:
            for name in sizes:
                source.get(name, staging / name)
            staging.replace(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return sha256_bytes(iter(lambda: stream.read(_CHUNK_BYTES), b""))
