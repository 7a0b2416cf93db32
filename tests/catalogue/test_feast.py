"""Feast tells what Parquet tells, online and offline; it catches up with what was registered without it; nothing is applied twice."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from known_models import SUITE, evaluation

from stablerep.catalogue import CaptionRow, GroupRow, ParquetCatalogue, files
from stablerep.catalogue.tables import ENTITIES, SERVICES, TABLES
from stablerep.errors import ConfigError
from stablerep.integrations.feast_store import FeastCatalogue
from stablerep.records import DatasetRef
from stablerep.stages.catalogue_choice import open_catalogue
from stablerep.store import Store

EARLY, LATE, LATER = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00", "2026-01-03T00:00:00+00:00"

# dask's shuffle calls a pandas method that is going away; only the point-in-time join meets it
OFFLINE = pytest.mark.filterwarnings("ignore:Downcasting object dtype arrays:FutureWarning")


def fill(catalogue: Any, dataset: DatasetRef, rows: list[GroupRow]) -> None:
    catalogue.register_dataset(dataset, rows, EARLY)
    for model_id, accuracy in (("model-a", 0.9), ("model-b", 0.91)):
        catalogue.register_evaluation(evaluation(model_id, accuracy), EARLY)
    catalogue.promote("model-a", SUITE, EARLY)
    catalogue.promote("model-b", SUITE, LATE)


def online(catalogue: FeastCatalogue, features: list[str], entities: list[dict[str, str]]) -> dict[str, list[Any]]:
    return catalogue.feature_store().get_online_features(features=features, entity_rows=entities).to_dict()


@pytest.fixture
def filled(store: Store, dataset: DatasetRef, group_rows: list[GroupRow]) -> FeastCatalogue:
    catalogue = FeastCatalogue(store)
    fill(catalogue, dataset, group_rows)
    return catalogue


def test_the_champion_online_is_the_champion_in_parquet(store: Store, filled: FeastCatalogue) -> None:
    assert filled.champion(SUITE) == ParquetCatalogue(store).champion(SUITE)
    assert filled.champion("suite-other") is None
    filled.promote("model-a", SUITE, LATER)
    champion = filled.champion(SUITE)
    assert champion == ParquetCatalogue(store).champion(SUITE)
    assert champion is not None
    assert champion.model_id == "model-a"


def test_groups_and_evaluations_are_online(filled: FeastCatalogue) -> None:
    groups = online(
        filled, ["groups:caption", "groups:agreement", "groups:shard_index"], [{"group_id": f"dataset-1/caption-{i}"} for i in (2, 0)]
    )
    assert groups["caption"] == ["a <b>bold</b> 2", "a <b>bold</b> 0"]
    assert groups["shard_index"] == [1, 0]
    assert groups["agreement"][0] == 0.9
    found = online(filled, ["evaluations:accuracy", "evaluations:low"], [{"model_id": "model-b", "suite": SUITE}])
    assert (found["accuracy"], found["low"]) == ([0.91], [0.91 - 0.012345678901234])


@OFFLINE
def test_parquet_is_the_offline_store(filled: FeastCatalogue) -> None:
    import pandas as pd

    asked = pd.DataFrame({"suite": [SUITE] * 2, "event_timestamp": pd.to_datetime([EARLY, LATER], utc=True)})
    found = filled.feature_store().get_historical_features(entity_df=asked, features=["champions:model_id"]).to_df()
    assert found.sort_values("event_timestamp")["model_id"].tolist() == ["model-a", "model-b"]


@OFFLINE
@pytest.mark.parametrize("has_ties", [False, True])
def test_captions_as_of_any_moment_are_those_of_parquet(store: Store, monkeypatch: pytest.MonkeyPatch, has_ties: bool) -> None:
    """Feast's point-in-time join against our own, over captions that change and come back, also twice at one moment."""
    chance, plain = random.Random(0), ParquetCatalogue(store)
    for number in range(12):
        chosen = chance.sample(range(9), chance.randint(1, 5))
        rows = [CaptionRow(f"caption-{i}", f"text {i}", chance.choice(["", "bird"]), (f"tag-{number}",)) for i in chosen]
        second = 0 if has_ties else number
        plain.register_captions(f"list-{number % 7}-{number}", rows, f"2026-01-{chance.randint(1, 6):02d}T00:00:{second:02d}+00:00")
    moments = [f"2026-01-{day:02d}T00:00:{second:02d}+00:00" for day in range(1, 7) for second in (0, 7)]
    expected = {when: plain.captions(when) for when in ["2025-12-31T23:59:59+00:00", *moments]}
    if not has_ties:
        monkeypatch.delattr(ParquetCatalogue, "captions")  # then Feast answers all by itself
    feast = FeastCatalogue(store)
    assert {when: feast.captions(when) for when in expected} == expected
    assert len({len(rows) for rows in expected.values()}) > 3


