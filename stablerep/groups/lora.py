"""A low-rank change of a model's weights (LoRA): one safetensors file, found, checked and identified by its digest.

Nothing is loaded here; `diffusers_pipeline` does that. A file of another kind could run code and is refused.
"""

from pathlib import Path

from stablerep.errors import DataError
from stablerep.groups.model_folder import check_safetensors, file_sha256
from stablerep.groups.resolve import default_cache
from stablerep.store import Store


def resolve_lora(lora: str, sha256: str = "", cache_folder: Path | None = None) -> tuple[Path, str, str]:
    """Find and check a LoRA file.

    Args:
        lora: a path or a URI.
        sha256: what it must be; empty: whatever it is.
        cache_folder: where remote files are kept; default in the user's cache folder.

    Returns:
        The local file, its URI and its SHA-256.

    Raises:
        DataError: there is no such file, it is no whole safetensors file, or another one than `sha256` says.
        StoreError: the URI cannot be read.
    """
    name = lora.rpartition("/")[2]
    if not name.endswith(".safetensors"):
        raise DataError(
            f"generator.lora {lora!r}: expected a .safetensors file, found {name!r}; other formats can run code when they are loaded: "
            "convert it with diffusers where you trust it"
        )
    store = Store(lora.rpartition("/")[0] or ".")
    path = store.local_path(name)
    if path is None:
        path = (cache_folder or default_cache()) / "lora" / (sha256 or "unchecked") / name
        path = path if sha256 and path.is_file() else store.get(name, path)
    elif not path.is_file():
        raise DataError(f"generator.lora {lora!r}: expected a file, found none at {path}; correct the path")
    check_safetensors(path)
    found = file_sha256(path)
    if sha256 and found != sha256:
        raise DataError(
            f"{lora}: expected the LoRA with digest {sha256[:16]}..., found {found[:16]}...; it changed since stage generator ran: run "
            "that stage again, or put the file back"
        )
    return path, store.uri_of(name), found
