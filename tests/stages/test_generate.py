"""Lanes of generate on a tiny Stable Diffusion: equal bytes however the work is shared, interrupted or repeated."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_diffusion

from stablerep.captions.packaged import caption_corpus
from stablerep.captions.prompt_set import write_prompt_set
from stablerep.errors import ConfigError, DataError
from stablerep.groups.diffusers_sampler import DiffusersSampler
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.identity import sha256_bytes
from stablerep.records import Caption, GeneratorRef, LaneReport, PromptSet
from stablerep.shards.dataset import find_shard, write_manifest
from stablerep.shards.read import GroupDataset
from stablerep.stages import commit, generate, generator
from stablerep.store import Store

SETTINGS = (
    "generate.scheduler=ddim generate.num_inference_steps=2 generate.images_per_caption=3 generate.batch_size=8 "
    "generate.stored_size_px=16 pretrain.images_per_caption=2"
)
NUM_CAPTIONS, PER_SHARD = 14, 3  # five shards of 2 or 3 captions


def _prompt_set(store: Store, num_lanes: int = 2, num_captions: int = NUM_CAPTIONS) -> PromptSet:
    texts = [text for text, _ in caption_corpus("mnist", num_captions, 0)]
    captions = [Caption(sha256_bytes(text.encode())[:16], text) for text in texts]
    return write_prompt_set(store, captions, {}, captions_per_shard=PER_SHARD, num_lanes=num_lanes)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Record of a true StableDiffusionPipeline, randomly initialised."""
    root = tmp_path_factory.mktemp("model")
    folder = tiny_diffusion.write_sd(root / "sd")
    return generator.run("smoke", f"generator.model={folder} generator.licence=mit", str(root / "store")).to_json()


def _run(model: str, store: Store, prompt_set: PromptSet, lane: int, settings: str = SETTINGS) -> LaneReport:
    return generate.run("smoke", settings, store.uri, prompt_set=prompt_set.to_json(), generator=model, lane=lane)


def _shards(store: Store) -> dict[str, bytes]:
    """Tars and indices of the only data set, by file name; the records also say who made them, so they may differ."""
    keys = [key for key in store.list("groups") if key.endswith((".tar", ".index.json"))]
    return {Path(key).name: store.read(key) for key in keys}


