"""The catalogue on a cluster: the same definitions in an SQL registry, facts brought online once, manifests that say what the code says."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import yaml
from known_models import MODEL, SUITE, evaluation, reference

from stablerep.catalogue import CaptionRow, GroupRow, ParquetCatalogue
from stablerep.catalogue.tables import ENTITIES, TABLES, embeddings_table
from stablerep.errors import ConfigError
from stablerep.integrations.feast_cluster import SMALL_BYTES, STATE, VARIABLES, cluster_configuration, copy_facts, main, materialise
from stablerep.integrations.feast_definitions import ONLINE_STORE, import_feast
from stablerep.integrations.feast_store import FeastCatalogue
from stablerep.records import DatasetRef
from stablerep.store import Store

COMPONENTS = Path(__file__).resolve().parents[2] / "manifests" / "components"
EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"


def configuration(folder: Path) -> dict[str, Any]:
    """As on a cluster, with SQLite behind the SQL registry and behind the online store: both outlive the pod."""
    folder.mkdir(exist_ok=True)
    return cluster_configuration() | {
        "registry": {"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}"},
        "online_store": {"type": ONLINE_STORE, "path": str(folder / "online.db")},
    }


def test_facts_go_online_once_though_every_pod_starts_empty(store: Store, tmp_path: Path) -> None:
    facts, shared = ParquetCatalogue(store), configuration(tmp_path / "database")
    facts.register_evaluation(evaluation("model-a", 0.9), EARLY)
    facts.promote("model-a", SUITE, EARLY)
    assert materialise(store, tmp_path / "pod-1", shared) == ["evaluations", "champions"]
    assert store.exists(STATE)
    assert materialise(store, tmp_path / "pod-1", shared) == []
    facts.register_evaluation(evaluation("model-b", 0.95), LATE)
    facts.promote("model-b", SUITE, LATE)
    assert materialise(store, tmp_path / "pod-1", shared) == ["evaluations", "champions"]
    feast = import_feast().FeatureStore(repo_path=str(tmp_path / "pod-1" / "catalogue" / "feast"))
    answer = feast.get_online_features(features=["champions:model_id"], entity_rows=[{"suite": SUITE}]).to_dict()
    assert answer["model_id"] == ["model-b"]
    assert {view.name for view in feast.list_feature_views()} == set(TABLES)
    assert {entity.name for entity in feast.list_entities()} >= {entity.name for entity in ENTITIES}


def test_small_facts_are_copied_every_time_and_large_ones_when_their_size_differs(store: Store, tmp_path: Path) -> None:
    copy = Store((tmp_path / "copy").as_uri())
    for content in (b"1", b"2"):
        store.write("catalogue/champions/a.parquet", content * SMALL_BYTES)
        store.write("catalogue/groups/a.parquet", content * (SMALL_BYTES + 1))
        store.write("catalogue/groups/a.txt", content)
        copy_facts(store, copy)
        assert copy.read("catalogue/champions/a.parquet") == content * SMALL_BYTES
        assert copy.read("catalogue/groups/a.parquet") == b"1" * (SMALL_BYTES + 1)
    store.write("catalogue/groups/a.parquet", b"3" * (SMALL_BYTES + 2))
    copy_facts(store, copy)
    assert copy.read("catalogue/groups/a.parquet") == b"3" * (SMALL_BYTES + 2)
    assert copy.list("catalogue") == ["catalogue/champions/a.parquet", "catalogue/groups/a.parquet"]


@pytest.fixture
def _collected() -> Iterator[None]:
    """Feast closes no connection; what it leaves open is collected here, where its warnings are expected."""
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("_collected")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*BaseConnection:pytest.PytestUnraisableExceptionWarning")
def test_postgres_tells_what_parquet_tells(
    store: Store,
    dataset: DatasetRef,
    group_rows: list[GroupRow],
    postgres_variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The CronJob's own command against a real server: SQL registry, features, and vectors by pgvector."""
    for name, value in postgres_variables.items():
        monkeypatch.setenv(name, value)
    facts = ParquetCatalogue(store)
    facts.register_dataset(dataset, group_rows, EARLY)
    facts.register_captions("birds", [CaptionRow("caption-1", "a bird", "bird", ("birds",))], EARLY)
    facts.register_reference(made := reference(), EARLY)
    facts.register_reference(reference(2, "beside_text", d=8), EARLY)
    facts.register_evaluation(evaluation("model-a", 0.9), EARLY)
    facts.promote("model-a", SUITE, EARLY)
    with caplog.at_level("INFO", "stablerep"):
        assert main([store.uri, str(tmp_path / "pod-1")]) == 0
        assert main([store.uri, str(tmp_path / "pod-2")]) == 0
    assert caplog.messages[-1] == "online: nothing new"
    online = FeastCatalogue(Store((tmp_path / "pod-2").as_uri()), cluster_configuration())
    assert online.champion(SUITE) == facts.champion(SUITE) is not None
    for query in np.random.default_rng(1).normal(size=(10, made.vectors_ND.shape[1])):
        found, expected = (catalogue.nearest(MODEL, "features", query.tolist(), 10) for catalogue in (online, facts))
        assert [neighbour.image for neighbour in found] == [neighbour.image for neighbour in expected]
        assert [n.distance for n in found] == pytest.approx([n.distance for n in expected], abs=1e-5)
    assert len(online.nearest(MODEL, "beside_text", [1.0] * 8, 3)) == 3
    views = {view.name: view.batch_source.path for view in online.feature_store().list_feature_views()}
    assert views == {name: str(tmp_path / "pod-2" / "catalogue" / name) for name in views}, "the copy that was made last"
    assert set(views) >= {*TABLES, embeddings_table(MODEL, "features").name}
    monkeypatch.setenv("POSTGRES_PASSWORD", "guessed")
    with pytest.raises(ConfigError, match=r"(?s)cannot reach PostgreSQL at .*password authentication failed.*correct the Secret"):
        main([store.uri, str(tmp_path / "pod-3")])
    monkeypatch.setenv("POSTGRES_PASSWORD", password := postgres_variables["POSTGRES_PASSWORD"])
    host = postgres_variables["POSTGRES_HOST"]
    with psycopg.connect(host=host, user="stablerep", password=password, dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        connection.execute("CREATE DATABASE other")
    for name in ("POSTGRES_USER", "POSTGRES_PASSWORD"):
        monkeypatch.setenv(name, "guest")
    monkeypatch.setenv("POSTGRES_DATABASE", "other")
    with pytest.raises(
        ConfigError, match=r"(?s)database other, user guest.*could not be added: permission denied.*CREATE EXTENSION vector"
    ):
        main([store.uri, str(tmp_path / "pod-3")])


def test_the_cluster_s_configuration_is_one_that_feast_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import_feast()
    from feast.repo_config import load_repo_config

    for name in VARIABLES:
        monkeypatch.setenv(name, f"the-{name.lower().replace('_', '-')}")
    path = tmp_path / "feature_store.yaml"
    path.write_text((COMPONENTS / "feast-postgres" / "feature_store.yaml").read_text())
    config = load_repo_config(tmp_path, path)
    assert config.online_store.host == "the-postgres-host"
    assert config.online_store.vector_enabled
    assert str(config.registry.path).startswith("postgresql+psycopg://the-postgres-user:the-postgres-password@the-postgres-host:5432/")


def test_the_manifest_holds_what_the_code_says() -> None:
    written = subprocess.run(
        [sys.executable, "-m", "stablerep.integrations.feast_cluster", "yaml"], capture_output=True, text=True, check=True
    ).stdout
    found = (COMPONENTS / "feast-postgres" / "feature_store.yaml").read_text()
    assert found == written, "python -m stablerep.integrations.feast_cluster yaml > manifests/components/feast-postgres/feature_store.yaml"
    job, account = yaml.safe_load_all((COMPONENTS / "feast-postgres" / "cronjob.yaml").read_text())
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert pod["containers"][0]["command"] == ["python", "-m", "stablerep.integrations.feast_cluster"]
    assert {"secretRef": {"name": "stablerep-feast"}} in pod["containers"][0]["envFrom"]


def test_refusals(store: Store) -> None:
    assert not any(name in os.environ for name in VARIABLES)
    with pytest.raises(
        ConfigError, match=r"expected POSTGRES_HOST, POSTGRES_DATABASE, .* in the environment; the Secret stablerep-feast has"
    ):
        main([store.uri, "/nowhere"])
    with pytest.raises(ConfigError, match=r"expected yaml, or STORE and FOLDER, found \['a'\]"):
        main(["a"])
