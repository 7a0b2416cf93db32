"""curate: what the catalogue knew at a moment decides which groups stay; commit registers whatever scores groups have."""

import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from made_groups import GENERATOR, SPEC
from PIL import Image

from stablerep.captions import read_prompt_set
from stablerep.catalogue import GroupRow, ParquetCatalogue
from stablerep.errors import ConfigError, DataError
from stablerep.records import CheckpointRef, DatasetRef, LaneReport
from stablerep.shards import GroupDataset, ImageGroup
from stablerep.shards.dataset import commit_shard, write_spec
from stablerep.stages import commit, prepare
from stablerep.stages.commit import group_scores
from stablerep.stages.curate import curate, run_moment
from stablerep.stages.dispatch import dataset_record
from stablerep.stages.ledger import Entry
from stablerep.store import Store

PARQUET = "gate.has_catalogue=false"
EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-01-03T00:00:00+00:00"


def png(seed: object) -> bytes:
    packed = io.BytesIO()
    Image.frombytes("RGB", (8, 8), random.Random(str(seed)).randbytes(192)).save(packed, format="png")
    return packed.getvalue()


@pytest.fixture
def dataset(store: Store, tmp_path: Path) -> DatasetRef:
    """Twelve groups of three images; every image has an agreement, every third group has none."""
    source = tmp_path / "captions.txt"
    source.write_text("".join(f"a photo of thing {i}\n" for i in range(12)))
    prompts = prepare.run("smoke", f"captions.source={source} captions.num_captions=0 {PARQUET}", store.uri)
    identity = write_spec(store, prompts, GENERATOR, SPEC)
    groups: list[ImageGroup] = []
    for i, caption in enumerate(read_prompt_set(store, prompts)):
        scores = {"agreement": [i / 20, i / 20 + 0.1, i / 20 + 0.2], "sharpness": 7.5}
        groups.append(ImageGroup(caption, tuple(png((i, k)) for k in range(3)), "png", {"scores": scores} if i % 3 else {}))
    commit_shard(store, identity, 0, groups, counts={"good": 36}, producer={})
    lanes = [LaneReport(lane, identity, 1, 36, 36, 0.0).to_json() for lane in range(prompts.num_lanes)]
    return commit.run("smoke", PARQUET, store.uri, prompt_set=prompts.to_json(), generator=GENERATOR.to_json(), lanes=lanes)


def test_scores_of_any_name_are_registered(store: Store, dataset: DatasetRef) -> None:
    rows = sorted(ParquetCatalogue(store).groups(dataset.dataset_id), key=lambda row: row["position"])
    assert [row["position"] for row in rows] == list(range(12))
    assert "agreement" not in rows[3]
    assert rows[4]["agreement"] == pytest.approx(0.3)
    assert (rows[4]["agreement_min"], rows[4]["agreement_max"], rows[4]["sharpness"]) == (0.2, pytest.approx(0.4), 7.5)
    assert group_scores({}) == group_scores({"scores": {}}) == group_scores({"scores": {"x": []}}) == {}


def test_groups_are_left_out_by_a_query(store: Store, dataset: DatasetRef) -> None:
    found = curate(store.uri, "agreement < 0.4")
    assert (found.num_left_out, found.num_unknown, found.dataset.num_groups) == (4, 4, 8)  # 1, 2, 4 and 5; 0, 3, 6 and 9 have none
    groups, whole = GroupDataset(store, found.dataset), GroupDataset(store, dataset)
    assert [groups.caption(i) for i in range(8)] == [whole.caption(i) for i in (0, 3, 6, 7, 8, 9, 10, 11)]
    assert json.loads(store.read_text(f"groups/{found.dataset.dataset_id}/curation.json"))["query"] == "agreement < 0.4"
    assert dataset_record(store.uri, found.dataset.dataset_id) == found.dataset.to_json()
    assert curate(store.uri, "agreement_min < 0.3", dataset_id=dataset.dataset_id).dataset == found.dataset, "the same groups, the same id"
    kept = curate(store.uri, "agreement >= 0.4 or agreement is missing", dataset_id=dataset.dataset_id, keeps=True)
    assert kept.dataset == found.dataset
    again = curate(store.uri, "agreement is missing", dataset_id=found.dataset.dataset_id)
    assert [row["caption"] for row in ParquetCatalogue(store).groups(again.dataset.dataset_id)] != []
    assert again.dataset == curate(store.uri, "agreement < 0.4 or agreement is missing", dataset_id=dataset.dataset_id).dataset


def register_again(store: Store, dataset: DatasetRef, agreement: float, when: str) -> None:
    whole = GroupDataset(store, dataset)
    rows = [
        GroupRow(whole.caption(i).caption_id, whole.caption(i).text, 0, 3, 2.0, position=i, scores={"agreement": agreement * i})
        for i in range(12)
    ]
    ParquetCatalogue(store).register_dataset(dataset, rows, when)


def test_as_of_a_run_is_what_it_could_know(store: Store, dataset: DatasetRef) -> None:
    for key in store.list("catalogue/groups"):
        store.delete(key)
    register_again(store, dataset, 0.01, EARLY)
    register_again(store, dataset, 0.1, LATE)
    middle = 1767312000.0  # 2026-01-02
    checkpoint = CheckpointRef("run-1", "", 1, 1, "f", "s", {}).to_json()
    for name, output, started_at in (("commit", "{}", middle - 9e6), ("pretrain", checkpoint, middle)):
        entry = Entry(name, output, {}, started_at, middle + 1e7)
        store.write(f"ledger/smoke-1/{name}.json", entry.to_json())
        store.write(
            f"ledger/smoke-2/{name}.json", replace(entry, output=output.replace("run-1", "run-2"), started_at=middle + 1e6).to_json()
        )
    early = curate(store.uri, "agreement < 0.095 as of run smoke-1", dataset_id=dataset.dataset_id)
    assert (early.num_left_out, early.as_of) == (10, "2026-01-02T00:00:00+00:00")
    assert curate(store.uri, "agreement < 0.095 as of run run-1", dataset_id=dataset.dataset_id).dataset == early.dataset
    assert curate(store.uri, "agreement < 0.095", dataset_id=dataset.dataset_id).num_left_out == 1
    assert curate(store.uri, f"agreement < 0.095 as of {EARLY}", dataset_id=dataset.dataset_id).num_left_out == 10
    assert run_moment(store, "run-2") > run_moment(store, "run-1")
    with pytest.raises(DataError, match=r"expected a run 'smoke-9' in the ledger of .*; `make run` prints its key first"):
        run_moment(store, "smoke-9")
    with pytest.raises(DataError, match=r"expected groups of groups-.* as of 2025-01-01T00:00:00Z, found none"):
        curate(store.uri, "agreement < 0.095 as of 2025-01-01T00:00:00Z", dataset_id=dataset.dataset_id)


def test_refusals(store: Store, dataset: DatasetRef) -> None:
    with pytest.raises(ConfigError, match="no group has 'agrement', did you mean 'agreement'"):
        curate(store.uri, "agrement < 0.2")
    with pytest.raises(DataError, match="expected some of its 12 groups to be left out and some to stay, found 0"):
        curate(store.uri, "agreement < -1")
    with pytest.raises(DataError, match=r"expected a committed data set groups-none in .* found none; run commit, or pass --dataset"):
        curate(store.uri, "agreement < 1", dataset_id="groups-none")
    with pytest.raises(DataError, match=r"expected a data set groups-none in .* `stablerep curate` prints the id"):
        dataset_record(store.uri, "groups-none")
