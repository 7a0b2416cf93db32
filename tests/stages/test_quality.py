"""Scores, policy and purity over the stages: what is kept with a group, what is counted, what warns and what stops a run."""

import json
import re
from pathlib import Path

import pytest

from stablerep.errors import ConfigError, DataError
from stablerep.identity import sha256_bytes
from stablerep.records import DatasetRef, PromptSet
from stablerep.shards.dataset import find_shard
from stablerep.shards.read import GroupDataset
from stablerep.stages import commit, finish, generate, generator, prepare
from stablerep.store import Store

REAL = (
    "generator.model=real:mnist captions.num_captions=20 captions.captions_per_shard=8 captions.num_lanes=1 generate.images_per_caption=3 "
    "pretrain.images_per_caption=2 generate.batch_size=16 gate.has_catalogue=false quality.allow_low_purity=false"
)
FILTER = "quality.policy=regenerate quality.min_agreement=0.5 quality.min_group_agreement=0.3"


class Made:
    """A data set of real digits, made by one lane."""

    def __init__(self, store: str, words: str) -> None:
        self.words, self.store = words, Store(store)
        self.model = generator.run("smoke", words, store).to_json()
        self.prompt_set = prepare.run("smoke", words, store)
        self.lane = generate.run("smoke", words, store, prompt_set=self.prompt_set.to_json(), generator=self.model, lane=0)

    def commit(self, more: str = "") -> DatasetRef:
        lanes = [self.lane.to_json()]
        words = f"{self.words} {more}"
        return commit.run("smoke", words, self.store.uri, prompt_set=self.prompt_set.to_json(), generator=self.model, lanes=lanes)

    def file(self, name: str) -> str:
        return self.store.read_text(f"groups/{self.lane.dataset_id}/{name}")

    def shards(self) -> list[str]:
        keys = sorted(key for key in self.store.list("groups") if key.endswith(".tar"))
        return [sha256_bytes(self.store.read(key)) for key in keys]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(str(tmp_path_factory.mktemp("kept")), f"{REAL} quality.min_agreement=0.5")
    made.commit()
    return made


def test_scores_stay_with_the_group_and_counts_by_reason_with_shard_and_manifest(kept: Made) -> None:
    dataset = kept.commit()
    metadata = [GroupDataset(kept.store, dataset).metadata(position) for position in range(dataset.num_groups)]
    scores = [agreement for facts in metadata for agreement in facts["scores"]["agreement"]]
    assert len(scores) == 60
    assert all(len(facts["scores"]["centroid_distance"]) == 3 for facts in metadata)
    low = sum(score < 0.5 for score in scores)
    assert 0 < low < 60, "other images of a class do not all have its slant, weight and width"
    assert sum(flag == "disagreeing" for facts in metadata for flag in facts.get("flags", ())) == low
    counts = json.loads(kept.file("manifest.json"))["counts"]
    assert counts == {"good": 60, "kept_disagreeing": low}
    records = [find_shard(kept.store, dataset.dataset_id, index) for index in range(3)]
    assert sum(record.counts.get("kept_disagreeing", 0) for record in records if record) == low
    assert dataset.quality["good_ratio"] == 1.0
    assert dataset.quality["agreement"] == pytest.approx(sum(scores) / 60, abs=1e-4)


def test_purity_and_diversity_come_from_a_judge_of_real_training_images(kept: Made) -> None:
    dataset = kept.commit()
    found = json.loads(kept.file("quality.json"))
    assert (found["judge"], found["is_labelled"], found["num_judged_groups"]) == ("packaged:mnist", True, 20)
    assert dataset.quality["purity"] >= 0.98, "three training images of one class"
    assert dataset.quality["purity_low"] <= dataset.quality["purity"] <= dataset.quality["purity_high"]
    assert 0.5 < dataset.quality["diversity"] < 1
    reported = [json.loads(line) for line in kept.store.read_text("telemetry/commit.jsonl").splitlines()]
    assert {entry["metric"]: entry["value"] for entry in reported}["stablerep_dataset_purity_ratio"] == dataset.quality["purity"]


