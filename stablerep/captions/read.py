"""Captions from a file: .txt (one a line), .csv, .tsv, .jsonl or .parquet, at a path or any fsspec URI, or `packaged:<name>`.

Rows are read as a stream and carry their provenance: name of the file and line or row. CSV is quoted as RFC 4180 says; in TSV a quote
is a character like any other (as in Conceptual Captions). Nothing is cleaned here, and a row that cannot be understood is an error
with its line, never skipped; blank lines are no rows, except in .txt, where they count as empty captions.
"""

import csv
import difflib
import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import unquote

from stablerep.captions.parquet import parquet_rows
from stablerep.captions.prompt_set import LABEL
from stablerep.captions.synthesis import CONCEPTS, Synthesis, concept_rows
from stablerep.errors import CaptionError, StablerepError, StoreError

PACKAGED = "packaged:"
Row = tuple[str, dict[str, Any]]
_BUFFER_BYTES = 1 << 20


def read_captions(
    source: str, column: str, *, num_captions: int = 0, seed: int = 0, label_column: str = "", synthesis: Synthesis | None = None
) -> Generator[Row]:
    """Texts as they are written in `source`, each with where it came from.

    Args:
        source: path, URI, `packaged:<name>`, or `concepts:` and the path or URI of a list of concepts, one a line.
        column: name of the column or JSON key with the captions; not used for .txt and packaged captions.
        num_captions: packaged captions and concepts: how many to draw or make, equally many of each class; 0 for all. Files are read whole.
        seed: of that draw.
        label_column: name of the column or JSON key with the captions' classes, empty for none; packaged captions bring theirs.
        synthesis: how captions are made of concepts; default: by templates.

    Yields:
        The text and its provenance: `source` with `line`, `row` or `source_index`, counted from 1, 0 and 0; `label`, the class, where
        there is one.

    Raises:
        CaptionError: the source is missing, empty, of an unknown kind, not UTF-8, has no such column, or has a malformed row.
        StoreError: the object store does not answer.
    """
    num_rows = 0
    with _explained(source):
        if source.startswith(CONCEPTS):
            concepts = read_lines(source.removeprefix(CONCEPTS))
            rows = concept_rows(PurePosixPath(source).name, concepts, synthesis or Synthesis(), num_captions=num_captions, seed=seed)
        else:
            rows = _rows(source, column, label_column, num_captions, seed)
        for row in rows:
            num_rows += 1
            yield row
    if num_rows == 0:
        raise CaptionError(f"{source}: expected captions, found no rows; write at least one")


def read_lines(source: str) -> list[str]:
    """Lines of a text file at a path or URI, each once, without blank ones and comments (#); raises as `read_captions`."""
    with _explained(source), _open(source) as stream:
        texts = [text.strip() for _, text in _lines(stream, source)]
    return list(dict.fromkeys(text for text in texts if text and not text.startswith("#")))


def check_source(source: str, column: str) -> str:
    """One sentence about a source whose first caption can be read (a packaged one is only looked up); raises as `read_captions`."""
    if source.startswith(PACKAGED):
        from stablerep.captions.packaged import check_packaged

        check_packaged(source.removeprefix(PACKAGED))
        return f"{source} ships inside a package"
    if source.startswith(CONCEPTS):
        concepts = read_lines(source.removeprefix(CONCEPTS))
        if not concepts:
            raise CaptionError(f"{source}: expected concepts, one a line, found none; write at least one")
        return f"{source} holds {len(concepts)} concepts; the first is {concepts[0][:60]!r}"
    with closing(read_captions(source, column)) as rows:
        text, _ = next(rows)
    return f"{source} is readable; it starts with {text[:60]!r}"


def _rows(source: str, column: str, label_column: str, num_captions: int, seed: int) -> Iterator[Row]:
    if source.startswith(PACKAGED):
        yield from _packaged_rows(source, num_captions, seed)
        return
    suffix = PurePosixPath(source.partition("?")[0] if "://" in source else source).suffix.lower()
    if suffix not in _READERS:
        expected = f"{PACKAGED}<name> or a file ending in {', '.join(_READERS)}"
        raise CaptionError(f"{source}: expected {expected}, found {suffix or 'no ending'}; convert or rename it")
    with _open(source) as stream:
        if not stream.read(1):
            raise CaptionError(f"{source}: expected captions, found an empty file; write at least one")
        stream.seek(0)
        name = (_local_path(source) or PurePosixPath(source)).name
        for text, place in _READERS[suffix](stream, source, column, label_column):
            place["source"] = name
            yield text, place


def _packaged_rows(source: str, num_captions: int, seed: int) -> Iterator[Row]:
    from stablerep.captions.packaged import caption_corpus, load_packaged

    name = source.removeprefix(PACKAGED)
    part = load_packaged(name)
    if num_captions:
        drawn = caption_corpus(name, num_captions, seed)
    else:
        drawn = [(text, source_index) for source_index, text in enumerate(part.captions)]
    for text, source_index in drawn:
        yield text, {"source": source, "source_index": source_index, LABEL: part.class_names[int(part.labels[source_index])]}


def _text_rows(stream: IO[bytes], source: str, column: str, label_column: str) -> Iterator[Row]:
    if label_column:
        raise CaptionError(f"{source}: expected a table with captions.label_column={label_column}, found plain text; convert it to .csv")
    for line, text in _lines(stream, source):
        yield text.rstrip("\r\n"), {"line": line}


def _csv_rows(stream: IO[bytes], source: str, column: str, label_column: str) -> Iterator[Row]:
    return _table_rows(source, column, label_column, csv.reader(_texts(stream, source), strict=True))


