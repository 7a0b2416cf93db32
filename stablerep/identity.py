"""Content ids: a thing is named by what decides its content, never by the run that made it.

`digest` hashes canonical JSON (sorted keys, no white space, floats as Python repr), so the same captions, the same generator and
the same settings give the same dataset id on any machine and in any order of the keys.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

ID_LENGTH = 16


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, dataclasses as objects.

    Raises:
        ValueError: for NaN and infinities, which have no JSON.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of `canonical_json(value)`, 64 hexadecimal digits."""
    return sha256_bytes(canonical_json(value).encode("utf-8"))


def content_id(prefix: str, value: Any) -> str:
    """`<prefix>-<16 hexadecimal digits>`: a name that is safe in paths, labels and DNS."""
    return f"{prefix}-{digest(value)[:ID_LENGTH]}"


def sha256_bytes(data: bytes | Iterable[bytes]) -> str:
    """SHA-256 of bytes or of the chunks of a stream, 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for chunk in (data,) if isinstance(data, bytes) else data:
        sha.update(chunk)
    return sha.hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
