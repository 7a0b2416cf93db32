"""Captions selected from the catalogue: the same moment is the same prompt set, however many are registered later."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from known_models import SUITE, evaluation

from stablerep.captions import read_prompt_set
from stablerep.catalogue import CaptionRow, ParquetCatalogue
from stablerep.catalogue.selection import select_captions
from stablerep.errors import ConfigError, DataError
from stablerep.records import PromptSet
from stablerep.stages import prepare
from stablerep.stages.register import register_captions
from stablerep.store import Store

ROWS = [CaptionRow(f"{i:03d}", f"caption {i}", "abc"[i % 3] if i < 12 else "a", ("x", "y") if i % 2 else ("x",)) for i in range(20)]
PARQUET = "gate.has_catalogue=false"


def ids(rows: list[CaptionRow]) -> list[str]:
    return [row.caption_id for row in rows]


def test_tags_are_all_needed_and_refused() -> None:
    found = select_captions(reversed(ROWS), tags=("x", "y"), balance="none", num_captions=0, seed=0)
    assert ids(found) == [f"{i:03d}" for i in range(1, 20, 2)]
    assert ids(select_captions(ROWS, tags=("x", "!y"), balance="none", num_captions=0, seed=0)) == [f"{i:03d}" for i in range(0, 20, 2)]
    assert len(select_captions(ROWS, tags=(), balance="none", num_captions=0, seed=0)) == 20


def test_classes_are_balanced() -> None:
    found = select_captions(ROWS, tags=(), balance="class", num_captions=0, seed=0)
    assert Counter(row.label for row in found) == {"a": 4, "b": 4, "c": 4}
    fewer = select_captions(ROWS, tags=(), balance="class", num_captions=7, seed=0)
    assert Counter(row.label for row in fewer) == {"a": 2, "b": 2, "c": 2}
    assert ids(fewer) == sorted(ids(fewer)) == ids(select_captions(ROWS[::-1], tags=(), balance="class", num_captions=7, seed=0))
    assert set(ids(fewer)) <= set(ids(found)), "fewer are a part of more"
    assert ids(found) != ids(select_captions(ROWS, tags=(), balance="class", num_captions=0, seed=1))


@pytest.mark.parametrize(
    ("rows", "tags", "num", "message"),
    [
        (ROWS, ("z",), 0, "expected captions with tags z, found none of 20; tags that are known: x, y"),
        (ROWS, (), 100, "expected 33 or more captions of each of 3 classes .* found 4 of 'b'; lower captions.num_captions"),
        (ROWS, (), 2, "expected 0 or more captions of each of 3 classes"),
        ([*ROWS, CaptionRow("x", "no class", "", ("x",))], (), 0, "expected a class for every caption, found 1 without"),
    ],
)
def test_refusals(rows: list[CaptionRow], tags: tuple[str, ...], num: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        select_captions(rows, tags=tags, balance="class", num_captions=num, seed=0)


@pytest.fixture
def lots(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "birds.csv", tmp_path / "cars.csv"
    for path in paths:
        path.write_text("caption,kind\n" + "".join(f"{path.stem} {i},{i % 3}\n" for i in range(30)))
    return paths


def select(store: Store, as_of: str, **more: object) -> PromptSet:
    words = {"source": "catalogue:", "as_of": as_of, "num_captions": 0, **more}
    return prepare.run("smoke", " ".join(f"captions.{name}={value}" for name, value in words.items()) + f" {PARQUET}", store.uri)


def now() -> str:
    return datetime.now(UTC).isoformat()


def test_the_same_moment_is_the_same_prompt_set(store: Store, lots: tuple[Path, Path]) -> None:
    birds, cars = lots
    assert register_captions(store.uri, str(birds), ("birds",), label_column="kind") == 30
    moment = now()
    query = {"tags": "birds", "balance": "class", "num_captions": 12}
    first = select(store, moment, **query)
    register_captions(store.uri, str(cars), ("birds",), label_column="kind")  # more captions of the same tag, later
    register_captions(store.uri, str(birds), ("withdrawn",), label_column="kind")  # and others lose it
    assert select(store, moment, **query) == first
    assert Counter(c.metadata["label"] for c in read_prompt_set(store, first)) == {"0": 4, "1": 4, "2": 4}
    later = select(store, now(), **query)
    assert later.prompt_set_id != first.prompt_set_id
    assert {c.text.split()[0] for c in read_prompt_set(store, later)} == {"cars"}


def test_what_prepare_read_can_be_selected(store: Store, lots: tuple[Path, Path]) -> None:
    words = f"captions.source={lots[0]} captions.label_column=kind captions.num_captions=0 {PARQUET}"
    read = prepare.run("smoke", words, store.uri)
    assert prepare.run("smoke", words, store.uri) == read
    known = ParquetCatalogue(store).captions(now())
    assert len(known) == 30
    assert {row.tags for row in known} == {("birds.csv",)}
    selected = select(store, now(), tags="birds.csv")
    assert set(read_prompt_set(store, selected)[0].metadata) == {"source", "label"}
    assert {c.text for c in read_prompt_set(store, selected)} == {c.text for c in read_prompt_set(store, read)}
    assert len(ParquetCatalogue(store).captions(now())) == 30, "a selection registers nothing"


def test_another_store_can_be_asked(store: Store, tmp_path: Path, lots: tuple[Path, Path]) -> None:
    other = Store((tmp_path / "other").as_uri())
    register_captions(other.uri, str(lots[0]), ())
    assert select(store, now(), source=f"catalogue:{other.uri}").num_captions == 30


def test_a_moment_is_needed_and_lies_in_the_past(store: Store, lots: tuple[Path, Path]) -> None:
    register_captions(store.uri, str(lots[0]), ())
    with pytest.raises(ConfigError, match=r"captions\.as_of: expected a moment such as"):
        select(store, "")
    with pytest.raises(ConfigError, match=r"captions\.as_of: expected a moment of the past, found .* could still change"):
        select(store, (datetime.now(UTC) + timedelta(days=1)).isoformat())
    with pytest.raises(DataError, match="expected a time with an offset"):
        select(store, "2026-01-01T00:00:00")
    with pytest.raises(ConfigError, match=r"expected captions\.source=catalogue:, found packaged:mnist"):
        prepare.run("smoke", "captions.tags=x", store.uri)


def test_an_evaluation_is_no_caption(store: Store) -> None:
    ParquetCatalogue(store).register_evaluation(evaluation("model-a", 0.9), now())
    assert ParquetCatalogue(store).captions(now()) == []
    assert ParquetCatalogue(store).evaluations("model-a")[0].suite == SUITE
