"""The catalogue as a Feast repository: the Parquet files of `catalogue.parquet` offline, SQLite online, a registry in a file.

    <store>/catalogue/feast/{feature_store.yaml, registry.db, online.db, synced.json}

Parquet holds the facts, and Feast serves them: whatever was registered without Feast (by a stage whose image has none) goes online when
the catalogue is used next, so both always tell the same. Definitions are applied only when they change. Entities: group, model, suite.
`feast -c <store>/catalogue/feast` works on the same repository. No network, no telemetry, local stores only; on a cluster the overlay
`feast` runs a feature server instead.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import fcntl
import json
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from stablerep.catalogue import Champion, GroupRow, ParquetCatalogue
from stablerep.catalogue.parquet import FOLDER, KEYS, SCHEMAS, champion_of
from stablerep.errors import ConfigError
from stablerep.identity import digest
from stablerep.records import DatasetRef, Evaluation
from stablerep.store import Store

PROJECT = "stablerep"
OWNER = "stablerep"
_DEFINITIONS = 1  # raise it when `_objects` changes
_ENTITIES = {"group": "group_id", "model": "model_id", "suite": "suite"}
_STAGES = {"groups": "commit", "evaluations": "probe", "champions": "verify"}
_TTL = {"groups": timedelta(days=3650), "evaluations": timedelta(days=3650), "champions": timedelta(0)}  # 0: for ever
_SERVICES = {"curation": "groups", "gate": "champions"}
_TYPES = {"string": "String", "int64": "Int64", "double": "Float64"}
_PROMETHEUS_VARIABLES = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
_NOT_SERVED = {"record", "event_timestamp", "created"}


class FeastCatalogue:
    """Facts in Parquet, served by Feast; implements `Catalogue`.

    Args:
        store: a store on this machine.

    Raises:
        ConfigError: the store is not local, or Feast is installed but cannot be imported.
    """

    def __init__(self, store: Store) -> None:
        root = store.local_path(FOLDER)
        if root is None:
            raise ConfigError(f"the Feast catalogue needs a store on this machine, found {store.uri}; set gate.has_catalogue=false")
        self._parquet, self._root, self._folder = ParquetCatalogue(store), root.absolute(), root.absolute() / "feast"
        self._state_path, self._feature_store = self._folder / "synced.json", None

    def register_dataset(self, dataset: DatasetRef, rows: Iterable[GroupRow], when: str) -> None:
        """Add or replace the groups of a data set; see `Catalogue`."""
        self._parquet.register_dataset(dataset, rows, when)
        self.sync()

    def register_evaluation(self, evaluation: Evaluation, when: str) -> None:
        """Add or replace what a model reached on a suite; see `Catalogue`."""
        self._parquet.register_evaluation(evaluation, when)
        self.sync()

    def promote(self, model_id: str, suite: str, when: str) -> None:
        """Make a model the champion of a suite; see `Catalogue`."""
        self._parquet.promote(model_id, suite, when)
        self.sync()

    def champion(self, suite: str) -> Champion | None:
        """The champion of a suite as the online store has it; see `Catalogue`."""
        self.sync()
        names = [f"champions:{name}" for name in _features("champions")]
        answer = self.feature_store().get_online_features(features=names, entity_rows=[{"suite": suite}]).to_dict()
        row = {name: values[0] for name, values in answer.items()}
        return champion_of(row) if row["model_id"] is not None else None

    def sync(self) -> list[str]:
        """Apply changed definitions and bring new and changed files online; returns the tables that were written."""
        with self._locked():
            state, definitions = self._state(), self._fingerprint()
            if state.get("definitions") != definitions:
                (self._folder / "feature_store.yaml").write_text(json.dumps(_configuration(self._folder), indent=1))
                self.feature_store().apply(_objects(self._root))
                state = {"definitions": definitions}
            written = [table for table in KEYS if self._bring_online(table, state)]
            self._state_path.write_text(json.dumps(state))
            return written

    def feature_store(self) -> Any:
        """The `feast.FeatureStore` of this repository."""
        if self._feature_store is None:
            self._feature_store = _feast().FeatureStore(repo_path=str(self._folder))
        return self._feature_store

    def _bring_online(self, table: str, state: dict[str, Any]) -> bool:
        """Write the rows of files that are new or differ from those in `state`; True when there were any."""
        import pandas as pd

        known: dict[str, str] = state.setdefault(table, {})
        found = {key: self._parquet.store.sha256(key) for key in self._parquet.parts(table)}
        changed = {_row_key(table, row) for key in found if known.get(key) != found[key] for row in self._parquet.part(key)}
        rows = [row for row in self._parquet.rows(table) if _row_key(table, row) in changed] if changed else []
        if rows:
            columns = [column for column in SCHEMAS[table].names if column != "record"]
            self.feature_store().write_to_online_store(table, pd.DataFrame(rows)[columns])
        state[table] = found
        return bool(rows)

    def _state(self) -> dict[str, Any]:
        """What is online; nothing where the databases are gone, and start anew where a file that is online was removed."""
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text())
        except (OSError, ValueError):
            return {}
        databases = [self._folder / name for name in ("registry.db", "online.db")]
        is_whole = all(path.exists() for path in databases)
        if is_whole and all(set(state.get(table, ())) <= set(self._parquet.parts(table)) for table in KEYS):
            return state
        for path in databases:
            path.unlink(missing_ok=True)
        self._feature_store = None
        return {}

    def _fingerprint(self) -> str:
        schemas = {table: str(schema) for table, schema in SCHEMAS.items()}
        return digest([_DEFINITIONS, metadata.version("feast"), str(self._root), schemas])

    @contextmanager
    def _locked(self) -> Generator[None]:
        """One process at a time brings facts online."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _feast() -> Any:
    """Feast, imported on first use (seconds), its usage reports off.

    On import Feast 0.67 sets variables that switch prometheus_client to files shared between processes, for us and for our children.
    So prometheus_client is imported first, which settles where it keeps values, and the variables are put back.
    """
    os.environ["FEAST_USAGE"] = "False"
    before = {name: os.environ.get(name) for name in _PROMETHEUS_VARIABLES}
    try:
        import_module("prometheus_client")  # before Feast
        import feast
    except ImportError as error:
        raise ConfigError(f"feast is installed but cannot be imported: {error}; repair it or set gate.has_catalogue=false") from error
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return feast


