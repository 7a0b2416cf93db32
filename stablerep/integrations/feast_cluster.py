"""The catalogue on a cluster: the facts of an object store go online into PostgreSQL, with the same definitions as on a laptop.

    python -m stablerep.integrations.feast_cluster yaml            feature_store.yaml of a feature server, to standard output
    python -m stablerep.integrations.feast_cluster STORE FOLDER    what the CronJob runs: copy new facts, apply, bring online

The registry is a database too (SQL), so a feature server and the FeatureStore of Feast's operator read the same. Connections come from
the environment (`VARIABLES`, from a Secret), are never written down, and Feast puts them in where feature_store.yaml says ${...};
POSTGRES_SSLMODE is libpq's: verify-full, require, or disable where the server has no TLS. What is online is remembered in the store
(`catalogue/online.json`): killed in between, the next run writes the same rows again.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stablerep.catalogue import files
from stablerep.errors import ConfigError
from stablerep.integrations.feast_definitions import PROJECT
from stablerep.integrations.feast_store import FeastCatalogue
from stablerep.store import Store

STATE = f"{files.FOLDER}/online.json"
SMALL_BYTES = 1 << 20
VARIABLES = ("POSTGRES_HOST", "POSTGRES_DATABASE", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_SSLMODE")

log = logging.getLogger("stablerep")


def cluster_configuration() -> dict[str, Any]:
    """The content of feature_store.yaml on a cluster: everything in one PostgreSQL, vectors by pgvector."""
    server = "${POSTGRES_HOST}:5432/${POSTGRES_DATABASE}?sslmode=${POSTGRES_SSLMODE}"
    url = f"postgresql+psycopg://${{POSTGRES_USER}}:${{POSTGRES_PASSWORD}}@{server}"
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": url, "cache_ttl_seconds": 60},
        "online_store": {
            "type": "postgres",
            "host": "${POSTGRES_HOST}",
            "port": 5432,
            "database": "${POSTGRES_DATABASE}",
            "db_schema": "public",
            "user": "${POSTGRES_USER}",
            "password": "${POSTGRES_PASSWORD}",
            "sslmode": "${POSTGRES_SSLMODE}",
            "vector_enabled": True,
        },
        "offline_store": {"type": "dask"},
        "entity_key_serialization_version": 3,
    }


def materialise(source: Store, folder: Path, configuration: dict[str, Any]) -> list[str]:
    """Copy facts that are new, apply the definitions, bring new rows online; returns the tables that were written.

    Args:
        source: the store with the catalogue.
        folder: for the copy; empty after a restart is as good as full.
        configuration: of Feast.
    """
    copy = Store(folder.as_uri())
    copy_facts(source, copy)
    state = copy.local_path(f"{files.FOLDER}/feast/synced.json")
    if state is not None and source.exists(STATE):
        source.get(STATE, state)
    written = FeastCatalogue(copy, configuration).sync()
    if state is not None:
        source.put(state, STATE)
    return written


def add_vectors(database: Mapping[str, str]) -> None:
    """Give the database the extension that embeddings need, where it has none yet.

    Args:
        database: the `VARIABLES`.

    Raises:
        ConfigError: the server cannot be reached with these, or the account may not add the extension.
    """
    import psycopg

    host, name, user, password, sslmode = (database[variable] for variable in VARIABLES)
    where = f"PostgreSQL at {host}, database {name}, user {user}, sslmode {sslmode}"
    try:
        with psycopg.connect(host=host, dbname=name, user=user, password=password, sslmode=sslmode, connect_timeout=30) as connection:
            if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone() is None:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.OperationalError as error:
        raise ConfigError(f"cannot reach {where}: {error}; correct the Secret stablerep-feast or the NetworkPolicy") from error
    except psycopg.Error as error:
        remedy = "install pgvector on the server and run CREATE EXTENSION vector there as its owner"
        raise ConfigError(f"{where}: expected the extension vector, which could not be added: {error}; {remedy}") from error


def copy_facts(source: Store, copy: Store) -> None:
    """Bring a local copy of the Parquet files up to date.

    Files are only added or replaced, each as a whole. Small ones are copied every time, large ones when their size differs: a promotion is
    small, the groups of a data set are not, and never change.
    """
    known = copy.sizes(files.FOLDER)
    for key, size_bytes in source.sizes(files.FOLDER).items():
        target = copy.local_path(key)
        if target is not None and key.endswith(".parquet") and (size_bytes <= SMALL_BYTES or known.get(key) != size_bytes):
            source.get(key, target)


def main(arguments: Sequence[str]) -> int:
    """Write feature_store.yaml to standard output, or bring a store's facts online.

    Raises:
        ConfigError: the arguments are neither, or the environment does not say where PostgreSQL is.
    """
    if list(arguments) == ["yaml"]:
        sys.stdout.write(json.dumps(cluster_configuration(), indent=1) + "\n")
        return 0
    if len(arguments) != 2:
        raise ConfigError(f"feast_cluster: expected yaml, or STORE and FOLDER, found {list(arguments)}")
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise ConfigError(f"feast_cluster: expected {', '.join(missing)} in the environment; the Secret stablerep-feast has them")
    store, folder = arguments
    add_vectors(os.environ)
    log.info("online: %s", ", ".join(materialise(Store(store), Path(folder), cluster_configuration())) or "nothing new")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sys.exit(main(sys.argv[1:]))
