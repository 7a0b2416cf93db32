"""A store is a URI prefix with whole-object reads, range reads and atomic writes.

Readers see an object whole or not at all. Keys are relative POSIX paths; `list` is sorted. Nothing is cached. Local folders are handled
directly (`local.py`), object stores through fsspec (`remote.py`), which reads credentials and endpoints from the environment
(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS). Here is what both have in common: keys, URIs and errors that
say what to do.
"""

import errno
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote

from stablerep.errors import DataError, StablerepError, StoreError
from stablerep.identity import sha256_bytes
from stablerep.store.local import TEMPORARY_PREFIX, LocalObjects
from stablerep.store.remote import RemoteObjects

_CHUNK_BYTES = 1 << 20


class Store:
    """Objects under one URI.

    A `file://` URI may be percent-encoded; `uri` gives it back decoded (only `%` itself stays encoded), as fsspec expects it.

    Args:
        uri: `file:///absolute/folder`, a local path, `s3://bucket/prefix` or `gs://bucket/prefix`.
        is_patient: whether a server that does not answer is asked again; not where the question is whether there is one (preflight).

    Raises:
        StoreError: the scheme is unknown or its package is not installed.
    """

    def __init__(self, uri: str, *, is_patient: bool = True) -> None:
        scheme, separator, rest = uri.partition("://")
        self.is_local = not separator or scheme == "file"
        if self.is_local:
            path = _local_root(uri, unquote(rest) if separator else uri)
            self.uri = "file://" + str(path).replace("%", "%25")
            self._objects = LocalObjects(path)
            return
        if not rest.strip("/") and scheme != "memory":
            raise StoreError(f"store {uri!r}: expected a bucket, as in {scheme}://bucket/prefix; name one")
        _refuse_patterns(rest, f"store {uri!r}")
        self.uri = uri.rstrip("/")
        try:
            self._objects = RemoteObjects(self.uri, is_patient=is_patient)
        except (ImportError, ValueError) as error:
            raise StoreError(f"store {uri!r}: expected file://, s3:// or gs:// with its package installed: {error}") from error

    def at(self, key: str) -> "Store":
        """The store of a sub-folder."""
        return Store(self.uri_of(key))

    def uri_of(self, key: str) -> str:
        """The full URI of a key."""
        return f"{self.uri}/{_checked(key).replace('%', '%25') if self.is_local else _checked(key)}"

    def local_path(self, key: str) -> Path | None:
        """The path of an object on this machine, or None on an object store."""
        return self._objects.path(_checked(key)) if isinstance(self._objects, LocalObjects) else None

    def exists(self, key: str) -> bool:
        """Whether an object (or a folder with objects) is there."""
        with self._explained("look for", key):
            return self._objects.exists(_checked(key))

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, or None where there is no object (a folder is none)."""
        with self._explained("look for", key):
            return self._objects.size(_checked(key))

    def list(self, prefix: str = "") -> list[str]:
        """Keys of all objects under a folder, sorted; temporary files of unfinished writes left out."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Size in bytes of every object under a folder, by key; one request for many objects on an object store."""
        with self._explained("list", prefix):
            found = self._objects.sizes(_checked(prefix) if prefix else "")
        return {key: size for key, size in found.items() if not PurePosixPath(key).name.startswith(TEMPORARY_PREFIX)}

    def read(self, key: str) -> bytes:
        """The whole object.

        Raises:
            DataError: there is no such object.
            StoreError: it cannot be read.
        """
        with self._explained("read", key):
            return self._objects.read(_checked(key))

    def read_text(self, key: str) -> str:
        """The whole object as UTF-8.

        Raises:
            DataError: there is no such object, or it is not UTF-8.
        """
        try:
            return self.read(key).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"cannot read {self.uri_of(key)}: expected UTF-8 text, found byte {error.start} that is not; remake it"
            ) from error

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """Bytes [start, end) of each range and nothing else; a range is shorter where the object ends earlier.

        Raises:
            DataError: there is no such object.
            StoreError: it cannot be read.
        """
        with self._explained("read", key):
            return self._objects.read_ranges(_checked(key), ranges)

    @contextmanager
    def open(self, key: str) -> Generator[IO[bytes]]:
        """A seekable binary reader of an object; errors of the block itself pass through as they are."""
        with ExitStack() as stack:
            with self._explained("read", key):
                stream = stack.enter_context(self._objects.open(_checked(key)))
            yield stream

    def write(self, key: str, data: bytes | str) -> None:
        """Write a whole object atomically, replacing what was there.

        Raises:
            StoreError: the store is read-only, full or out of reach; nothing is left behind.
        """
        with self._explained("write", key):
            self._objects.write(_checked(key), data.encode("utf-8") if isinstance(data, str) else data)

    def write_new(self, key: str, data: bytes | str) -> bool:
        """Write a whole object where there is none: of several writers one gets True, the others False and no change.

        Raises:
            StoreError: as for `write`.
        """
        with self._explained("write", key):
            return self._objects.write_new(_checked(key), data.encode("utf-8") if isinstance(data, str) else data)

    def put(self, path: Path, key: str) -> None:
        """Copy a local file in atomically.

        Raises:
            DataError: there is no such local file.
            StoreError: as for `write`.
        """
        if not path.is_file():
            raise DataError(
                f"cannot copy {path} to {self.uri_of(key)}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}"
            )
        with self._explained("write", key):
            self._objects.put(path, _checked(key))

    def get(self, key: str, path: Path) -> Path:
        """Copy an object to a local file (atomically) and return its path.

        Raises:
            DataError: there is no such object.
            StoreError: it cannot be read, or the local file cannot be written; nothing is left behind.
        """
        with self._explained(f"copy to {path}", key):
            self._objects.get(_checked(key), path)
        return path

    def delete(self, key: str) -> None:
        """Remove an object or a folder; nothing happens where there is none."""
        with self._explained("delete", key):
            self._objects.delete(_checked(key))

    def sha256(self, key: str) -> str:
        """SHA-256 of an object, read as a stream.

        Raises:
            DataError: there is no such object.
            StoreError: it cannot be read.
        """
        with self._explained("read", key), self._objects.open(_checked(key)) as stream:
            return sha256_bytes(iter(lambda: stream.read(_CHUNK_BYTES), b""))

    @contextmanager
    def _explained(self, verb: str, key: str) -> Generator[None]:
        try:
            yield
        except StablerepError:
            raise
        except Exception as error:
            if self.is_local and not isinstance(error, OSError):
                raise
            raise _explain(error, verb, f"{self.uri}/{key}".rstrip("/"), self.is_local) from error