def _configuration(folder: Path) -> dict[str, Any]:
    """The content of feature_store.yaml (JSON is YAML)."""
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "offline_store": {"type": "dask"},
        "entity_key_serialization_version": 3,
    }


def _objects(root: Path) -> list[Any]:
    """Entities, feature views over the Parquet folders (absolute paths), feature services."""
    feast = _feast()
    entities = {
        key: feast.Entity(name=name, join_keys=[key], value_type=feast.ValueType.STRING, owner=OWNER) for name, key in _ENTITIES.items()
    }
    views = {table: _view(feast, root, table, [entities[key] for key in keys]) for table, keys in KEYS.items()}
    services = [feast.FeatureService(name=name, features=[views[table]], owner=OWNER) for name, table in _SERVICES.items()]
    return [*entities.values(), *views.values(), *services]


def _view(feast: Any, root: Path, table: str, entities: list[Any]) -> Any:
    import feast.types as feast_types

    kinds = {name: getattr(feast_types, _TYPES[str(SCHEMAS[table].field(name).type)]) for name in _features(table)}
    source = feast.FileSource(
        name=table, path=str(root / table), timestamp_field="event_timestamp", created_timestamp_column="created", owner=OWNER
    )
    return feast.FeatureView(
        name=table,
        entities=entities,
        ttl=_TTL[table],
        schema=[feast.Field(name=name, dtype=kind) for name, kind in kinds.items()],
        source=source,
        tags={"stage": _STAGES[table]},
        owner=OWNER,
    )


def _features(table: str) -> list[str]:
    return [name for name in SCHEMAS[table].names if name not in _NOT_SERVED and name not in KEYS[table]]


def _row_key(table: str, row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[column] for column in KEYS[table])