def _tsv_rows(stream: IO[bytes], source: str, column: str, label_column: str) -> Iterator[Row]:
    reader = csv.reader(_texts(stream, source), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    return _table_rows(source, column, label_column, reader)


def _table_rows(source: str, column: str, label_column: str, rows: Any) -> Iterator[Row]:
    """Rows of a csv.reader whose first row names the columns."""
    try:
        header = cast("list[str]", next(rows, None) or [])
        check_column(source, column, header)
        place, label_place = header.index(column), _label_place(source, label_column, header)
        for row in cast("Iterable[list[str]]", rows):
            if row and len(row) != len(header):
                raise CaptionError(
                    f"{source}, line {rows.line_num}: expected {len(header)} fields as in the header, found {len(row)}; "
                    "quote a field that holds the separator (.csv) or remove it (.tsv)"
                )
            if row:
                yield row[place], {"line": int(rows.line_num)} | _label(row[label_place] if label_place is not None else None)
    except csv.Error as error:
        raise CaptionError(f"{source}, line {rows.line_num}: expected a row of fields, found: {error}; check its quotes") from error


def _label_place(source: str, label_column: str, header: list[str]) -> int | None:
    if not label_column:
        return None
    check_column(source, label_column, header, "captions.label_column")
    return header.index(label_column)


def _label(value: Any) -> dict[str, str]:
    """The class as part of the provenance; nothing where it is missing."""
    return {} if value is None or value == "" else {LABEL: str(value)}


def _jsonl_rows(stream: IO[bytes], source: str, column: str, label_column: str) -> Iterator[Row]:
    for line, text in _lines(stream, source):
        if not text.strip():
            continue
        where = f"{source}, line {line}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CaptionError(f"{where}: expected a JSON object, found {text.strip()[:60]!r} ({error}); correct the line") from error
        if not isinstance(row, dict):
            raise CaptionError(f"{where}: expected a JSON object, found {type(row).__name__}; write {{{json.dumps(column)}: ...}}")
        values = cast("dict[str, Any]", row)
        check_column(where, column, list(values))
        value = "" if values[column] is None else values[column]
        if not isinstance(value, str):
            raise CaptionError(f"{where}: expected text in {column!r}, found {type(value).__name__} {value!r:.60}; write it as a string")
        yield value, {"line": line} | _label(values.get(label_column) if label_column else None)


def _parquet_rows(stream: IO[bytes], source: str, column: str, label_column: str) -> Iterator[Row]:
    def check(columns: list[str]) -> None:
        check_column(source, column, columns)
        _label_place(source, label_column, columns)

    rows = parquet_rows(stream, source, check, column, label_column)
    return ((text, place | _label(label)) for text, place, label in rows)


_READERS: dict[str, Callable[[IO[bytes], str, str, str], Iterator[Row]]] = {
    ".txt": _text_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}


def check_column(where: str, column: str, columns: list[str], setting: str = "captions.column") -> None:
    """Whether there is such a column.

    Raises:
        CaptionError: there is none; lists those there are and the closest.
    """
    if column in columns:
        return
    close = difflib.get_close_matches(column, columns, n=1)
    guess = f", did you mean {close[0]!r}?" if close else ";"
    listed = ", ".join(columns[:20]) + (" ..." if len(columns) > 20 else "")
    raise CaptionError(f"{where}: expected a column {column!r}, found the columns {listed}{guess} set {setting}")


def _lines(stream: IO[bytes], source: str) -> Iterator[tuple[int, str]]:
    """Lines with their number from 1, a byte order mark taken off."""
    offset = 0
    for number, raw in enumerate(stream, 1):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            kind = "UTF-16" if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else f"byte 0x{raw[error.start]:02x}"
            place = f"at byte {offset + error.start} (line {number})"
            raise CaptionError(f"{source}: expected UTF-8, found {kind} {place}; save the file as UTF-8") from error
        offset += len(raw)
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def _texts(stream: IO[bytes], source: str) -> Iterator[str]:
    return (text for _, text in _lines(stream, source))


@contextmanager
def _open(source: str) -> Generator[IO[bytes]]:
    if (path := _local_path(source)) is not None:
        with path.open("rb") as stream:
            yield stream
        return
    import fsspec

    try:
        opened = cast("Any", fsspec.open(source, "rb"))  # pyright: ignore[reportUnknownMemberType]
    except (ImportError, ValueError) as error:
        raise CaptionError(f"{source}: expected a path or a URI whose package is installed: {error}; check the scheme") from error
    with opened as stream, io.BufferedReader(stream, _BUFFER_BYTES) as buffered:
        yield buffered


def _local_path(source: str) -> Path | None:
    if source.startswith("file://"):
        return Path(unquote(source.removeprefix("file://")))
    return None if "://" in source else Path(source).expanduser()


@contextmanager
def _explained(source: str) -> Generator[None]:
    try:
        yield
    except StablerepError:
        raise
    except FileNotFoundError as error:
        raise CaptionError(f"{source}: expected a file with captions, found nothing there; check captions.source") from error
    except IsADirectoryError as error:
        raise CaptionError(f"{source}: expected a file with captions, found a folder; name one file inside it") from error
    except PermissionError as error:
        raise CaptionError(f"{source}: cannot be read, permission denied; check credentials and file mode") from error
    except Exception as error:
        is_remote = not source.startswith(PACKAGED) and _local_path(source) is None
        if not is_remote and not isinstance(error, OSError):
            raise
        text = f"{type(error).__name__}: {error}"
        raise StoreError(f"{source}: cannot be read, {text}; check that it can be reached, then run the same command again") from error
