"""Captions from a Parquet file, a few thousand rows at a time; only the columns that are asked for are read."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable, Iterator
from typing import IO, Any

from stablerep.errors import CaptionError

_ROWS_AT_ONCE = 8192


def parquet_rows(
    stream: IO[bytes], source: str, check_columns: Callable[[list[str]], None], column: str, label_column: str = ""
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Texts of one column with their row, counted from 0, and their class; missing values are empty texts.

    Args:
        stream: the seekable file.
        source: its name, for messages.
        check_columns: raises when the columns there are do not hold the one asked for.
        column: a column of text.
        label_column: a column of classes, empty for none.

    Raises:
        CaptionError: not a Parquet file, a column that is not text, or text that is not UTF-8.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table: Any = parquet.ParquetFile(stream)
        check_columns(list(table.schema_arrow.names))
        kind = table.schema_arrow.field(column).type
        if not _is_text(kind):
            raise CaptionError(f"{source}: expected text in column {column!r}, found {kind}; set captions.column to a column of text")
        row = 0
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[column, *([label_column] if label_column else [])]):
            labels = batch.column(label_column).to_pylist() if label_column else [None] * len(batch)
            for value, label in zip(batch.column(column), labels, strict=True):
                yield _text(value, source, row), {"row": row}, label
                row += 1
    except pa.ArrowException as error:
        raise CaptionError(f"{source}: expected a Parquet file, found one that cannot be read ({error}); write it anew") from error


def _text(value: Any, source: str, row: int) -> str:
    try:
        return value.as_py() or ""
    except UnicodeDecodeError as error:
        raise CaptionError(
            f"{source}, row {row}: expected UTF-8, found byte {error.start} that is not; save the column as UTF-8"
        ) from error


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