def test_what_was_registered_without_feast_goes_online(store: Store, filled: FeastCatalogue) -> None:
    plain = ParquetCatalogue(store)
    plain.register_evaluation(evaluation("model-c", 0.95), LATE)
    plain.promote("model-c", SUITE, LATER)
    reopened = FeastCatalogue(store)
    assert reopened.sync() == ["evaluations", "champions"]
    assert reopened.sync() == []
    champion = reopened.champion(SUITE)
    assert champion is not None
    assert champion.model_id == "model-c"


def test_definitions_are_applied_once(store: Store, filled: FeastCatalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    reopened, applied = FeastCatalogue(store), []
    monkeypatch.setattr(type(reopened.feature_store()), "apply", lambda _self, objects: applied.append(len(objects)))
    reopened.promote("model-a", SUITE, LATER)
    assert reopened.champion(SUITE) == ParquetCatalogue(store).champion(SUITE)
    assert applied == []


def test_a_moved_store_is_applied_anew(store: Store, filled: FeastCatalogue, tmp_path: Path) -> None:
    root = store.local_path("catalogue")
    assert root is not None
    moved = Store((root.parent.rename(tmp_path / "elsewhere")).as_uri())
    assert FeastCatalogue(moved).champion(SUITE) == ParquetCatalogue(moved).champion(SUITE)
    assert not root.exists()
    view = FeastCatalogue(moved).feature_store().get_feature_view("groups")
    assert view.batch_source.path == str(tmp_path / "elsewhere" / "catalogue" / "groups")


@pytest.mark.parametrize("lost", ["online.db", "registry.db", "synced.json"])
def test_lost_files_are_made_again(store: Store, filled: FeastCatalogue, lost: str) -> None:
    (Path(str(store.local_path("catalogue"))) / "feast" / lost).unlink()
    assert FeastCatalogue(store).champion(SUITE) == ParquetCatalogue(store).champion(SUITE) is not None


def test_a_removed_promotion_does_not_stay_online(store: Store, filled: FeastCatalogue) -> None:
    for key in files.keys_of(store, TABLES["champions"]):
        store.delete(key)
    assert FeastCatalogue(store).champion(SUITE) is None


def test_the_repository_says_who_owns_what(filled: FeastCatalogue) -> None:
    feast = filled.feature_store()
    assert {entity.name: entity.join_key for entity in feast.list_entities()} == {entity.name: entity.key for entity in ENTITIES}
    assert {"caption", "group", "image", "model"} <= {entity.name for entity in ENTITIES}
    views = {view.name: view for view in feast.list_feature_views()}
    assert {name: view.tags["stage"] for name, view in views.items()} == {name: table.stage for name, table in TABLES.items()}
    assert {view.owner for view in views.values()} == {"stablerep"}
    assert {name: view.ttl.days for name, view in views.items()} == {name: table.ttl_days for name, table in TABLES.items()}
    assert {service.name for service in feast.list_feature_services()} == set(SERVICES)


def test_only_stores_on_this_machine() -> None:
    with pytest.raises(ConfigError, match=r"needs a store on this machine, found memory://x; set gate\.has_catalogue=false"):
        FeastCatalogue(Store("memory://x"))


def test_the_choice(store: Store) -> None:
    assert isinstance(open_catalogue(store, use_feast=True), FeastCatalogue)
    assert isinstance(open_catalogue(store, use_feast=False), ParquetCatalogue)
    assert isinstance(open_catalogue(Store("memory://x"), use_feast=True), ParquetCatalogue)


def test_without_feast_the_facts_are_the_same(store: Store, filled: FeastCatalogue) -> None:
    code = (
        "import sys\nsys.modules['feast'] = None\n"  # as if it were not installed
        "from stablerep.stages.catalogue_choice import open_catalogue\nfrom stablerep.store import Store\n"
        f"print(open_catalogue(Store({store.uri!r}), use_feast=True).champion({SUITE!r}).to_json())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    champion = filled.champion(SUITE)
    assert champion is not None
    assert result.stdout.strip() == champion.to_json(), result.stderr


def test_nothing_is_sent_anywhere(store: Store, dataset: DatasetRef, group_rows: list[GroupRow], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import threading

    tried: list[Any] = []
    others = set(threading.enumerate()) - {threading.current_thread()}

    def note(arguments: object) -> None:
        if threading.current_thread() not in others:
            tried.append(arguments)

    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: note(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: note(arguments))
    catalogue = FeastCatalogue(store)
    fill(catalogue, dataset, group_rows)
    assert catalogue.champion(SUITE) is not None
    assert tried == []


@pytest.mark.slow
def test_feast_does_not_change_how_metrics_are_kept(store: Store, filled: FeastCatalogue) -> None:
    code = (
        "import os\nfrom stablerep.integrations.feast_store import FeastCatalogue\nfrom stablerep.store import Store\n"
        f"assert FeastCatalogue(Store({store.uri!r})).champion({SUITE!r}) is not None\n"
        "print([name for name in os.environ if name.startswith('PROMETHEUS')])\n"
        "from prometheus_client.values import ValueClass\nprint(ValueClass.__name__)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.split("\n")[:2] == ["[]", "MutexValue"], result.stderr
