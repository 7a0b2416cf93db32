"""The catalogue on a cluster: the same definitions in an SQL registry, facts brought online once, manifests that say what the code says."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from known_models import SUITE, evaluation

from stablerep.catalogue import ParquetCatalogue
from stablerep.catalogue.tables import ENTITIES, TABLES
from stablerep.errors import ConfigError
from stablerep.integrations.feast_cluster import STATE, VARIABLES, cluster_configuration, main, materialise
from stablerep.integrations.feast_definitions import ONLINE_STORE, import_feast
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
