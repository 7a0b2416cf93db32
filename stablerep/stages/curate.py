"""curate: leave groups out of a data set by what the catalogue knew of them; a new data set id, the same shards.

The catalogue keeps its history, so "as of run X" means what was known when that run began to train. What was asked, and when it was true,
is kept beside the manifest and is no part of the id.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stablerep.catalogue import GroupRow, ParquetCatalogue
from stablerep.catalogue.query import parse_query
from stablerep.errors import DataError
from stablerep.identity import canonical_json
from stablerep.records import DatasetRef, Record
from stablerep.shards import GroupDataset, layout
from stablerep.shards.curated import write_curated
from stablerep.shards.dataset import find_dataset
from stablerep.store import Store


@dataclass(frozen=True)
class Curated(Record):
    """The new data set, and what became of the groups of the old one; `num_unknown` groups lack a value the query asks for."""

    dataset: DatasetRef
    curated_of: str
    query: str
    as_of: str
    num_left_out: int
    num_unknown: int


def curate(store_uri: str, query: str, *, dataset_id: str = "", keeps: bool = False) -> Curated:
    """Leave the groups that match a query out of a data set.

    Args:
        store_uri: URI of the store.
        query: see `catalogue.query`.
        dataset_id: which; empty for the one that was committed last.
        keeps: leave out the groups that do not match instead.

    Raises:
        ConfigError: the query cannot be understood, or names a fact that no group has.
        DataError: no such data set or run, or nothing (or everything) would be left out.
    """
    store, asked = Store(store_uri), parse_query(query)
    catalogue = ParquetCatalogue(store)
    dataset = _dataset(store, catalogue, dataset_id)
    when = run_moment(store, asked.run) if asked.run else asked.time
    rows = catalogue.groups(dataset.dataset_id, when)
    if not rows:
        raise DataError(f"expected groups of {dataset.dataset_id} in the catalogue as of {when or 'now'}, found none; run commit again")
    asked.check_names({name for row in rows for name in row})
    groups = GroupDataset(store, dataset, verify=False)
    chosen = [_position(groups, row) for row in rows if asked.matches(row) != keeps]
    made = write_curated(store, dataset, groups, chosen)
    num_unknown = sum(any(row.get(name) is None for name in asked.names) for row in rows)
    found = Curated(made, dataset.dataset_id, query, when, len(chosen), num_unknown)
    store.write(f"{layout.folder(made.dataset_id)}/curation.json", found.to_json())
    if not catalogue.has_groups(made.dataset_id):
        kept = {row["group_id"]: row for row in rows}
        catalogue.register_dataset(made, _rows(dataset, GroupDataset(store, made, verify=False), kept), datetime.now(UTC).isoformat())
    return found


def run_moment(store: Store, key: str) -> str:
    """When a run began to train, or ended where it never trained: what it could know.

    Args:
        store: with the ledgers.
        key: of a run of the pipeline (`quickstart-...`, as `make run` prints it) or of a training run (`run-...`).

    Raises:
        DataError: there is no such run.
    """
    entries = [json.loads(store.read_text(name)) for name in (store.list("ledger") if store.exists("ledger") else []) if _is_of(name, key)]
    trained = [
        entry["started_at"]
        for entry in entries
        if entry["name"] == "pretrain" and (not key.startswith("run-") or json.loads(entry["output"])["run_key"] == key)
    ]
    ended = [] if key.startswith("run-") else [entry["ended_at"] for entry in entries]
    if not trained and not ended:
        raise DataError(f"expected a run {key!r} in the ledger of {store.uri}, found none; `make run` prints its key first")
    return datetime.fromtimestamp(max(trained or ended), UTC).isoformat()


def _is_of(name: str, key: str) -> bool:
    return name.split("/")[1] == key or (key.startswith("run-") and name.endswith("/pretrain.json"))


def _dataset(store: Store, catalogue: ParquetCatalogue, dataset_id: str) -> DatasetRef:
    if not dataset_id:
        rows = catalogue.rows("groups")
        dataset_id = max(rows, key=lambda row: (row["event_timestamp"], row["dataset_id"]))["dataset_id"] if rows else ""
    found = find_dataset(store, dataset_id) if dataset_id else None
    if found is None:
        raise DataError(f"expected a committed data set {dataset_id or ''} in {store.uri}, found none; run commit, or pass --dataset")
    return found


def _position(groups: GroupDataset, row: dict[str, Any]) -> int:
    position = int(row.get("position", -1))
    if not 0 <= position < groups.num_groups or groups.caption(position).caption_id != row["caption_id"]:
        raise DataError(
            f"{row['group_id']}: expected its position in the data set in the catalogue, found {position}; delete registered.json beside "
            "the manifest and run commit again"
        )
    return position


def _rows(dataset: DatasetRef, groups: GroupDataset, known: dict[str, dict[str, Any]]) -> list[GroupRow]:
    """The groups that stay, with the scores they have."""
    rows: list[GroupRow] = []
    for position in range(groups.num_groups):
        caption = groups.caption(position)
        row = known.get(f"{dataset.dataset_id}/{caption.caption_id}", {})
        scores = json.loads(row.get("scores") or canonical_json({}))
        shard_index, num_images = int(groups.shard_name(position).partition(".")[0]), groups.num_images(position)
        guidance = float(row.get("guidance") or 0.0)
        rows.append(GroupRow(caption.caption_id, caption.text, shard_index, num_images, guidance, position=position, scores=scores))
    return rows
