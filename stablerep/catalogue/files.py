"""The tables of the catalogue as Parquet files in a store, and what was true as of a moment.

    catalogue/<table>/<name>.parquet

A file is replaced as a whole and never shared by two writers, so runs that share a store lose no row and need no lock, on object stores
too. Registering again is harmless. Readers take, per key, the row with the latest event time. Feast reads the same files.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stablerep.catalogue.tables import SPACES, TABLES, TIMES, TIMESTAMP, Table, embeddings_table
from stablerep.errors import DataError, StoreError
from stablerep.store import Store

FOLDER = "catalogue"


def keys_of(store: Store, table: Table) -> list[str]:
    """Keys of the files of a table."""
    folder = f"{FOLDER}/{table.name}"
    return [key for key in store.list(folder) if key.endswith(".parquet")] if store.exists(folder) else []


def all_tables(store: Store) -> list[Table]:
    """The fixed tables, then those of embeddings that are there."""
    names = {key.split("/")[1] for key in (store.list(FOLDER) if store.exists(FOLDER) else [])}
    found = [(space, name.removeprefix(f"{space}_")) for name in sorted(names) for space in SPACES if name.startswith(f"{space}_")]
    return [*TABLES.values(), *(embeddings_table(f"model-{model}", space) for space, model in found)]


def write_rows(store: Store, table: Table, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a file of a table, replacing what was under its name."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=table.schema), buffer)
    store.write(key_of(table, name), buffer.getvalue())


def key_of(table: Table, name: str) -> str:
    """Key of a file of a table."""
    return f"{FOLDER}/{table.name}/{name}.parquet"


def read_file(store: Store, table: Table, key: str) -> pa.Table:
    """The rows of one file; columns that it was written without are null.

    Raises:
        DataError: it is not a Parquet file of the table.
    """
    try:
        return pq.read_table(io.BytesIO(store.read(key)), schema=table.schema)
    except StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{store.uri_of(key)}: expected a Parquet table of {table.name}: {error}; delete it and run again") from error


def rows_as_of(store: Store, table: Table, when: datetime | None = None, prefix: str = "") -> pa.Table:
    """One row per key, sorted by key: what was true at `when`.

    Args:
        store: where the catalogue is.
        table: which.
        when: a moment; None for the latest of each.
        prefix: only files whose name starts so.

    Raises:
        DataError: a file is damaged.
    """
    keys = [key for key in keys_of(store, table) if key.rpartition("/")[2].startswith(prefix)]
    found = pa.concat_tables([table.schema.empty_table(), *(read_file(store, table, key) for key in keys)])
    if when is not None:
        found = found.filter(pc.less_equal(found["event_timestamp"], pa.scalar(when, TIMESTAMP)))
        if table.ttl_days:
            found = found.filter(pc.greater_equal(found["event_timestamp"], pa.scalar(when - table.ttl, TIMESTAMP)))
    return latest(table, found)


def latest(table: Table, rows: pa.Table) -> pa.Table:
    """The last row of each key by event time, then by time of registration; where both are equal, the larger model id."""
    ties = ["model_id"] if "model_id" in rows.column_names and "model_id" not in table.keys else []
    order = [(name, "ascending") for name in (*table.keys, *TIMES, *ties)]
    ordered = rows.take(pc.sort_indices(rows, sort_keys=order))
    if len(ordered) < 2:
        return ordered
    is_last = pa.array([False] * (len(ordered) - 1))
    for name in table.keys:
        column = ordered[name].combine_chunks()
        is_last = pc.or_(is_last, pc.not_equal(column.slice(0, len(column) - 1), column.slice(1)))
    return ordered.filter(pa.concat_arrays([is_last, pa.array([True])]))