def test_the_page_shows_histogram_verdict_counts_and_groups(kept: Made) -> None:
    kept.commit()
    page = kept.file("quality.html")
    for words in ("<b style=", "passed", "Best agreement", "Worst agreement", "stored all the same: does not agree", "<svg", "95 %"):
        assert words in page
    assert len(re.findall("<figure>", page)) == 12
    assert sum(int(number) for number in re.findall(r"<title>(\d+) images</title>", page)) == 60


def test_the_policy_is_part_of_the_id_and_the_images_a_function_of_it(kept: Made, tmp_path: Path) -> None:
    first, other = (Made(str(tmp_path / name), f"{REAL} {FILTER} generate.batch_size={size}") for name, size in (("a", 16), ("b", 7)))
    assert first.lane.dataset_id == other.lane.dataset_id != kept.lane.dataset_id
    assert first.shards() == other.shards() != kept.shards()
    counts = json.loads(first.commit() and first.file("manifest.json"))["counts"]
    assert counts["disagreeing"] > 0
    assert set(counts) <= {"good", "disagreeing", "missing", "dropped_groups"}
    again = Made(str(tmp_path / "a"), f"{REAL} {FILTER}")
    assert again.lane.num_images_made == 0
    assert again.shards() == first.shards()


def test_weights_of_images_are_read_where_some_count_less(kept: Made, tmp_path: Path) -> None:
    made = Made(str(tmp_path), f"{REAL} quality.min_agreement=0.5 quality.policy=down_weight quality.down_weight=0.1")
    groups, plain = (GroupDataset(each.store, each.commit()) for each in (made, kept))
    assert groups.is_weighted
    assert not plain.is_weighted
    found = [groups.image_weights(position) for position in range(groups.num_groups)]
    agreements = [groups.metadata(position)["scores"]["agreement"] for position in range(groups.num_groups)]
    assert found == [[0.1 if agreement < 0.5 else 1.0 for agreement in values] for values in agreements]
    assert plain.image_weights(0) == [1.0] * 3


def test_low_purity_warns_or_refuses_and_can_be_lifted(kept: Made, caplog: pytest.LogCaptureFixture) -> None:
    words = "quality.judge=packaged:digits"  # an expert of other digits, who does not see what these are
    with pytest.raises(
        DataError, match=r"expected groups of purity 0.99 or more, found group purity 0\.\d+ .* quality.allow_low_purity=true"
    ):
        kept.commit(f"{words} quality.min_purity=0.99 quality.warn_purity=0.995")
    assert "refused" in kept.file("quality.html")
    lifted = kept.commit(f"{words} quality.min_purity=0.99 quality.warn_purity=0.995 quality.allow_low_purity=true")
    assert lifted.quality["purity"] < 0.99
    warned = kept.commit(f"{words} quality.min_purity=0 quality.warn_purity=0.99")
    assert warned.quality == lifted.quality


def test_unmeasured_purity_is_said(kept: Made) -> None:
    assert "purity" not in kept.commit("quality.judge=none").quality
    assert "not measured" in kept.file("quality.html")


def test_a_filter_without_a_scorer_or_a_judge_that_scored_is_refused(kept: Made, tmp_path: Path) -> None:
    words = "generator.model=real:digits quality.policy=drop quality.min_agreement=0.3 captions.source=packaged:digits"
    with pytest.raises(
        ConfigError, match=r"quality.policy=drop: expected a model that scores images, found none that ships with real:digits"
    ):
        Made(str(tmp_path), f"{REAL} {words}")
    with pytest.raises(ConfigError, match=r"quality.judge: expected another model than the scorer, which cannot judge itself"):
        kept.commit("quality.judge=embedded:mnist")


def test_the_report_has_the_section_also_when_commit_refused(kept: Made) -> None:
    from stablerep.stages.dispatch import run_stage

    run_stage("generate", "smoke", kept.words, kept.store.uri, prompt_set=kept.prompt_set.to_json(), generator=kept.model, lane=0)
    report = finish.run("smoke", kept.words, kept.store.uri, state="FAILED", error="refused")
    html = Path(report.uri.removeprefix("file://")).read_text(encoding="utf-8")
    assert "Quality of the groups" in html
    assert PromptSet.from_json(kept.prompt_set.to_json()).num_captions == 20
