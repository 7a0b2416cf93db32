"""The catalogue as a Feast repository: the Parquet files of `catalogue.files` offline, SQLite online, a registry in a file.

    <store>/catalogue/feast/{feature_store.yaml, registry.db, online.db, synced.json}

Parquet holds the facts, and Feast serves them: whatever was registered without Feast (by a stage whose image has none) goes online when
the catalogue is used next, so both always tell the same. Definitions are applied only when they change. `feast -c <store>/catalogue/feast`
works on the same repository. No network, no telemetry, local stores only; on a cluster `feast_cluster` brings the same facts online.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import fcntl
import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from stablerep.catalogue import CaptionRow, Champion, GroupRow, Neighbour, ParquetCatalogue, Reference, Served, files
from stablerep.catalogue.parquet import caption_of, champion_of, image_of, moment, no_reference
from stablerep.catalogue.tables import TABLES, Table, embeddings_table
from stablerep.errors import ConfigError, DataError
from stablerep.identity import digest
from stablerep.integrations.feast_definitions import definitions, import_feast, local_configuration
from stablerep.records import DatasetRef, Evaluation
from stablerep.store import Store

_DEFINITIONS = 2  # raise it when what `feast_definitions` makes of a table changes
_MOMENT = ("caption_id", "event_timestamp")
_NUM_ROWS_AT_ONCE = 20_000  # about three seconds; a table with more new rows goes online by `sync()`


class FeastCatalogue:
    """Facts in Parquet, served by Feast; implements `Catalogue`.

    Args:
        store: a store on this machine.
        configuration: of Feast, where registry and online store are not files of this store.

    Raises:
        ConfigError: the store is not local, or Feast is installed but cannot be imported.
    """

    def __init__(self, store: Store, configuration: dict[str, Any] | None = None) -> None:
        root = store.local_path(files.FOLDER)
        if root is None:
            raise ConfigError(f"the Feast catalogue needs a store on this machine, found {store.uri}; set gate.has_catalogue=false")
        self._store, self._parquet = store, ParquetCatalogue(store)
        self._root, self._folder = root.absolute(), root.absolute() / "feast"
        self._state_path, self._feature_store = self._folder / "synced.json", None
        self._configuration = configuration or local_configuration(self._folder)
        names = () if configuration else ("registry.db", "online.db")
        self._databases = [self._folder / name for name in names]

    def register_captions(self, name: str, rows: Iterable[CaptionRow], when: str) -> None:
        """Add or replace captions; see `Catalogue`."""
        self._parquet.register_captions(name, rows, when)
        self.sync(_NUM_ROWS_AT_ONCE)

    def captions(self, when: str) -> list[CaptionRow]:
        """Captions as of a moment, by Feast's point-in-time join; see `Catalogue`.

        Of two rows of one moment the join of Feast 0.67 may take either, as its second sort does not keep the order of its
        first. Where a caption has such rows, Parquet answers.
        """
        import pandas as pd

        table, asked_at = TABLES["captions"], moment(when)
        keys = files.keys_of(self._store, table)
        moments = [pair for key in keys for pair in zip(*(self._column(table, key, name) for name in _MOMENT), strict=True)]
        if len(set(moments)) < len(moments):
            return self._parquet.captions(when)
        ids = sorted({caption_id for caption_id, _ in moments})
        if not ids:
            return []
        self.sync(_NUM_ROWS_AT_ONCE)
        asked = pd.DataFrame({"caption_id": ids, "event_timestamp": pd.to_datetime([asked_at] * len(ids), utc=True)})
        features = [f"captions:{name}" for name in table.features]
        found = self.feature_store().get_historical_features(entity_df=asked, features=features).to_df()
        known = found[found["caption"].notna()].sort_values("caption_id")
        return [caption_of(_plain(row)) for row in known.to_dict("records")]

    def register_dataset(self, dataset: DatasetRef, rows: Iterable[GroupRow], when: str) -> None:
        """Add or replace the groups of a data set; see `Catalogue`."""
        self._parquet.register_dataset(dataset, rows, when)
        self.sync(_NUM_ROWS_AT_ONCE)

    def register_reference(self, reference: Reference, when: str) -> None:
        """Add or replace what a model makes of a set of images; see `Catalogue`."""
        self._parquet.register_reference(reference, when)
        self.sync(_NUM_ROWS_AT_ONCE)

    def nearest(self, model_id: str, space: str, query_D: Sequence[float], count: int) -> list[Neighbour]:
        """The nearest reference images, by the online store; see `Catalogue`.

        Feast 0.67 returns the column of the entity key in another order than the features, so the id is asked for as a feature, and rows
        are sorted here (tests/catalogue/test_vector_search.py shows it).
        """
        table = embeddings_table(model_id, space)
        dimensions = self._dimensions(table)
        if not dimensions:
            raise no_reference(model_id, space, self._store)
        if len(query_D) != dimensions:
            expected = f"a query of {dimensions} numbers as the reference set has"
            raise DataError(f"expected {expected}, found {len(query_D)}; embed it with the model of the set")
        self.sync(_NUM_ROWS_AT_ONCE)
        features = [f"{table.name}:{name}" for name in table.features if name != "vector"]
        answer = self.feature_store().retrieve_online_documents_v2(
            features=features, query=list(map(float, query_D)), top_k=count, distance_metric="cosine"
        )
        columns = answer.to_dict()
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        rows.sort(key=lambda row: (row["distance"], row["image"]))
        return [Neighbour(image_of(row), row["distance"]) for row in rows]

    def register_evaluation(self, evaluation: Evaluation, when: str) -> None:
        """Add or replace what a model reached on a suite; see `Catalogue`."""
        self._parquet.register_evaluation(evaluation, when)
        self.sync(_NUM_ROWS_AT_ONCE)

    def promote(self, model_id: str, suite: str, when: str) -> None:
        """Make a model the champion of a suite; see `Catalogue`."""
        self._parquet.promote(model_id, suite, when)
        self.sync(_NUM_ROWS_AT_ONCE)

    def champion(self, suite: str) -> Champion | None:
        """The champion of a suite as the online store has it; see `Catalogue`."""
        self.sync(_NUM_ROWS_AT_ONCE)
        names = [f"champions:{name}" for name in TABLES["champions"].features]
        answer = self.feature_store().get_online_features(features=names, entity_rows=[{"suite": suite}]).to_dict()
        row = {name: values[0] for name, values in answer.items()}
        return champion_of(row) if row["model_id"] is not None else None

    def register_served(self, served: Served, when: str) -> None:
        """Say which encoder an endpoint was verified with; see `Catalogue`."""
        self._parquet.register_served(served, when)
        self.sync(_NUM_ROWS_AT_ONCE)

    def sync(self, num_rows_at_once: int = 0) -> list[str]:
        """Apply changed definitions and bring new and changed files online.

        Args:
            num_rows_at_once: tables with more new rows than this wait for a call without a limit (0).

        Returns:
            The tables that were written.
        """
        with self._locked():
            tables = files.all_tables(self._store)
            state, fingerprint = self._state(tables), self._fingerprint(tables)
            if state.get("definitions") != fingerprint:
                (self._folder / "feature_store.yaml").write_text(json.dumps(self._configuration, indent=1))
                sources = {table.name: str(self._root / table.name) for table in tables}
                self.feature_store().apply(definitions([(table, self._dimensions(table)) for table in tables], sources))
                state["definitions"] = fingerprint
            written = [table.name for table in tables if self._bring_online(table, state, num_rows_at_once)]
            self._state_path.write_text(json.dumps(state))
            return written

    def feature_store(self) -> Any:
        """The `feast.FeatureStore` of this repository."""
        if self._feature_store is None:
            self._feature_store = import_feast().FeatureStore(repo_path=str(self._folder))
        return self._feature_store

    def _bring_online(self, table: Table, state: dict[str, Any], num_rows_at_once: int) -> bool:
        """Write the rows of files that are new or differ from those in `state`; True when there were any."""
        known: dict[str, str] = state.setdefault(table.name, {})
        found = {key: self._store.sha256(key) for key in files.keys_of(self._store, table)}
        new = {key for key in found if known.get(key) != found[key]}
        if not new:
            state[table.name] = found
            return False
        changed = {key for name in new for key in zip(*(self._column(table, name, column) for column in table.keys), strict=True)}
        if num_rows_at_once and len(changed) > num_rows_at_once:
            return False
        rows = files.rows_as_of(self._store, table).to_pandas()
        chosen = [key in changed for key in zip(*(rows[column] for column in table.keys), strict=True)]
        columns = [*table.keys, *table.features, "event_timestamp", "created"]
        self.feature_store().write_to_online_store(table.name, rows.loc[chosen, columns])
        state[table.name] = found
        return True

    def _column(self, table: Table, key: str, column: str) -> list[Any]:
        return files.read_file(self._store, table, key)[column].to_pylist()

    def _dimensions(self, table: Table) -> int:
        """Numbers in a vector of a table of embeddings; 0 where it has none."""
        if "vector" not in table.columns:
            return 0
        keys = files.keys_of(self._store, table)
        return len(files.read_file(self._store, table, keys[0])["vector"][0]) if keys else 0

    def _state(self, tables: Sequence[Table]) -> dict[str, Any]:
        """What is online; nothing where the databases are gone, and start anew where a file that is online was removed."""
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text())
        except (OSError, ValueError):
            return {}
        there = {key for table in tables for key in files.keys_of(self._store, table)}
        online = {key for known in state.values() if isinstance(known, dict) for key in known}
        if online <= there and all(path.exists() for path in self._databases):
            return state
        for path in self._databases:
            path.unlink(missing_ok=True)
        self._feature_store = None
        return {}

    def _fingerprint(self, tables: Sequence[Table]) -> str:
        schemas = {table.name: [str(table.schema), self._dimensions(table)] for table in tables}
        return digest([_DEFINITIONS, metadata.version("feast"), str(self._root), self._configuration, schemas])

    @contextmanager
    def _locked(self) -> Generator[None]:
        """One process at a time brings facts online."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a data frame with missing values as None and arrays as lists."""
    return {name: value.tolist() if hasattr(value, "tolist") else (None if value != value else value) for name, value in row.items()}
