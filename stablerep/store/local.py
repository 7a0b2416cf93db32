"""Objects as files under one folder: written under a temporary name beside the target, flushed to disk, then renamed.

A reader sees a file whole or not at all, also after a power cut: the rename is flushed too. Temporary names start with `.tmp-` and
are never listed. Raises OSError; `stablerep.store.store` explains it.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

TEMPORARY_PREFIX = ".tmp-"
_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 50  # where another process works in the same folder


class LocalObjects:
    """Files under `root`; keys are relative POSIX paths, the empty key is the root itself."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, key: str) -> Path:
        """Where the object is on this machine."""
        return self._root / key

    def exists(self, key: str) -> bool:
        """Whether a file or a folder is there."""
        return self.path(key).exists()

    def size(self, key: str) -> int | None:
        """Size of a file in bytes, or None where there is no file."""
        path = self.path(key)
        return path.stat().st_size if path.is_file() else None

    def sizes(self, prefix: str) -> dict[str, int]:
        """Size in bytes of every file under a folder; a file counts as a folder of one; nothing there gives nothing."""
        top, found = self.path(prefix), dict[str, int]()
        paths = [top] if top.is_file() else (Path(folder, name) for folder, _, names in os.walk(top, onerror=_raise) for name in names)
        for path in paths:
            with suppress(FileNotFoundError):  # removed since the folder was read
                found[PurePosixPath(path.relative_to(self._root)).as_posix()] = path.stat().st_size
        return found

    def read(self, key: str) -> bytes:
        """The whole file."""
        return self.path(key).read_bytes()

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes [start, end) of each range; shorter where the file ends earlier."""
        with self.path(key).open("rb", buffering=0) as stream:
            return [os.pread(stream.fileno(), end - start, start) for start, end in ranges]

    @contextmanager
    def open(self, key: str) -> Generator[IO[bytes]]:
        """A seekable reader."""
        with self.path(key).open("rb") as stream:
            yield stream

    def write(self, key: str, content: bytes) -> None:
        """Replace the file by `content`."""
        with replacing(self.path(key)) as stream:
            stream.write(content)

    def write_new(self, key: str, content: bytes) -> bool:
        """Make the file unless there is one."""
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError, FileExistsError):  # the folder was removed while it was made or written in
                return _link_new(self.path(key), content)
        return _link_new(self.path(key), content)

    def put(self, path: Path, key: str) -> None:
        """Copy a file in."""
        with path.open("rb") as source, replacing(self.path(key)) as stream:
            shutil.copyfileobj(source, stream, _CHUNK_BYTES)

    def get(self, key: str, path: Path) -> None:
        """Copy a file out."""
        with self.path(key).open("rb") as source, replacing(path) as stream:
            shutil.copyfileobj(source, stream, _CHUNK_BYTES)

    def delete(self, key: str) -> None:
        """Remove a file or a folder with all it holds, also while others remove it or write into it."""
        path = self.path(key)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                is_folder = path.is_dir() and not path.is_symlink()
                return shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)
            except OSError as error:
                # Between the look and the removal it went away, was made again (rmtree then takes it for a link) or gained a file.
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, None) or attempt == _ATTEMPTS:
                    raise
        return None


@contextmanager
def temporary_beside(target: Path) -> Generator[Path]:
    """A temporary name in the folder of `target`; renamed to it when the block ends well, removed when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(target)
        _flush_folder(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing(target: Path) -> Generator[IO[bytes]]:
    """A writer whose content becomes `target` when the block ends well."""
    with temporary_beside(target) as temporary, temporary.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _link_new(target: Path, content: bytes) -> bool:
    """Write under a temporary name and give it the final one, which fails where there is a file (a rename does not)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems cannot flush a folder; the rename itself has happened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
