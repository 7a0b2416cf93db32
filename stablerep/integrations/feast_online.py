"""Feast's SQLite online store with exact vector search, on any Python.

Feast 0.67 gates vector search in SQLite to Python 3.10 and to an extension that must be loaded. Reference sets are bounded, so reading
their vectors and comparing all of them is exact and fast enough. Feast names this class in feature_store.yaml,
so `feast serve` searches with it too; on a cluster PostgreSQL with pgvector does.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false, reportUnknownParameterType=false
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig, _quote_id, _table_id  # pyright: ignore[reportPrivateUsage]
from feast.protos.feast.types.Value_pb2 import Value

from stablerep.catalogue.nearest import nearest
from stablerep.errors import ConfigError
from stablerep.integrations.feast_definitions import ONLINE_STORE

Row = tuple[datetime, Any, dict[str, Any]]


class ExactSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """Of `ExactSqliteOnlineStore`: as for SQLite."""

    type: Literal["stablerep.integrations.feast_online.ExactSqliteOnlineStore"] = ONLINE_STORE


class ExactSqliteOnlineStore(SqliteOnlineStore):
    """SQLite, and every vector compared with the query."""

    def retrieve_online_documents_v2(
        self,
        config: Any,
        table: Any,
        requested_features: list[str],
        embedding: list[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: Any = None,
        include_feature_view_version_metadata: bool = False,
    ) -> list[Row]:
        """The `top_k` rows nearest to `embedding`, nearest first; see `catalogue.nearest`.

        Raises:
            ConfigError: a search by text, with filters or with another distance than the cosine.
        """
        if embedding is None or query_string is not None or filters is not None or (distance_metric or "cosine").lower() != "cosine":
            raise ConfigError(
                f"feature view {table.name}: expected a vector and the distance cosine, found distance {distance_metric!r}, "
                f"text {query_string!r}, filters {filters!r}; search the catalogue by vectors"
            )
        cursor = self._get_conn(config).cursor()
        name = _quote_id(_table_id(config.project, table, config.registry.enable_online_feature_view_versioning))
        vector_name = next(feature.name for feature in table.features if feature.vector_index)
        select = f"SELECT entity_key, value, event_ts FROM {name} WHERE feature_name = ? ORDER BY entity_key"
        found = [(key, _value(content), when) for key, content, when in cursor.execute(select, (vector_name,)).fetchall()]
        if not found:
            return []
        keys = [deserialize_entity_key(key, config.entity_key_serialization_version) for key, _, _ in found]
        ids = ["/".join(value.string_val for value in key.entity_values) for key in keys]
        vectors_ND = np.array([vector.float_list_val.val for _, vector, _ in found], np.float32)
        rows: list[Row] = []
        for place, distance in nearest(vectors_ND, ids, embedding, top_k):
            select = f"SELECT feature_name, value FROM {name} WHERE entity_key = ?"
            features = {feature: _value(content) for feature, content in cursor.execute(select, (found[place][0],))}
            wanted = {feature: features[feature] for feature in requested_features if feature in features}
            rows.append((_utc(found[place][2]), keys[place], wanted | {"distance": Value(float_val=distance)}))
        return rows


def _value(content: bytes) -> Any:
    value = Value()
    value.ParseFromString(content)
    return value


def _utc(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
