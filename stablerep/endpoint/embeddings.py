"""A file of embeddings that survives a kill: Parquet or npy, with a journal beside it while it grows.

Every answer is appended to `<file>.journal` (a line of JSON each) as it comes; the file itself is written once, whole, at the end, and the
journal removed. Whoever runs again finds what the journal and an earlier file of the same model hold. A last line that a kill cut
short is dropped. Rows stand in the order of the sources, without times, so an interrupted and continued file is the file of one run.

    Parquet: path (or text), sha256, embedding (fixed-size list of float32, null where refused), error (null where not)
    npy:     float32 [N, F], NaN where refused; `<file>.jsonl` beside it says path, sha256 and error of every row

Dimension key: N rows, F embedding.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stablerep.errors import ConfigError, DataError
from stablerep.identity import sha256_bytes

Array = np.ndarray[Any, np.dtype[np.float32]]
_FORMAT = "stablerep-embeddings-1"
_ROW_GROUP = 8_192
_SUFFIXES = (".parquet", ".npy")


@dataclass(frozen=True)
class Kind:
    """What all rows of a file have in common; `key` names their first column: path or text."""

    model_id: str
    is_normalised: bool
    key: str
    format: str = _FORMAT


@dataclass(frozen=True)
class Row:
    """One source: its name and digest, and an embedding or why there is none."""

    key: str
    sha256: str
    embedding_F: Array | None = None
    error: str | None = None


class EmbeddingsFile:
    """A file of embeddings, perhaps begun.

    Args:
        path: ends with .parquet or .npy.
        kind: what its rows have in common.

    Raises:
        ConfigError: another ending, or what is there is of another kind.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        if path.suffix not in _SUFFIXES:
            raise ConfigError(f"{path}: expected a file that ends with .parquet or .npy")
        self._path, self._kind = path, kind
        self._journal_path = path.with_name(f"{path.name}.journal")
        self.known = {row.key: row for row in (*self._finished(), *self._journalled())}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._journal = self._journal_path.open("ab")
        if not self._journal.tell():
            self._append(asdict(kind))

    def keep(self, rows: Sequence[Row]) -> None:
        """Append embedded rows to the journal; refused ones are not kept, they are asked again."""
        for row in rows:
            if row.embedding_F is not None and self.known.get(row.key) is not row:
                numbers = base64.b64encode(row.embedding_F.astype("<f4").tobytes()).decode("ascii")
                self._append({"key": row.key, "sha256": row.sha256, "embedding": numbers})
        self._journal.flush()

    def close(self) -> None:
        """Leave the journal for the next run."""
        self._journal.close()

    def finish(self, rows: Sequence[Row]) -> None:
        """Write the file and remove the journal.

        Args:
            rows: all of them, in the order of the file.
        """
        self._journal.close()
        if self._path.suffix == ".npy":
            self._write_npy(rows)
        else:
            _write_whole(self._path, _parquet(rows, self._kind))
        self._journal_path.unlink()

    def _append(self, value: dict[str, Any]) -> None:
        self._journal.write(json.dumps(value).encode("utf-8") + b"\n")

    def _journalled(self) -> Iterator[Row]:
        if not self._journal_path.exists():
            return
        content = self._journal_path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._journal_path.write_bytes(whole)
        lines = whole.splitlines()
        if lines:
            self._require_same(self._journal_path, json.loads(lines[0]))
        for line in lines[1:]:
            value = json.loads(line)
            yield Row(value["key"], value["sha256"], np.frombuffer(base64.b64decode(value["embedding"]), "<f4"))

    def _finished(self) -> Iterator[Row]:
        if not self._path.exists():
            return
        yield from self._read_npy() if self._path.suffix == ".npy" else self._read_parquet()

    def _read_parquet(self) -> Iterator[Row]:
        try:
            table = pq.read_table(self._path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ConfigError(f"{self._path}: expected a Parquet file of embeddings, found another: {error}; name another file") from error
        self._require_same(self._path, json.loads((table.schema.metadata or {}).get(b"stablerep", b"{}")))
        names, digests = table[self._kind.key].to_pylist(), table["sha256"].to_pylist()
        for name, sha256, numbers in zip(names, digests, table["embedding"], strict=True):
            if numbers.is_valid:
                yield Row(name, sha256, numbers.values.to_numpy())

    def _read_npy(self) -> Iterator[Row]:
        rows_path = self._rows_path
        if not rows_path.exists():
            raise ConfigError(f"{self._path}: expected {rows_path.name} beside it, found none; name another file")
        lines = [json.loads(line) for line in rows_path.read_bytes().splitlines()]
        content = self._path.read_bytes()
        self._require_same(rows_path, {key: value for key, value in lines[0].items() if key != "npy_sha256"})
        if lines[0]["npy_sha256"] != sha256_bytes(content):
            return  # a kill between the two files: the journal has what is new
        for value, embedding_F in zip(lines[1:], np.load(BytesIO(content), allow_pickle=False), strict=True):
            if value["error"] is None:
                yield Row(value[self._kind.key], value["sha256"], embedding_F)

    def _require_same(self, path: Path, found: dict[str, Any]) -> None:
        expected = asdict(self._kind)
        if found != expected:
            differing = [f"{name}={found.get(name)!r}" for name in expected if found.get(name) != expected[name]]
            wanted = ", ".join(f"{name}={value!r}" for name, value in expected.items())
            raise ConfigError(f"{path}: expected embeddings with {wanted}, found {', '.join(differing)}; remove it or name another file")

    @property
    def _rows_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.jsonl")

    def _write_npy(self, rows: Sequence[Row]) -> None:
        matrix, content = _matrix(rows), BytesIO()
        np.save(content, matrix, allow_pickle=False)
        header = asdict(self._kind) | {"npy_sha256": sha256_bytes(content.getvalue())}
        lines = [header, *({self._kind.key: row.key, "sha256": row.sha256, "error": row.error} for row in rows)]
        _write_whole(self._rows_path, "".join(json.dumps(line) + "\n" for line in lines).encode("utf-8"))
        _write_whole(self._path, content.getvalue())


def _matrix(rows: Sequence[Row]) -> Array:
    width = next((len(row.embedding_F) for row in rows if row.embedding_F is not None), 0)
    matrix_NF = np.full((len(rows), width), np.nan, np.float32)
    for position, row in enumerate(rows):
        if row.embedding_F is not None:
            matrix_NF[position] = row.embedding_F
    return matrix_NF


def _parquet(rows: Sequence[Row], kind: Kind) -> bytes:
    width = next((len(row.embedding_F) for row in rows if row.embedding_F is not None), 0)
    fields = [(kind.key, pa.string()), ("sha256", pa.string()), ("embedding", pa.list_(pa.float32(), width)), ("error", pa.string())]
    schema = pa.schema(fields, metadata={"stablerep": json.dumps(asdict(kind))})
    content = BytesIO()
    with pq.ParquetWriter(content, schema) as writer:
        for start in range(0, len(rows), _ROW_GROUP):
            part = rows[start : start + _ROW_GROUP]
            columns = [
                pa.array([row.key for row in part], pa.string()),
                pa.array([row.sha256 for row in part], pa.string()),
                pa.array([row.embedding_F for row in part], pa.list_(pa.float32(), width)),
                pa.array([row.error for row in part], pa.string()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return content.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; what was answered is kept in the journal, run again") from error
    temporary.replace(path)
