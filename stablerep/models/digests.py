"""The list of digests of an exported folder, and files that are whole or absent.

SHA256SUMS has the format of `sha256sum`; it is written last and read first. Names are plain (no folders, no leading dot), so a list from
elsewhere cannot point outside its folder. What the files mean is not known here.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from stablerep.errors import CheckpointError
from stablerep.identity import sha256_bytes

SUMS = "SHA256SUMS"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


def is_plain_name(name: str) -> bool:
    """Whether a name may stand in the list."""
    return _NAME.fullmatch(name) is not None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole: under another name first, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write the list; it makes the folder complete."""
    write_bytes(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode("ascii"))


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by file name.

    Raises:
        CheckpointError: no list, or one that is not of digests and plain names.
    """
    try:
        lines = (folder / SUMS).read_text("ascii").splitlines()
    except OSError as error:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise CheckpointError(
            f"{folder}: expected an exported encoder with {SUMS}, found {found or 'an empty folder'}; the export was interrupted "
            "or this is another format (pickles are never read): run the export stage"
        ) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{folder / SUMS}: expected digests and file names, found other bytes: {error}") from error
    matches = [(_LINE.fullmatch(line), line) for line in lines]
    for match, line in matches:
        if match is None or not is_plain_name(match[2]):
            raise CheckpointError(f"{folder / SUMS}: expected lines of a SHA-256 and a plain file name, found {line[:100]!r}")
    return {match[2]: match[1] for match, _ in matches if match is not None}


def verified_bytes(path: Path, sha256: str) -> bytes:
    """The bytes of a file, if they are those of the list.

    Raises:
        CheckpointError: the file is missing or differs; names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: expected the file that {SUMS} lists, found none: copy the export again") from error
    found = sha256_bytes(data)
    if found != sha256:
        raise CheckpointError(f"{path}: damaged: expected sha256 {sha256}, found {found} ({len(data)} bytes); copy the export again")
    return data
