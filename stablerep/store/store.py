"""A store is a URI prefix with whole-object reads and atomic writes, through fsspec.

Locally an object is written to a temporary name in the same folder, flushed to disk and renamed; on object stores a single put is
atomic already. Readers therefore see an object whole or not at all. Keys are relative POSIX paths. It does no caching and no listing
order tricks: `list` is sorted. Credentials and endpoints come from the environment as fsspec's back ends read them
(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import errno
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec

from stablerep.errors import DataError, StoreError
from stablerep.identity import sha256_bytes

_CHUNK_BYTES = 1 << 20


class Store:
    """Objects under one URI.

    Args:
        uri: `file:///absolute/folder`, a local path, `s3://bucket/prefix` or `gs://bucket/prefix`.

    Raises:
        StoreError: the scheme is unknown or its package is not installed.
    """

    def __init__(self, uri: str) -> None:
        if "://" not in uri:
            uri = Path(uri).absolute().as_uri()
        self.uri = uri.rstrip("/")
        try:
            fs, root = fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError) as error:
            raise StoreError(f"store {uri!r}: expected file://, s3:// or gs:// with its package installed: {error}") from error
        self._fs: Any = fs
        self._root = str(root).rstrip("/")
        self.is_local = self.uri.startswith("file://")

    def at(self, key: str) -> "Store":
        """The store of a sub-folder."""
        return Store(self.uri_of(key))

    def uri_of(self, key: str) -> str:
        """The full URI of a key."""
        return f"{self.uri}/{_checked(key)}"

    def local_path(self, key: str) -> Path | None:
        """The path of an object on this machine, or None on an object store."""
        return Path(self._path(key)) if self.is_local else None

    def exists(self, key: str) -> bool:
        """Whether an object (or a folder with objects) is there."""
        with self._explained("look for", key):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._path(key)))

    def list(self, prefix: str = "") -> list[str]:
        """Keys of all objects under a folder, sorted; temporary files of unfinished writes left out."""
        with self._explained("list", prefix):
            self._fs.invalidate_cache()
            path = self._path(prefix) if prefix else self._root
            found = self._fs.find(path) if self._fs.exists(path) else []
        keys = (str(item)[len(self._root) :].lstrip("/") for item in found)
        return sorted(key for key in keys if not PurePosixPath(key).name.startswith(".tmp-"))

    def read(self, key: str) -> bytes:
        """The whole object.

        Raises:
            DataError: there is no such object.
            StoreError: it cannot be read.
        """
        with self._explained("read", key):
            return cast("bytes", self._fs.cat_file(self._path(key)))

    def read_text(self, key: str) -> str:
        """The whole object as UTF-8."""
        return self.read(key).decode("utf-8")

    @contextmanager
    def open(self, key: str) -> Generator[IO[bytes]]:
        """A seekable binary reader of an object."""
        with self._explained("read", key), self._fs.open(self._path(key), "rb") as stream:
            yield cast("IO[bytes]", stream)

    def write(self, key: str, data: bytes | str) -> None:
        """Write a whole object atomically, replacing what was there.

        Raises:
            StoreError: the store is read-only, full or out of reach; nothing is left behind.
        """
        content = data.encode("utf-8") if isinstance(data, str) else data
        with self._explained("write", key):
            if not self.is_local:
                self._fs.pipe_file(self._path(key), content)
                return
            with self._replacing(key) as temporary, temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())

    def put(self, path: Path, key: str) -> None:
        """Copy a local file in atomically.

        Raises:
            StoreError: as for `write`.
        """
        with self._explained("write", key):
            if not self.is_local:
                self._fs.put_file(str(path), self._path(key))
                return
            with self._replacing(key) as temporary, path.open("rb") as source, temporary.open("wb") as stream:
                while chunk := source.read(_CHUNK_BYTES):
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())

    def get(self, key: str, path: Path) -> Path:
        """Copy an object to a local file (atomically) and return its path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        with self._explained("read", key):
            self._fs.get_file(self._path(key), str(temporary))
        temporary.replace(path)
        return path

    def delete(self, key: str) -> None:
        """Remove an object or a folder; nothing happens where there is none."""
        with self._explained("delete", key):
            self._fs.invalidate_cache()
            if self._fs.exists(self._path(key)):
                self._fs.rm(self._path(key), recursive=True)

    def sha256(self, key: str) -> str:
        """SHA-256 of an object, read as a stream."""
        with self.open(key) as stream:
            return sha256_bytes(iter(lambda: stream.read(_CHUNK_BYTES), b""))

    def _path(self, key: str) -> str:
        return f"{self._root}/{_checked(key)}"

    @contextmanager
    def _replacing(self, key: str) -> Generator[Path]:
        target = Path(self._path(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            yield temporary
            temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, verb: str, key: str) -> Generator[None]:
        where = f"{self.uri}/{key}"
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"cannot {verb} {where}: there is no such object") from error
        except PermissionError as error:
            raise StoreError(f"cannot {verb} {where}: permission denied; check credentials, mount or file mode") from error
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "check that the store is reachable, then run the same command again")
            raise StoreError(f"cannot {verb} {where}: {error.strerror or error}; {remedy}") from error


_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again (finished work is kept)",
    errno.EDQUOT: "the quota is used up: raise it, then run the same command again (finished work is kept)",
    errno.EROFS: "the file system is read-only: pass another store or mount it writable",
}


def _checked(key: str) -> str:
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts:
        raise DataError(f"expected a relative key inside the store, found {key!r}")
    return str(PurePosixPath(key))
