"""Objects on an object store (s3://, gs://, ...) through fsspec: one put is atomic, nothing is cached.

fsspec's listing cache is off, so that what another process wrote is seen. The file system is opened anew in a forked process
(fsspec's loops and sockets do not survive a fork), so data-loader workers may share a store. Credentials and endpoints come from the
environment as the back ends read them. botocore tries a server that does not answer five times with growing pauses, up to 15 s and far
longer where packets are dropped; an impatient store, which only looks whether anything answers, tries once.
Raises what the back end raises; `stablerep.store.store` explains it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import errno
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from stablerep.store.local import temporary_beside

_IS_THERE = ("PreconditionFailed", "conditionNotMet", "ConditionalRequestConflict", "pre-conditions")  # how servers say it
_IMPATIENT = {"retries": {"max_attempts": 0}, "connect_timeout": 3, "read_timeout": 5}


class RemoteObjects:
    """Objects under a URI prefix; the empty key is the prefix itself. `is_patient` is heeded by s3:// only."""

    def __init__(self, uri: str, *, is_patient: bool = True) -> None:
        self._uri, self._is_patient = uri, is_patient
        self._opened: tuple[int, Any, str] | None = None
        self._file_system()

    def __getstate__(self) -> dict[str, Any]:
        return {"_uri": self._uri, "_is_patient": self._is_patient, "_opened": None}

    def exists(self, key: str) -> bool:
        """Whether an object, or a folder with objects, is there."""
        return bool(self._file_system().exists(self._path(key)))

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, or None where there is no object."""
        try:
            found = self._file_system().info(self._path(key))
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def sizes(self, prefix: str) -> dict[str, int]:
        """Size in bytes of every object under a prefix."""
        file_system, root = self._file_system(), self._path("")
        try:
            found = file_system.find(self._path(prefix), detail=True)
        except FileNotFoundError:
            return {}
        files = ((str(path)[len(root) :].lstrip("/"), info) for path, info in found.items() if info["type"] == "file")
        return {key: int(info["size"]) for key, info in files if key and not key.endswith("/")}  # folder markers are no objects

    def read(self, key: str) -> bytes:
        """The whole object."""
        return cast("bytes", self._file_system().cat_file(self._path(key)))

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes [start, end) of each range, requested at once; shorter where the object ends earlier."""
        starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
        answers = self._file_system().cat_ranges([self._path(key)] * len(ranges), starts, ends, on_error="return")
        return [self._range(key, start, answer) for start, answer in zip(starts, answers, strict=True)]

    def _range(self, key: str, start: int, answer: Any) -> bytes:
        if isinstance(answer, OSError) and answer.errno == errno.EINVAL and start >= (self.size(key) or 0):
            return b""  # S3 refuses a range that starts behind the end
        if isinstance(answer, BaseException):
            raise answer
        return cast("bytes", answer)

    @contextmanager
    def open(self, key: str) -> Generator[IO[bytes]]:
        """A seekable reader."""
        with self._file_system().open(self._path(key), "rb") as stream:
            yield cast("IO[bytes]", stream)

    def write(self, key: str, content: bytes) -> None:
        """Put an object; large ones go in parts that become visible together."""
        self._file_system().pipe_file(self._path(key), content)

    def write_new(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one: `If-None-Match: *` on S3, generation 0 on GCS; the server decides."""
        try:
            self._file_system().pipe_file(self._path(key), content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if any(word in str(error) for word in _IS_THERE):
                return False
            raise
        return True

    def put(self, path: Path, key: str) -> None:
        """Copy a file in."""
        self._file_system().put_file(str(path), self._path(key))

    def get(self, key: str, path: Path) -> None:
        """Copy an object out."""
        with temporary_beside(path) as temporary:
            self._file_system().get_file(self._path(key), str(temporary))

    def delete(self, key: str) -> None:
        """Remove an object or all objects under a prefix."""
        if self.exists(key):
            with suppress(FileNotFoundError):  # another process removed it meanwhile
                self._file_system().rm(self._path(key), recursive=True)

    def _path(self, key: str) -> str:
        self._file_system()
        root = cast("tuple[int, Any, str]", self._opened)[2]
        return f"{root}/{key}" if key else root

    def _file_system(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec.config  # only where it is needed: local stores open faster without

            options: dict[str, Any] = {"use_listings_cache": False}
            if not self._is_patient and self._uri.startswith("s3://"):
                options["config_kwargs"] = fsspec.config.conf.get("s3", {}).get("config_kwargs", {}) | _IMPATIENT
            file_system, root = fsspec.core.url_to_fs(self._uri, **options)
            self._opened = (os.getpid(), file_system, str(root).rstrip("/"))
        return self._opened[1]
