"""The catalogue without Feast: the latest wins, registering again is harmless, writers do not lose each other's rows."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from known_models import SUITE, evaluation

from stablerep.catalogue import GroupRow, ParquetCatalogue, files
from stablerep.catalogue.tables import TABLES
from stablerep.errors import DataError
from stablerep.records import DatasetRef
from stablerep.store import Store

EARLY, MIDDLE, LATE = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00Z", "2026-01-03T02:00:00+02:00"


def test_no_champion_before_a_promotion(store: Store) -> None:
    catalogue = ParquetCatalogue(store)
    assert catalogue.champion(SUITE) is None
    catalogue.register_evaluation(evaluation("model-a", 0.9), EARLY)
    assert catalogue.champion(SUITE) is None


def test_the_champion_is_the_model_promoted_last(store: Store) -> None:
    catalogue = ParquetCatalogue(store)
    for model_id, accuracy in (("model-a", 0.9), ("model-b", 0.8)):
        catalogue.register_evaluation(evaluation(model_id, accuracy), EARLY)
    catalogue.promote("model-a", SUITE, EARLY)
    catalogue.promote("model-b", SUITE, LATE)
    catalogue.promote("model-a", SUITE, MIDDLE)  # an old promotion that arrives late does not win
    champion = catalogue.champion(SUITE)
    assert champion is not None
    assert (champion.model_id, champion.accuracy, champion.low) == ("model-b", 0.8, 0.8 - 0.012345678901234)
    assert champion.promoted_at == "2026-01-03T00:00:00+00:00"
    assert catalogue.champion("suite-other") is None


def test_a_model_comes_back(store: Store) -> None:
    catalogue = ParquetCatalogue(store)
    for model_id in ("model-a", "model-b"):
        catalogue.register_evaluation(evaluation(model_id, 0.9), EARLY)
    for model_id, when in (("model-a", EARLY), ("model-b", MIDDLE), ("model-a", LATE)):
        catalogue.promote(model_id, SUITE, when)
    champion = catalogue.champion(SUITE)
    assert champion is not None
    assert champion.model_id == "model-a"


def test_a_row_is_true_from_its_moment_on_for_as_long_as_its_table_says(
    store: Store, dataset: DatasetRef, group_rows: list[GroupRow]
) -> None:
    catalogue, begins, tick = ParquetCatalogue(store), datetime(2026, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
    catalogue.register_dataset(dataset, group_rows, begins.isoformat())
    ends = begins + TABLES["groups"].ttl
    found = {when: len(catalogue.groups(dataset.dataset_id, when.isoformat())) for when in (begins - tick, begins, ends, ends + tick)}
    assert list(found.values()) == [0, 3, 3, 0]


def test_suites_with_a_common_beginning_are_not_mixed(store: Store) -> None:
    catalogue = ParquetCatalogue(store)
    for suite, model_id in (("suite-1", "model-a"), ("suite-12", "model-b")):
        catalogue.register_evaluation(evaluation(model_id, 0.9, suite), EARLY)
        catalogue.promote(model_id, suite, EARLY)
    champions = [catalogue.champion(suite) for suite in ("suite-1", "suite-12")]
    assert [champion and champion.model_id for champion in champions] == ["model-a", "model-b"]
    assert catalogue.champion("suite-") is None


def test_the_latest_wins_in_any_order() -> None:
    def row(suite: str, day: int, created: int = 1, model_id: str = "m") -> dict[str, Any]:
        times = {"event_timestamp": datetime(2026, 1, day, tzinfo=UTC), "created": datetime(2026, 2, created, tzinfo=UTC)}
        return {"suite": suite, "model_id": model_id, **times}

    again = row("b", 2, created=5, model_id="registered again")
    rows = [row("b", 2), row("a", 3, model_id="last"), row("a", 1), again, row("b", 2, created=3)]
    table, schema = TABLES["champions"], TABLES["champions"].schema
    found = files.latest(table, pa.Table.from_pylist(rows, schema=schema))
    assert found["model_id"].to_pylist() == ["last", "registered again"]
    assert files.latest(table, pa.Table.from_pylist(rows[::-1], schema=schema)) == found
    assert files.latest(table, pa.Table.from_pylist(rows[:1], schema=schema)).num_rows == 1


def test_registering_again_changes_nothing(store: Store) -> None:
    catalogue = ParquetCatalogue(store)
    for _ in range(2):
        catalogue.register_evaluation(evaluation("model-a", 0.9), EARLY)
        catalogue.promote("model-a", SUITE, EARLY)
        catalogue.promote("model-a", SUITE, LATE)  # it is the champion already
    assert len(catalogue.rows("evaluations")) == 1
    assert len(files.keys_of(store, TABLES["champions"])) == 1
    assert catalogue.has_evaluation(evaluation("model-a", 0.9))
    assert not catalogue.has_evaluation(evaluation("model-a", 0.91))
    catalogue.register_evaluation(evaluation("model-a", 0.91), LATE)
    assert catalogue.evaluation("model-a", SUITE) == evaluation("model-a", 0.91)


def test_groups_of_a_data_set(store: Store, dataset: DatasetRef, group_rows: list[GroupRow]) -> None:
    catalogue = ParquetCatalogue(store)
    catalogue.register_dataset(dataset, group_rows, EARLY)
    catalogue.register_dataset(dataset, iter(group_rows), MIDDLE)
    rows = catalogue.rows("groups")
    assert [row["group_id"] for row in rows] == [f"dataset-1/caption-{i}" for i in range(3)]
    assert [row["agreement"] for row in rows] == [None, 0.9, 0.9]
    assert {row["generator_id"] for row in rows} == {"generator-1"}
    assert rows[0]["event_timestamp"].isoformat() == "2026-01-02T00:00:00+00:00"
    assert rows[1]["caption"] == "a <b>bold</b> 1"


def test_writers_at_once_lose_nothing(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ParquetCatalogue(store).register_evaluation(evaluation(f"model-{i}", 0.5), EARLY), range(16)))
    assert len(ParquetCatalogue(store).rows("evaluations")) == 16


def test_anybody_can_read_the_files(store: Store, dataset: DatasetRef, group_rows: list[GroupRow]) -> None:
    ParquetCatalogue(store).register_dataset(dataset, group_rows, EARLY)
    folder = store.local_path("catalogue/groups")
    assert isinstance(folder, Path)
    assert pq.read_table(folder).num_rows == 3


def test_works_on_an_object_store() -> None:
    catalogue = ParquetCatalogue(Store("memory://catalogue-test"))
    catalogue.register_evaluation(evaluation("model-a", 0.9), EARLY)
    catalogue.promote("model-a", SUITE, EARLY)
    champion = catalogue.champion(SUITE)
    assert champion is not None
    assert champion.model_id == "model-a"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda c: c.promote("model-z", SUITE, EARLY),
            "cannot promote model-z: expected its evaluation on suite-0123456789abcdef .* run probe",
        ),
        (lambda c: c.register_evaluation(evaluation("a", 0.5), "yesterday"), "expected a time such as 2026-.*, found 'yesterday'"),
        (lambda c: c.register_evaluation(evaluation("a", 0.5), "2026-01-01T00:00:00"), "expected a time with an offset"),
    ],
)
def test_refusals(store: Store, call: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call(ParquetCatalogue(store))
    assert files.keys_of(store, TABLES["evaluations"]) == []


def test_a_damaged_file_is_named(store: Store) -> None:
    catalogue = ParquetCatalogue(store)
    catalogue.register_evaluation(evaluation("model-a", 0.9), EARLY)
    (key,) = files.keys_of(store, TABLES["evaluations"])
    store.write(key, store.read(key)[:100])
    with pytest.raises(DataError, match=r"model-a.*parquet: expected a Parquet table of evaluations: .* delete it and run again"):
        catalogue.rows("evaluations")