_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again (finished work is kept)",
    errno.EDQUOT: "the quota is used up: raise it, then run the same command again (finished work is kept)",
    errno.EFBIG: "a limit on file sizes is reached: raise it, then run the same command again (finished work is kept)",
    errno.EROFS: "the file system is read-only: pass another store or mount it writable",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away or pass another store",
    errno.EEXIST: "a file stands where a folder is needed: move it away or pass another store",
    errno.EISDIR: "a folder stands where an object is needed: move it away or pass another store",
    errno.ENAMETOOLONG: "the path is too long for this file system: pass a store with a shorter path",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n), then run the same command again",
}


def _explain(error: Exception, verb: str, where: str, is_local: bool) -> DataError:
    """What an error of a back end means to the user: data that is not there, or a store that does not serve."""
    is_reading = not verb.startswith(("write", "list", "look"))
    if isinstance(error, FileNotFoundError) and is_reading:
        return DataError(f"cannot {verb} {where}: there is no such object; check the URI, or run the stage that makes it")
    if isinstance(error, FileNotFoundError):
        found = "its folder was removed meanwhile" if is_local else "there is no such bucket"
        return StoreError(f"cannot {verb} {where}: {found}; create it, then run the same command again")
    if isinstance(error, IsADirectoryError) and is_reading:
        return DataError(f"cannot {verb} {where}: expected an object, found a folder; name an object inside it")
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, PermissionError):
        text = "operation not permitted" if number == errno.EPERM else "permission denied"
        return StoreError(f"cannot {verb} {where}: {text}; check credentials, mount and file mode ({error})")
    remedy = _REMEDIES.get(number or 0, "check that the store is reachable, then run the same command again")
    text = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return StoreError(f"cannot {verb} {where}: {text}; {remedy}")


def _local_root(uri: str, path: str) -> Path:
    root = Path(path).expanduser()
    if "://" in uri and not root.is_absolute():
        raise StoreError(f"store {uri!r}: expected file:///absolute/folder with three slashes, found a relative path; write it in full")
    return root.absolute()


def _checked(key: str) -> str:
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts or "\0" in key:
        raise DataError(f"expected a relative key inside the store, found {key!r}; leave out leading slashes and '..'")
    _refuse_patterns(key, f"key {key!r}")
    return str(PurePosixPath(key))


def _refuse_patterns(text: str, what: str) -> None:
    """Object-store clients read these characters as patterns, so that a deletion could take more than it was asked to."""
    if found := sorted(set("*?[") & set(text)):
        raise DataError(f"{what}: expected a name without the characters * ? [, found {' '.join(found)}; rename it")
