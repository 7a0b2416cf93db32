"""The catalogue as Parquet files in the store: one table a folder, one file per thing that was registered.

    catalogue/groups/<dataset_id>.parquet                    a row per group
    catalogue/evaluations/<model_id>.<suite>.parquet         one row
    catalogue/champions/<suite>.<time>.<model_id>.parquet    one row per promotion

A file is replaced as a whole and never shared by two writers, so runs that share a store lose no row and need no lock, on object stores
too. Registering again is harmless. Readers take, per key, the row with the latest event time. Feast reads the same files.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stablerep.catalogue.catalogue import Champion, GroupRow
from stablerep.errors import DataError
from stablerep.records import DatasetRef, Evaluation
from stablerep.store import Store

FOLDER = "catalogue"
_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()
_TIMES = {"event_timestamp": pa.timestamp("us", tz="UTC"), "created": pa.timestamp("us", tz="UTC")}
_HEADLINE = {"accuracy": _REAL, "low": _REAL, "high": _REAL, "uri": _TEXT}

KEYS: dict[str, tuple[str, ...]] = {"groups": ("group_id",), "evaluations": ("model_id", "suite"), "champions": ("suite",)}
SCHEMAS: dict[str, pa.Schema] = {
    "groups": pa.schema(
        {
            "group_id": _TEXT,
            "dataset_id": _TEXT,
            "caption_id": _TEXT,
            "caption": _TEXT,
            "shard_index": _WHOLE,
            "num_images": _WHOLE,
            "generator_id": _TEXT,
            "guidance": _REAL,
            "agreement": _REAL,
            **_TIMES,
        }
    ),
    "evaluations": pa.schema({"model_id": _TEXT, "suite": _TEXT, **_HEADLINE, "record": _TEXT, **_TIMES}),
    "champions": pa.schema({"suite": _TEXT, "model_id": _TEXT, **_HEADLINE, "promoted_at": _TEXT, **_TIMES}),
}


class ParquetCatalogue:
    """Facts in Parquet files; implements `Catalogue` without Feast."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def register_dataset(self, dataset: DatasetRef, rows: Iterable[GroupRow], when: str) -> None:
        """Add or replace the groups of a data set; see `Catalogue`.

        Raises:
            DataError: `when` is not a time with an offset.
        """
        common = {"dataset_id": dataset.dataset_id, "generator_id": dataset.generator_id, **_times(when)}
        found = [asdict(row) | common | {"group_id": f"{dataset.dataset_id}/{row.caption_id}"} for row in rows]
        self._write("groups", dataset.dataset_id, found)

    def register_evaluation(self, evaluation: Evaluation, when: str) -> None:
        """Add or replace what a model reached on a suite; see `Catalogue`.

        Raises:
            DataError: `when` is not a time with an offset.
        """
        row = _headline(evaluation) | {"record": evaluation.to_json()} | _times(when)
        self._write("evaluations", f"{evaluation.model_id}.{evaluation.suite}", [row])

    def has_evaluation(self, evaluation: Evaluation) -> bool:
        """Whether exactly this evaluation is registered."""
        return self.evaluation(evaluation.model_id, evaluation.suite) == evaluation

    def evaluation(self, model_id: str, suite: str) -> Evaluation | None:
        """What a model reached on a suite, or None."""
        key = _key("evaluations", f"{model_id}.{suite}")
        return Evaluation.from_json(self.part(key)[0]["record"]) if self.store.exists(key) else None

    def promote(self, model_id: str, suite: str, when: str) -> None:
        """Make a model the champion of a suite; see `Catalogue`.

        Raises:
            DataError: the model has no registered evaluation on the suite, or `when` is not a time with an offset.
        """
        times, evaluation, champion = _times(when), self.evaluation(model_id, suite), self.champion(suite)
        if evaluation is None:
            raise DataError(f"cannot promote {model_id}: expected its evaluation on {suite} in {self.store.uri}, found none; run probe")
        if champion is not None and champion.model_id == model_id:
            return
        moment: datetime = times["event_timestamp"]
        row = _headline(evaluation) | {"promoted_at": moment.isoformat()} | times
        self._write("champions", f"{suite}.{moment:%Y%m%dT%H%M%S.%fZ}.{model_id}", [row])

    def champion(self, suite: str) -> Champion | None:
        """The champion of a suite, or None; see `Catalogue`."""
        keys = [key for key in self.parts("champions") if key.startswith(_key("champions", f"{suite}.").removesuffix(".parquet"))]
        rows = latest("champions", (row for key in keys for row in self.part(key)))
        return champion_of(rows[0]) if rows else None

    def parts(self, table: str) -> list[str]:
        """Keys of the files of a table."""
        folder = f"{FOLDER}/{table}"
        return [key for key in self.store.list(folder) if key.endswith(".parquet")] if self.store.exists(folder) else []

    def part(self, key: str) -> list[dict[str, Any]]:
        """The rows of one file.

        Raises:
            DataError: it is not a Parquet file of the catalogue.
        """
        table = key.split("/")[1]
        try:
            return pq.read_table(io.BytesIO(self.store.read(key)), schema=SCHEMAS[table]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.store.uri_of(key)}: expected a Parquet table of {table}: {error}; delete it and run again") from error

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table, one per key, the latest of each."""
        return latest(table, (row for key in self.parts(table) for row in self.part(key)))

    def _write(self, table: str, name: str, rows: Sequence[dict[str, Any]]) -> None:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMAS[table]), buffer)
        self.store.write(_key(table, name), buffer.getvalue())


def latest(table: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per key: the latest by event time, then by time of registration; sorted by key."""
    chosen: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(str(row[column]) for column in KEYS[table])
        if key not in chosen or _order(row) > _order(chosen[key]):
            chosen[key] = row
    return [chosen[key] for key in sorted(chosen)]


def champion_of(row: dict[str, Any]) -> Champion:
    """The champion in a row of the table."""
    return Champion(**{name: row[name] for name in ("suite", "model_id", "accuracy", "low", "high", "uri", "promoted_at")})


def _key(table: str, name: str) -> str:
    return f"{FOLDER}/{table}/{name}.parquet"


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "model_id": evaluation.model_id,
        "suite": evaluation.suite,
        "accuracy": evaluation.headline,
        "low": evaluation.headline_low,
        "high": evaluation.headline_high,
        "uri": evaluation.uri,
    }


def _order(row: dict[str, Any]) -> tuple[datetime, datetime, str]:
    return row["event_timestamp"], row["created"], str(row.get("model_id", ""))


def _times(when: str) -> dict[str, datetime]:
    try:
        moment = datetime.fromisoformat(when)
    except ValueError as error:
        raise DataError(f"catalogue: expected a time such as 2026-11-23T05:40:00+00:00, found {when!r}") from error
    if moment.tzinfo is None:
        raise DataError(f"catalogue: expected a time with an offset (+00:00 or Z), found {when!r}")
    return {"event_timestamp": moment.astimezone(UTC), "created": datetime.now(UTC)}
