"""The catalogue without Feast: facts in Parquet files (`files`), looked up by reading them.

    captions/<lot>.<time>.parquet              groups/<dataset_id>.<time>.parquet        evaluations/<model_id>.<suite>.parquet
    champions/<suite>.<time>.<model_id>.parquet    endpoints/<endpoint>.<time>.parquet   <space>_<model>/reference.parquet

Captions, groups, promotions and endpoints keep their history: what was known as of a moment can be asked for later.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from stablerep.catalogue import files
from stablerep.catalogue.catalogue import CaptionRow, Champion, GroupRow, Neighbour, Reference, ReferenceImage, Served
from stablerep.catalogue.nearest import nearest
from stablerep.catalogue.tables import TABLES, embeddings_table
from stablerep.errors import DataError
from stablerep.identity import canonical_json
from stablerep.records import DatasetRef, Evaluation
from stablerep.store import Store


class ParquetCatalogue:
    """Facts in Parquet files; implements `Catalogue` without Feast. Every `register_*` and `promote` refuses a time without offset."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def register_captions(self, name: str, rows: Iterable[CaptionRow], when: str) -> None:
        """Add or replace captions; see `Catalogue`."""
        times = _times(when)
        self._write("captions", f"{name}.{_stamp(times)}", [asdict(row) | {"tags": list(row.tags)} | times for row in rows])

    def has_captions(self, name: str) -> bool:
        """Whether a lot of this name is registered."""
        return any(key.rpartition("/")[2].startswith(f"{name}.") for key in files.keys_of(self.store, TABLES["captions"]))

    def captions(self, when: str) -> list[CaptionRow]:
        """Captions as of a moment; see `Catalogue`."""
        return [caption_of(row) for row in files.rows_as_of(self.store, TABLES["captions"], moment(when)).to_pylist()]

    def register_dataset(self, dataset: DatasetRef, rows: Iterable[GroupRow], when: str) -> None:
        """Add or replace the groups of a data set; see `Catalogue`."""
        times = _times(when)
        common = {"dataset_id": dataset.dataset_id, "generator_id": dataset.generator_id, **times}
        found = [asdict(row) | common | _identified(dataset.dataset_id, row) for row in rows]
        self._write("groups", f"{dataset.dataset_id}.{_stamp(times)}", found)

    def has_groups(self, dataset_id: str) -> bool:
        """Whether the groups of a data set are registered."""
        return any(key.rpartition("/")[2].startswith(f"{dataset_id}.") for key in files.keys_of(self.store, TABLES["groups"]))

    def groups(self, dataset_id: str, when: str = "") -> list[dict[str, Any]]:
        """The groups of a data set as of a moment (empty: now), by id, each with its scores as columns of their own."""
        moment_or_now = moment(when) if when else None
        found = files.rows_as_of(self.store, TABLES["groups"], moment_or_now, prefix=f"{dataset_id}.")
        return [{**json.loads(row["scores"] or "{}"), **{k: v for k, v in row.items() if v is not None}} for row in found.to_pylist()]

    def register_reference(self, reference: Reference, when: str) -> None:
        """Add or replace what a model makes of a set of images; see `Catalogue`."""
        table, times = embeddings_table(reference.model_id, reference.space), _times(when)
        rows = [
            asdict(image) | {"image": image.image_id, "model_id": reference.model_id, "vector": vector.tolist()} | times
            for image, vector in zip(reference.images, reference.vectors_ND, strict=True)
        ]
        files.write_rows(self.store, table, "reference", rows)

    def has_reference(self, model_id: str, space: str) -> bool:
        """Whether a model has a reference set in a space."""
        return bool(files.keys_of(self.store, embeddings_table(model_id, space)))

    def reference(self, model_id: str, space: str) -> Reference | None:
        """What a model makes of its reference set, by image id, or None."""
        table = embeddings_table(model_id, space)
        rows = files.rows_as_of(self.store, table).to_pylist()
        if not rows:
            return None
        vectors_ND = np.array([row["vector"] for row in rows], np.float32)
        return Reference(model_id, space, tuple(image_of(row) for row in rows), vectors_ND)

    def nearest(self, model_id: str, space: str, query_D: Sequence[float], count: int) -> list[Neighbour]:
        """The nearest reference images; see `Catalogue`."""
        reference = self.reference(model_id, space)
        if reference is None:
            raise no_reference(model_id, space, self.store)
        ids = [image.image_id for image in reference.images]
        found = nearest(reference.vectors_ND, ids, query_D, count)
        return [Neighbour(reference.images[place], distance) for place, distance in found]

    def register_evaluation(self, evaluation: Evaluation, when: str) -> None:
        """Add or replace what a model reached on a suite; see `Catalogue`."""
        row = _headline(evaluation) | {"record": evaluation.to_json()} | _times(when)
        self._write("evaluations", f"{evaluation.model_id}.{evaluation.suite}", [row])

    def has_evaluation(self, evaluation: Evaluation) -> bool:
        """Whether exactly this evaluation is registered."""
        return self.evaluation(evaluation.model_id, evaluation.suite) == evaluation

    def evaluation(self, model_id: str, suite: str) -> Evaluation | None:
        """What a model reached on a suite, or None."""
        table = TABLES["evaluations"]
        key = files.key_of(table, f"{model_id}.{suite}")
        if not self.store.exists(key):
            return None
        return Evaluation.from_json(files.read_file(self.store, table, key)["record"][0].as_py())

    def evaluations(self, model_id: str) -> list[Evaluation]:
        """What a model reached on every suite, by suite."""
        rows = files.rows_as_of(self.store, TABLES["evaluations"], prefix=f"{model_id}.").to_pylist()
        return [Evaluation.from_json(row["record"]) for row in rows]

    def promote(self, model_id: str, suite: str, when: str) -> None:
        """Make a model the champion of a suite; see `Catalogue`."""
        times, evaluation, champion = _times(when), self.evaluation(model_id, suite), self.champion(suite)
        if evaluation is None:
            raise DataError(f"cannot promote {model_id}: expected its evaluation on {suite} in {self.store.uri}, found none; run probe")
        if champion is not None and champion.model_id == model_id:
            return
        row = _headline(evaluation) | {"promoted_at": times["event_timestamp"].isoformat()} | times
        self._write("champions", f"{suite}.{_stamp(times)}.{model_id}", [row])

    def champion(self, suite: str) -> Champion | None:
        """The champion of a suite, or None; see `Catalogue`."""
        rows = files.rows_as_of(self.store, TABLES["champions"], prefix=f"{suite}.").to_pylist()
        return champion_of(rows[0]) if rows else None

    def promotions(self, model_id: str) -> list[Champion]:
        """Every promotion of a model, in order."""
        table = TABLES["champions"]
        keys = [key for key in files.keys_of(self.store, table) if key.endswith(f".{model_id}.parquet")]
        rows = [files.read_file(self.store, table, key).to_pylist()[0] for key in keys]
        return sorted(map(champion_of, rows), key=lambda champion: champion.promoted_at)

    def register_served(self, served: Served, when: str) -> None:
        """Say which encoder an endpoint was verified with; see `Catalogue`."""
        times = _times(when)
        self._write("endpoints", f"{served.endpoint}.{_stamp(times)}", [asdict(served) | times])

    def served(self, model_id: str) -> list[tuple[Served, str]]:
        """Every deployment of a model that was verified, with the time, oldest first."""
        table = TABLES["endpoints"]
        rows = [row for key in files.keys_of(self.store, table) for row in files.read_file(self.store, table, key).to_pylist()]
        rows = sorted((row for row in rows if row["model_id"] == model_id), key=lambda row: row["event_timestamp"])
        return [(served_of(row), row["event_timestamp"].isoformat()) for row in rows]

    def is_served(self, served: Served) -> bool:
        """Whether this is what the endpoint was verified with last, however fast it was."""
        rows = files.rows_as_of(self.store, TABLES["endpoints"], prefix=f"{served.endpoint}.").to_pylist()
        return [replace(served_of(row), latency_p50_ms=served.latency_p50_ms) for row in rows] == [served]

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table, one per key, the latest of each."""
        return files.rows_as_of(self.store, TABLES[table]).to_pylist()

    def _write(self, table: str, name: str, rows: Sequence[dict[str, Any]]) -> None:
        files.write_rows(self.store, TABLES[table], name, rows)


def caption_of(row: dict[str, Any]) -> CaptionRow:
    """The caption in a row of the table."""
    return CaptionRow(row["caption_id"], row["caption"], row["label"] or "", tuple(row["tags"] or ()), row["source"] or "")


def champion_of(row: dict[str, Any]) -> Champion:
    """The champion in a row of the table."""
    return Champion(**{name: row[name] for name in ("suite", "model_id", "accuracy", "low", "high", "uri", "promoted_at")})


def served_of(row: dict[str, Any]) -> Served:
    """The endpoint in a row of the table."""
    return Served(**{name: row[name] for name in TABLES["endpoints"].columns})


def image_of(row: dict[str, Any]) -> ReferenceImage:
    """The image in a row of embeddings; its id is read from the features."""
    names = ("dataset_id", "caption_id", "caption", "position", "image_index")
    return ReferenceImage(row["image"], *(row[name] for name in names))


def no_reference(model_id: str, space: str, store: Store) -> DataError:
    """Nothing to search in."""
    return DataError(f"{model_id}: expected {space.replace('_', ' ')} of a reference set in {store.uri}, found none; run probe again")


def moment(when: str) -> datetime:
    """A time in UTC.

    Raises:
        DataError: it is no time, or has no offset.
    """
    try:
        parsed = datetime.fromisoformat(when)
    except ValueError as error:
        raise DataError(f"catalogue: expected a time such as 2026-11-23T05:40:00+00:00, found {when!r}") from error
    if parsed.tzinfo is None:
        raise DataError(f"catalogue: expected a time with an offset (+00:00 or Z), found {when!r}")
    return parsed.astimezone(UTC)


def _identified(dataset_id: str, row: GroupRow) -> dict[str, Any]:
    scores = dict(row.scores) if row.agreement is None else {"agreement": row.agreement, **row.scores}
    return {
        "group_id": f"{dataset_id}/{row.caption_id}",
        "agreement": scores.get("agreement"),
        "scores": canonical_json(scores),
    }


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "model_id": evaluation.model_id,
        "suite": evaluation.suite,
        "accuracy": evaluation.headline,
        "low": evaluation.headline_low,
        "high": evaluation.headline_high,
        "uri": evaluation.uri,
    }


def _stamp(times: dict[str, datetime]) -> str:
    return f"{times['event_timestamp']:%Y%m%dT%H%M%S.%fZ}"


def _times(when: str) -> dict[str, datetime]:
    return {"event_timestamp": moment(when), "created": datetime.now(UTC)}
