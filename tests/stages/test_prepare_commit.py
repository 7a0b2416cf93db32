"""prepare and commit over real shards, on disk and on S3: the same record again, interruptions completed, errors that name the cause."""

import io
import itertools
import json
import random
import shlex
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from made_groups import GENERATOR, SPEC
from PIL import Image
from pyarrow import parquet

from stablerep.captions import lane_shards, read_prompt_set, shard_captions
from stablerep.captions.prompt_set import read_labels
from stablerep.errors import CaptionError, ConfigError, DataError, ShardError
from stablerep.records import DatasetRef, LaneReport, PromptSet
from stablerep.shards import GroupDataset, ImageGroup, layout
from stablerep.shards.dataset import commit_shard, write_spec
from stablerep.stages import commit, prepare
from stablerep.stages.commit import spread
from stablerep.store import Store

PARQUET = "gate.has_catalogue=false"  # Feast takes seconds to import and has its own tests
TEXTS = ["<b>bold</b> & dangerous", "a dog", "a dog", "", *(f"a photo of thing {i}" for i in range(40))]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "my captions.csv"
    path.write_text("caption\n" + "".join(f'"{text}"\n' for text in TEXTS))
    return path


@pytest.fixture(params=["local", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3_store_uri")


def _overrides(source: Path | str, **more: object) -> str:
    values = {"source": source, "captions_per_shard": 10, "num_captions": 0, **more}
    return " ".join(f"captions.{key}={shlex.quote(str(value))}" for key, value in values.items())


def _png(seed: str) -> bytes:
    packed = io.BytesIO()
    Image.frombytes("RGB", (8, 8), random.Random(seed).randbytes(192)).save(packed, format="png")
    return packed.getvalue()


def _generate(store: Store, prompt_set: PromptSet, but_not: tuple[int, ...] = ()) -> list[str]:
    """What the lanes of stage generate leave behind, with random pictures."""
    identity, captions, reports = write_spec(store, prompt_set, GENERATOR, SPEC), read_prompt_set(store, prompt_set), []
    for lane in range(prompt_set.num_lanes):
        shards = lane_shards(prompt_set.num_shards, prompt_set.num_lanes, lane)
        for index in shards:
            groups = [
                ImageGroup(caption, tuple(_png(f"{caption.caption_id}-{i}") for i in range(3)), "png", {"noise_indices": [0, 1, 2]})
                for caption in shard_captions(captions, prompt_set.num_shards, index)
            ]
            if index not in but_not:
                commit_shard(store, identity, index, groups, counts={"good": 3 * len(groups)}, producer={"lane": str(lane)})
        reports.append(LaneReport(lane, identity, len(shards), 0, 0, 0.0).to_json())
    return reports


def _commit(uri: str, prompt_set: PromptSet, lanes: list[str], **arguments: str) -> DatasetRef:
    return commit.run("smoke", PARQUET, uri, prompt_set=prompt_set.to_json(), generator=GENERATOR.to_json(), lanes=lanes, **arguments)


def test_prepare_keeps_the_captions_and_counts_all_rows(store: Store, source: Path) -> None:
    prompt_set = prepare.run("smoke", _overrides(source), store.uri)
    assert prompt_set.counts == {"read": 44, "kept": 42, "empty": 1, "duplicate": 1, "left_out": 0, "truncated": 0}
    assert (prompt_set.num_captions, prompt_set.num_shards, prompt_set.num_lanes) == (42, 5, 2)
    captions = read_prompt_set(store, prompt_set)
    assert [caption.text for caption in captions[:3]] == ["<b>bold</b> & dangerous", "a dog", "a photo of thing 0"]
    assert captions[2].metadata == {"source": "my captions.csv", "line": 6}
    reported = [json.loads(line) for line in store.read_text("telemetry/prepare.jsonl").splitlines()]
    found = {entry["labels"]["outcome"]: entry["value"] for entry in reported if entry["metric"] == "stablerep_captions_total"}
    assert found == prompt_set.counts


def test_prepare_again_is_the_same_and_lanes_have_no_part_in_it(store: Store, source: Path) -> None:
    first = prepare.run("smoke", _overrides(source), store.uri)
    assert prepare.run("smoke", _overrides(source), store.uri) == first
    assert prepare.run("smoke", _overrides(source, num_lanes=5), store.uri) == replace(first, num_lanes=5)
    fewer = prepare.run("smoke", _overrides(source, num_captions=20, seed=3), store.uri)
    assert (fewer.num_captions, fewer.counts["left_out"]) == (20, 22)
    assert fewer.prompt_set_id != first.prompt_set_id
    assert prepare.run("smoke", _overrides(source, num_captions=20, seed=3), store.uri) == fewer
    assert prepare.run("smoke", _overrides(source, num_captions=20, seed=4), store.uri).prompt_set_id != fewer.prompt_set_id


def test_prepare_draws_packaged_captions_with_their_image(store: Store) -> None:
    prompt_set = prepare.run("smoke", _overrides("packaged:digits", num_captions=30), store.uri)
    captions = read_prompt_set(store, prompt_set)
    assert len(captions) == prompt_set.counts["read"] == 30
    assert all(set(caption.metadata) == {"source", "source_index", "label"} for caption in captions)


def test_a_table_may_name_the_class_of_each_caption(store: Store, tmp_path: Path) -> None:
    ids = set[str]()
    for number, classes in enumerate((["dog", "cat", ""], ["dog", "dog", "cat"])):
        rows = [{"caption": f"a photo of thing {i}", "kind": kind} for i, kind in enumerate(classes)]
        path = tmp_path / f"{number}.csv"
        path.write_text("kind,caption\n" + "".join(f"{row['kind']},{row['caption']}\n" for row in rows))
        prompt_set = prepare.run("smoke", _overrides(path, label_column="kind"), store.uri)
        captions = read_prompt_set(store, prompt_set)
        labels = read_labels(store, prompt_set.prompt_set_id)
        assert [labels.get(caption.caption_id, "") for caption in captions] == classes
        ids.add(prompt_set.prompt_set_id)
        ids.add(prepare.run("smoke", _overrides(path), store.uri).prompt_set_id)
    assert len(ids) == 3, "other classes are another prompt set; without classes the texts alone decide"
    assert read_labels(store, "prompts-elsewhere") == {}


def test_prepare_says_what_is_wrong(store: Store, source: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=r"expected a file with captions, found nothing there"):
        prepare.run("smoke", _overrides(tmp_path / "gone.txt"), store.uri)
    with pytest.raises(CaptionError, match=r"expected a column 'captoin', found the columns caption, did you mean 'caption'\?"):
        prepare.run("smoke", _overrides(source, column="captoin"), store.uri)
    with pytest.raises(CaptionError, match=r"expected 99 captions, found 42 usable ones"):
        prepare.run("smoke", _overrides(source, num_captions=99), store.uri)
    with pytest.raises(ConfigError, match=r"unknown key 'captions.sauce', did you mean '(captions.)?source'"):
        prepare.run("smoke", "captions.sauce=x", store.uri)
    assert [key for key in store.list() if not key.startswith("telemetry/")] == []


def test_the_way_from_captions_to_groups(store_uri: str, source: Path, tmp_path: Path) -> None:
    prompt_set = prepare.run("smoke", _overrides(source), store_uri)
    store = Store(store_uri)
    lanes = _generate(store, prompt_set)
    sheet = tmp_path / "artifacts" / "sheet.html"
    dataset = _commit(store_uri, prompt_set, lanes, contact_sheet_path=str(sheet))
    assert (dataset.num_groups, dataset.num_images, dataset.num_shards) == (42, 126, 5)
    assert (dataset.prompt_set_id, dataset.generator_id) == (prompt_set.prompt_set_id, GENERATOR.generator_id)
    assert dataset.uri == f"{store.uri}/groups/{dataset.dataset_id}"
    groups = GroupDataset(store, DatasetRef.from_json(dataset.to_json()))
    assert [groups.caption(i).text for i in range(42)] == [caption.text for caption in read_prompt_set(store, prompt_set)]
    assert groups.images(41, [2]) == [_png(f"{groups.caption(41).caption_id}-2")]
    page = sheet.read_text()
    assert page == store.read_text(f"groups/{dataset.dataset_id}/contact_sheet.html")
    assert page.count("<img") == 24 * 3
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; dangerous" in page
    assert "<b>bold" not in page
    (key,) = store.list("catalogue/groups")
    with store.open(key) as stream:
        rows = parquet.read_table(stream).to_pylist()
    assert [(row["caption"], row["shard_index"], row["num_images"], row["guidance"]) for row in rows] == [
        (groups.caption(i).text, int(groups.shard_name(i)[:5]), 3, 2.0) for i in range(42)
    ]
    assert _commit(store_uri, prompt_set, lanes) == dataset


def _objects(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.list() if not key.startswith("telemetry/")}


def test_commit_again_changes_nothing_and_reads_nothing_heavy(store: Store, source: Path, tmp_path: Path) -> None:
    prompt_set = prepare.run("smoke", _overrides(source), store.uri)
    lanes = _generate(store, prompt_set)
    dataset = _commit(store.uri, prompt_set, lanes)
    before = _objects(store)
    for key in before:
        if "/shards/" in key:
            store.delete(key)  # a finished data set is taken as it is: readers check what they read
    program = f"""
        import sys
        from stablerep.stages import commit
        records = dict(prompt_set={prompt_set.to_json()!r}, generator={GENERATOR.to_json()!r}, lanes={lanes!r})
        print(commit.run("smoke", {PARQUET!r}, {store.uri!r}, **records).to_json())
        heavy = {{"torch", "pyarrow", "feast", "PIL"}} & set(sys.modules)
        assert not heavy, heavy
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True)
    assert DatasetRef.from_json(done.stdout) == dataset
    assert _objects(store) == {key: content for key, content in before.items() if "/shards/" not in key}


@pytest.mark.parametrize(
    "lost", [["registered.json"], ["registered.json", "contact_sheet.html"], ["registered.json", "contact_sheet.html", "manifest.json"]]
)
def test_a_killed_commit_is_completed(store: Store, source: Path, lost: list[str]) -> None:
    prompt_set = prepare.run("smoke", _overrides(source), store.uri)
    lanes = _generate(store, prompt_set)
    dataset = _commit(store.uri, prompt_set, lanes)
    before = _objects(store)
    store.delete("catalogue/groups")
    for name in lost:
        store.delete(f"groups/{dataset.dataset_id}/{name}")
    assert _commit(store.uri, prompt_set, lanes) == dataset
    after = _objects(store)
    timeless = [{key.split(".20")[0] for key in objects} for objects in (after, before)]  # the catalogue's files are named by time
    assert timeless[0] == timeless[1]
    untimed = {key for key in after if not key.startswith("catalogue/") and not key.endswith("registered.json")}
    assert {key: after[key] for key in untimed} == {key: before[key] for key in untimed}


def test_when_and_by_how_many_lanes_leaves_no_trace(source: Path, tmp_path: Path) -> None:
    datasets = []
    for num_lanes in (1, 2, 5):
        store = Store(str(tmp_path / f"store-{num_lanes}"))
        prompt_set = prepare.run("smoke", _overrides(source, num_lanes=num_lanes), store.uri)
        datasets.append(_commit(store.uri, prompt_set, _generate(store, prompt_set)[::-1]))
    assert len({(dataset.dataset_id, dataset.manifest_sha256) for dataset in datasets}) == 1


def test_commit_says_what_is_wrong(store: Store, source: Path) -> None:
    prompt_set = prepare.run("smoke", _overrides(source), store.uri)
    lanes = _generate(store, prompt_set, but_not=(1, 4))
    with pytest.raises(ShardError, match=r"expected 5 shards, found 3; missing: 00001.tar, 00004.tar; run generate again for every lane"):
        _commit(store.uri, prompt_set, lanes)
    with pytest.raises(DataError, match=r"expected lanes of one data set, found no lanes"):
        _commit(store.uri, prompt_set, [])
    other = LaneReport(1, "groups-other", 0, 0, 0, 0.0).to_json()
    with pytest.raises(DataError, match=r"expected lanes of one data set, found groups-.*, groups-other; run generate"):
        _commit(store.uri, prompt_set, [lanes[0], other])
    with pytest.raises(
        DataError, match=r"expected 5 shards of prompts-other by a generator with sha256 abab.*, found 5 shards of prompts-"
    ):
        _commit(store.uri, replace(prompt_set, prompt_set_id="prompts-other"), lanes)
    _generate(store, prompt_set)
    key = layout.shard_key(LaneReport.from_json(lanes[0]).dataset_id, 3)
    content = store.read(key)
    store.write(key, content[: len(content) // 2])
    with pytest.raises(
        ShardError, match=r"00003.tar: expected \d+ bytes, found \d+ bytes \(cut short\); delete .*/00003.json and run generate again"
    ):
        _commit(store.uri, prompt_set, lanes)
    assert not [key for key in store.list("groups") if key.endswith(("contact_sheet.html", "manifest.json", "registered.json"))]
    failures = [json.loads(line) for line in store.read_text("telemetry/commit.jsonl").splitlines()]
    assert [entry["labels"]["error"] for entry in failures if entry["metric"] == "stablerep_stage_failures_total"].count("ShardError") == 2


@pytest.mark.parametrize(("num_groups", "count"), [(1, 24), (24, 24), (25, 24), (400, 24), (2_700_000, 24)])
def test_the_contact_sheet_is_spread_over_the_data_set(num_groups: int, count: int) -> None:
    chosen = spread(num_groups, count)
    assert len(set(chosen)) == len(chosen) == min(num_groups, count)
    assert chosen == sorted(chosen)
    assert chosen[0] >= 0
    assert chosen[-1] < num_groups
    gaps = [second - first for first, second in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) <= 2 * -(-num_groups // count)
    assert spread(num_groups, count) == chosen


def test_the_contact_sheet_does_not_follow_captions_that_come_in_cycles() -> None:
    for num_groups in (48, 400, 500):
        assert len({position % 10 for position in spread(num_groups, 24)}) >= 8
