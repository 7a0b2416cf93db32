"""The checkpoint of a fit: one file, replaced atomically, that says which fit it belongs to.

It is read with `weights_only=True`, so a damaged or foreign file can not run code.
"""

import os
from pathlib import Path
from typing import Any, cast

import torch

from stablerep.errors import CheckpointError

# pyright: reportUnknownMemberType=false


def write_checkpoint(path: Path, fingerprint: str, content: dict[str, Any]) -> None:
    """Write beside `path`, flush to disk, then rename: a reader sees the old file or the new one, never half of one."""
    temporary = path.with_suffix(".writing")
    with temporary.open("wb") as stream:
        torch.save({"fingerprint": fingerprint, **content}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_checkpoint(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The content of the checkpoint, or None when there is none.

    Raises:
        CheckpointError: the file is damaged, or was written by a fit with other data, settings, seed or steps.
    """
    if not path.exists():
        return None
    try:
        content = cast("dict[str, Any]", torch.load(path, weights_only=True))
        found = content["fingerprint"]
    except Exception as error:
        raise CheckpointError(f"expected a fit checkpoint in {path}, found a damaged file; remove it to start over: {error}") from error
    if found != fingerprint:
        raise CheckpointError(
            f"expected a checkpoint of fit {fingerprint} in {path}, found one of fit {found}, which has other data, settings, seed or "
            f"steps; remove {path.parent} to start over or choose another output directory"
        )
    return content
