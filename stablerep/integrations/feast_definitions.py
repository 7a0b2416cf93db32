"""The catalogue's tables as Feast objects, and feature_store.yaml for this machine and for a cluster: the same definitions for both.

Feast is imported on first use, which takes seconds: nothing here may be imported by a module that every stage imports.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from stablerep.catalogue.tables import ENTITIES, OWNER, SERVICES, TABLES, Table
from stablerep.errors import ConfigError

PROJECT = "stablerep"
ONLINE_STORE = "stablerep.integrations.feast_online.ExactSqliteOnlineStore"  # imported by Feast
_TYPES = {"string": "String", "int64": "Int64", "double": "Float64"}
_LISTS = {"string": "String", "float": "Float32"}
_PROMETHEUS_VARIABLES = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")


def import_feast() -> Any:
    """Feast, imported on first use (seconds), its usage reports off.

    On import Feast 0.67 sets variables that switch prometheus_client to files shared between processes, for us and for our children.
    So prometheus_client is imported first, which settles where it keeps values, and the variables are put back. It would also import
    torch (half of the time and 0.6 GB) for a feature that is not used here, so torch is out of sight meanwhile.
    """
    os.environ["FEAST_USAGE"] = "False"
    before = {name: os.environ.get(name) for name in _PROMETHEUS_VARIABLES}
    has_torch = "torch" in sys.modules
    try:
        import_module("prometheus_client")  # before Feast
        if not has_torch:
            sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
        import feast
    except ImportError as error:
        raise ConfigError(f"feast is installed but cannot be imported: {error}; repair it or set gate.has_catalogue=false") from error
    finally:
        if not has_torch:
            sys.modules.pop("torch", None)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return feast


def local_configuration(folder: Path) -> dict[str, Any]:
    """The content of feature_store.yaml on this machine: everything in files of one folder."""
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "online_store": {"type": ONLINE_STORE, "path": str(folder / "online.db")},
        "offline_store": {"type": "dask"},
        "entity_key_serialization_version": 3,
    }


def definitions(tables: Iterable[tuple[Table, int]], source_of: Mapping[str, str]) -> list[Any]:
    """Entities, a feature view for each table, feature services.

    Args:
        tables: with the length of their vectors, 0 where there are none.
        source_of: path or URI of each table's Parquet files.
    """
    feast = import_feast()
    entities = {
        entity.key: feast.Entity(
            name=entity.name,
            join_keys=[entity.key],
            value_type=feast.ValueType.STRING,
            description=entity.description,
            owner=OWNER,
        )
        for entity in ENTITIES
    }
    views = {
        table.name: _view(feast, table, num_dimensions, source_of[table.name], [entities[key] for key in table.keys])
        for table, num_dimensions in tables
    }
    services = {name: [views[table] for table in members] for name, members in SERVICES.items()}
    services["neighbours"] = [view for name, view in views.items() if name not in TABLES]
    made = [feast.FeatureService(name=name, features=features, owner=OWNER) for name, features in services.items() if features]
    return [*entities.values(), *views.values(), *made]


def _view(feast: Any, table: Table, num_dimensions: int, source: str, entities: list[Any]) -> Any:
    source = feast.FileSource(
        name=table.name, path=source, timestamp_field="event_timestamp", created_timestamp_column="created", owner=OWNER
    )
    return feast.FeatureView(
        name=table.name,
        entities=entities,
        ttl=table.ttl,
        schema=[_field(feast, table, name, num_dimensions) for name in table.features],
        source=source,
        description=table.description,
        tags={"stage": table.stage, "kind": "facts" if table.name in TABLES else "embeddings"},
        owner=OWNER,
    )


def _field(feast: Any, table: Table, name: str, num_dimensions: int) -> Any:
    import feast.types as types

    kind = table.columns[name]
    if not hasattr(kind, "value_type"):
        return feast.Field(name=name, dtype=getattr(types, _TYPES[str(kind)]))
    inside = _LISTS[str(kind.value_type)]
    dtype = types.Array(getattr(types, inside))
    if inside != "Float32":
        return feast.Field(name=name, dtype=dtype)
    return feast.Field(name=name, dtype=dtype, vector_index=True, vector_length=num_dimensions, vector_search_metric="cosine")