@pytest.fixture(scope="module")
def undisturbed(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards that one lane makes when nothing happens."""
    store = Store(str(tmp_path_factory.mktemp("undisturbed")))
    report = _run(model, store, _prompt_set(store, num_lanes=1), 0)
    assert (report.num_shards, report.num_images, report.num_images_made) == (5, 42, 42)
    return _shards(store)


@pytest.mark.parametrize(("num_lanes", "order"), [(2, (0, 1)), (3, (2, 0, 1)), (5, (3,))])
def test_lanes_and_their_order_leave_no_trace(
    model: str, store: Store, undisturbed: dict[str, bytes], num_lanes: int, order: tuple[int, ...]
) -> None:
    prompt_set = _prompt_set(store, num_lanes)
    reports = [_run(model, store, prompt_set, lane) for lane in order]
    assert _shards(store) == undisturbed
    assert sum(report.num_images_made for report in reports) == 42
    assert reports[0].num_images_made == 42, "the first lane helps the others when its own shards are done"
    assert [report.lane for report in reports] == list(order)


def test_reports_data_set_and_telemetry(model: str, store: Store) -> None:
    prompt_set = _prompt_set(store)
    first, second = (_run(model, store, prompt_set, lane) for lane in (0, 1))
    assert (first.num_shards, first.num_images) == (3, 24)
    assert (second.num_shards, second.num_images, second.num_images_made) == (2, 18, 0)
    dataset = write_manifest(store, first.dataset_id, prompt_set, GeneratorRef.from_json(model), 3, {})
    assert (dataset.num_groups, dataset.num_images) == (14, 42)
    groups = GroupDataset(store, dataset)
    images = [image for position in range(groups.num_groups) for image in groups.group(position).images]
    assert len(set(images)) == 42, "no two images are the same, whichever lane made them"
    group = groups.group(5)
    assert len(group.images) == 3
    assert group.metadata == {"noise_indices": [0, 1, 2]}
    record = find_shard(store, first.dataset_id, 0, verify=True)
    assert record is not None
    assert record.counts == {"good": 6}
    assert {**record.producer, "torch": "", "diffusers": ""} == {
        "lane": "0",
        "device": "cpu",
        "batch_size": "8",
        "torch": "",
        "diffusers": "",
    }
    entries = [json.loads(line) for line in store.read_text("telemetry/generate-0.jsonl").splitlines()]
    totals = {name: sum(e["value"] for e in entries if e["metric"] == f"stablerep_generate_{name}_total") for name in ("images", "groups")}
    assert totals == {"images": 42, "groups": 14}
    made = [e["value"] for e in entries if e["metric"] == "stablerep_generate_shards_total" and e["labels"] == {"outcome": "made"}]
    assert len(made) == 5
    assert max(e["value"] for e in entries if e["metric"] == "stablerep_stage_progress_ratio") == 1.0
    assert store.list("groups/" + first.dataset_id + "/claims") == []


def test_finished_lanes_load_no_torch(model: str, store: Store) -> None:
    prompt_set = _prompt_set(store)
    _run(model, store, prompt_set, 0)
    records = f"prompt_set={prompt_set.to_json()!r}, generator={model!r}"
    code = (
        "import sys; from stablerep.stages.generate import run\n"
        f"report = run('smoke', {SETTINGS!r}, {store.uri!r}, {records}, lane=1.0)\n"
        "print(report.to_json()); print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    report, heavy = done.stdout.splitlines()
    assert LaneReport.from_json(report).num_images_made == 0
    assert heavy == "[]"


def test_a_lane_that_goes_on_counts_what_it_finds_and_its_groups_are_there_to_look_at(
    model: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt_set, settings = _prompt_set(store, num_lanes=1, num_captions=6), f"{SETTINGS} generate.batch_size=3"
    sample, calls = DiffusersSampler.sample, list[int]()

    def stopped(self: DiffusersSampler, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        calls.append(len(requests))
        if len(calls) == 7:  # one counts operations; five groups are kept, three of them in a shard that is finished
            raise KeyboardInterrupt
        return sample(self, requests)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusersSampler, "sample", stopped)
        with pytest.raises(KeyboardInterrupt):
            _run(model, store, prompt_set, 0, settings)
    num_before = len(store.read_text("telemetry/generate-0.jsonl").splitlines())
    (dataset_id,) = {key.split("/")[1] for key in store.list("groups")}
    num_found = 3 * 3 + sum(3 for key in store.list(f"groups/{dataset_id}/parts") if "/00001/" in key)
    assert num_found == 15
    report = _run(model, store, prompt_set, 0, settings)
    assert report.num_images_made == 18 - num_found
    entries = [json.loads(line) for line in store.read_text("telemetry/generate-0.jsonl").splitlines()[num_before:]]
    ratios = [round(18 * entry["value"]) for entry in entries if entry["metric"] == "stablerep_stage_progress_ratio"]
    assert ratios == [0, 15, 18]
    page = store.read_text(f"groups/{dataset_id}/sheets/lane-0.html")
    assert page.count("<figure>") == 1, "of this attempt"
    records = {"prompt_set": prompt_set.to_json(), "generator": model, "lanes": [report.to_json()]}
    commit.run("smoke", f"{settings} gate.has_catalogue=false quality.judge=none", store.uri, **records)
    assert store.list(f"groups/{dataset_id}/sheets") == []
    assert store.exists(f"groups/{dataset_id}/contact_sheet.html")


@pytest.mark.parametrize("damage", ["record", "tar", "index and record"])
def test_only_what_is_missing_is_made(model: str, store: Store, undisturbed: dict[str, bytes], damage: str) -> None:
    prompt_set = _prompt_set(store)
    report = _run(model, store, prompt_set, 0)
    folder = f"groups/{report.dataset_id}/shards"
    if damage == "tar":
        store.write(f"{folder}/00003.tar", store.read(f"{folder}/00003.tar")[:-512])
    else:
        store.delete(f"{folder}/00003.json")
        if damage.startswith("index"):
            store.delete(f"{folder}/00003.index.json")
    kept = {key: (store.local_path(key) or Path()).stat().st_mtime_ns for key in store.list(folder) if "00003" not in key}
    assert _run(model, store, prompt_set, 1).num_images_made == 9
    assert _shards(store) == undisturbed
    assert {key: (store.local_path(key) or Path()).stat().st_mtime_ns for key in kept} == kept


def test_another_noise_seed_is_another_data_set(model: str, store: Store) -> None:
    prompt_set = _prompt_set(store, num_lanes=1, num_captions=3)
    reports = [_run(model, store, prompt_set, 0, f"{SETTINGS} generate.noise_seed={seed}") for seed in (0, 1)]
    assert reports[0].dataset_id != reports[1].dataset_id
    tars = [store.read(f"groups/{report.dataset_id}/shards/00000.tar") for report in reports]
    assert tars[0] != tars[1]
    same = _run(model, store, prompt_set, 0, f"{SETTINGS} generate.batch_size=3 generate.device=cpu")
    assert (same.dataset_id, same.num_images_made) == (reports[0].dataset_id, 0)


def test_what_cannot_be_generated(model: str, store: Store) -> None:
    prompt_set = _prompt_set(store)
    with pytest.raises(ConfigError, match="expected a lane from 0 to 1, found 2"):
        _run(model, store, prompt_set, 2)
    with pytest.raises(ConfigError, match=r"expected a device of this machine \(0 GPUs\)"):
        _run(model, store, prompt_set, 0, f"{SETTINGS} generate.device=cuda")
    changed = json.loads(model) | {"sha256": "0" * 64}
    with pytest.raises(DataError, match="it changed since stage generator ran"):
        generate.run("smoke", SETTINGS, store.uri, prompt_set=prompt_set.to_json(), generator=json.dumps(changed), lane=0)
    failures = [json.loads(line) for line in store.read_text("telemetry/generate-0.jsonl").splitlines() if "failures_total" in line]
    assert [entry["labels"]["error"] for entry in failures] == ["ConfigError", "DataError"]
    assert not [key for key in store.list("groups") if "/claims/" in key], "a lane that fails leaves its shard to others"


@pytest.mark.dist
@pytest.mark.slow
def test_killed_at_any_moment_then_continued(model: str, tmp_path: Path) -> None:
    """kill -9 at a random moment in each of two lanes; then both again: the bytes of an undisturbed run."""
    settings = f"{SETTINGS} generate.num_inference_steps=8 generate.batch_size=3"
    calm, rough = Store(str(tmp_path / "calm")), Store(str(tmp_path / "rough"))
    prompt_set = _prompt_set(calm, 2, 36)
    assert _prompt_set(rough, 2, 36).prompt_set_id == prompt_set.prompt_set_id
    dataset_id = _run(model, calm, prompt_set, 0, settings).dataset_id
    expected = _shards(calm)
    assert len(expected) == 2 * 12
    chance = random.Random()
    for lane, num_before in ((0, 1), (1, 4)):
        _kill_when(model, rough, prompt_set, settings, lane, f"groups/{dataset_id}/shards", num_before, chance.random() / 2)
    reports = [_run(model, rough, prompt_set, lane, settings) for lane in (0, 1)]
    assert _shards(rough) == expected
    assert 0 < sum(report.num_images_made for report in reports) < 100, "committed shards were kept"


def _kill_when(
    model: str, store: Store, prompt_set: PromptSet, settings: str, lane: int, folder: str, num_shards: int, delay_seconds: float
) -> None:
    """Start a lane, and kill it a moment after `num_shards` shards are committed."""
    code = (
        "from stablerep.stages.generate import run\n"
        f"run('smoke', {settings!r}, {store.uri!r}, prompt_set={prompt_set.to_json()!r}, generator={model!r}, lane={lane})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        give_up_at = time.monotonic() + 240
        while sum(key.endswith(".tar") for key in store.list(folder)) < num_shards and process.poll() is None:
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        time.sleep(delay_seconds)
        assert process.poll() is None, "the lane was done before it could be killed"
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
