"""kill -9 at random moments over concurrent lanes of `generate`, through the real control plane with a fast fake sampler: `make chaos`.

    python tests/plugins/chaos.py [--kills 100] [--workers 4] [--seed 0] [--policy regenerate]

Every lane is a process that runs `LaneRun`, so claims, parts, shards, records and the manifest are the product's. A worker writes a line
for every group when it has sampled it; a group that is sampled again after its worker was killed was redone, one that two living
workers sampled was met. A policy other than keep has images judged and taken out or made again by a model that reads a number from their
pixels. A killed lane starts again at once. In the end every shard must hold the bytes that one undisturbed worker makes.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stablerep.captions.prompt_set import shard_captions, write_prompt_set
from stablerep.groups.inspection import FloatArray, Inspector, Policy, Thresholds
from stablerep.groups.make import make_shard
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.records import Caption, GeneratorRef, PromptSet
from stablerep.shards import layout
from stablerep.shards.dataset import find_shard, write_manifest
from stablerep.shards.read import GroupDataset
from stablerep.shards.write import pack_shard
from stablerep.store import Store

IMAGES_PER_CAPTION, GROUPS_PER_SHARD, SIZE_PX = 3, 16, 8
MAX_RETRIES, MIN_AGREEMENT = 2, 0.4  # 4 in 10 images fail
GROUPS_PER_KILL = 15
PAUSE_SECONDS, LONG_PAUSE_SECONDS = 0.05, 0.5
GIVE_UP_SECONDS = 1800
SETTINGS = (
    f"generate.images_per_caption={IMAGES_PER_CAPTION} generate.batch_size={IMAGES_PER_CAPTION} generate.stored_size_px={SIZE_PX} "
    f"generate.max_retries_per_image={MAX_RETRIES} pretrain.images_per_caption=2"
)
GENERATOR = GeneratorRef("generator-chaos", "file:///nowhere", "Noise", "0" * 64, "1", "CC0-1.0", SIZE_PX)


class NoiseSampler:
    """Noise, a function of caption and index. It waits, so that there is time to be killed in, and longer when it is ahead of the kills."""

    size_px = SIZE_PX

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        images: list[ImageHW3 | None] = [noise(request) for request in requests]
        if self._folder is not None:
            time.sleep(float((self._folder / "pause").read_text()))
            begun = dict.fromkeys(each.caption_id for each in requests if each.image_index == 0)  # later ones may be made again
            self._log("".join(f"{os.getpid()} {caption_id}\n" for caption_id in begun))
        return images

    def _log(self, lines: str) -> None:
        descriptor = os.open(self._folder / "log" if self._folder else "", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, lines.encode())
        os.close(descriptor)


def noise(request: ImageRequest) -> ImageHW3:
    seed = hashlib.sha256(f"{request.caption_id}/{request.image_index}".encode()).digest()
    return np.frombuffer(hashlib.shake_256(seed).digest(SIZE_PX * SIZE_PX * 3), np.uint8).reshape(SIZE_PX, SIZE_PX, 3)


class Marks:
    """Stands where a model scores: the agreement of an image is its first grey level, of 255."""

    identity = "marks"

    def embed_images(self, images: Sequence[ImageHW3]) -> FloatArray:
        agreement_M = np.array([image[0, 0, 0] / 255 for image in images])
        return np.stack([agreement_M, np.sqrt(1 - agreement_M**2)], axis=1)

    def embed_text(self, text: str) -> FloatArray:
        return np.array([1.0, 0.0])


def inspector_of(policy: Policy) -> Inspector | None:
    return None if policy == "keep" else Inspector(Marks(), Thresholds(policy, min_agreement=MIN_AGREEMENT))


@dataclass
class Chaos:
    """What happened: groups redone by the process that was killed, groups that two living workers met at, kills, seconds."""

    num_kills: int
    redone: Counter[int] = field(default_factory=Counter)
    num_met: int = 0
    num_groups: int = 0
    seconds: float = 0.0

    @property
    def is_frugal(self) -> bool:
        """At most one group redone for a kill; one that was sampled while the one before was being written may make it two for one."""
        return self.redone.total() <= self.num_kills and max(self.redone.values(), default=0) <= 2

    def line(self) -> str:
        most = max(self.redone.values(), default=0)
        return (
            f"{self.num_kills} kills, {self.num_groups} groups: 0 lost, 0 duplicated, 0 truncated; {self.redone.total()} redone "
            f"(at most {most} a kill), {self.num_met} made by two living workers; {self.seconds:.0f} s"
        )


def run(folder: Path, store: Store, num_kills: int, *, num_workers: int = 4, seed: int | None = None, policy: Policy = "keep") -> Chaos:
    """Make a data set under fire and check it; raises AssertionError where something was lost."""
    started_at, chance = time.monotonic(), random.Random(seed)
    num_captions = GROUPS_PER_KILL * (num_kills + 2 * num_workers)
    captions = [Caption(hashlib.sha256(str(number).encode()).hexdigest()[:16], f"caption {number}") for number in range(num_captions)]
    prompt_set = write_prompt_set(store, captions, {}, captions_per_shard=GROUPS_PER_SHARD, num_lanes=num_workers)
    (folder / "pause").write_text(str(PAUSE_SECONDS))
    (folder / "log").touch()
    workers = {lane: start(folder, store, prompt_set, lane, policy) for lane in range(num_workers)}
    killed: list[int] = []
    try:
        while len(killed) < num_kills:
            assert time.monotonic() - started_at < GIVE_UP_SECONDS
            lane = chance.choice(list(workers))
            if not _is_ready(folder, workers[lane], len(killed)):
                continue
            time.sleep(chance.random() * 4 * PAUSE_SECONDS)
            workers[lane].kill()
            assert workers[lane].wait() == -9, (folder / f"lane-{lane}.txt").read_text()[-3000:]
            killed.append(workers[lane].pid)
            workers[lane] = start(folder, store, prompt_set, lane, policy)
        (folder / "pause").write_text("0")
        for lane, worker in workers.items():
            assert worker.wait(timeout=GIVE_UP_SECONDS) == 0, (folder / f"lane-{lane}.txt").read_text()[-3000:]
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    result = count(folder, killed)
    check(store, prompt_set, captions, policy)
    result.num_groups, result.seconds = num_captions, time.monotonic() - started_at
    return result


def _is_ready(folder: Path, worker: "subprocess.Popen[bytes]", num_killed: int) -> bool:
    """Whether the worker has made a group since it started; workers are slowed down when they are ahead of the kills."""
    lines = (folder / "log").read_text().splitlines()
    pause = LONG_PAUSE_SECONDS if len(lines) > GROUPS_PER_KILL * (num_killed + 4) else PAUSE_SECONDS
    temporary = folder / "pause.new"
    temporary.write_text(str(pause))
    temporary.replace(folder / "pause")
    if any(line.startswith(f"{worker.pid} ") for line in lines):
        return True
    time.sleep(0.02)
    return False


def start(folder: Path, store: Store, prompt_set: PromptSet, lane: int, policy: Policy) -> "subprocess.Popen[bytes]":
    arguments = [str(folder), store.uri, prompt_set.to_json(), str(lane), policy]
    with (folder / f"lane-{lane}.txt").open("ab") as output:
        return subprocess.Popen([sys.executable, str(Path(__file__)), "--lane", json.dumps(arguments)], stderr=output)


def work(folder: str, store: str, prompt_set: str, lane: str, policy: Policy) -> None:
    """What a worker process does."""
    from stablerep.stages.context import open_stage
    from stablerep.stages.generate_lane import LaneRun
    from stablerep.stages.generate_sampler import OpenSampler

    with open_stage("generate", "smoke", SETTINGS, store, f"telemetry/generate-{lane}.jsonl") as stage:
        run = LaneRun(stage, PromptSet.from_json(prompt_set), GENERATOR, int(lane))
        run.sampler = OpenSampler(NoiseSampler(Path(folder)), {"device": "none"})
        run.inspector = inspector_of(policy)
        run.run()


def count(folder: Path, killed: Sequence[int]) -> Chaos:
    """Groups that were sampled more than once, by what became of the worker that had sampled them before."""
    makers: dict[str, list[int]] = {}
    for line in (folder / "log").read_text().splitlines():
        pid, caption_id = line.split()
        makers.setdefault(caption_id, []).append(int(pid))
    before = [pid for pids in makers.values() for pid in pids[:-1]]
    redone = Counter(pid for pid in before if pid in set(killed))
    return Chaos(len(killed), redone, sum(pid not in redone for pid in before))


def check(store: Store, prompt_set: PromptSet, captions: Sequence[Caption], policy: Policy) -> None:
    """Every group once, whole, and the same bytes and counts as from one worker that nobody disturbs."""
    (spec,) = [key for key in store.list("groups") if key.endswith("/spec.json")]
    dataset_id = spec.split("/")[1]
    assert not [key for key in store.list(f"groups/{dataset_id}") if "/parts/" in key or "/claims/" in key], "leftovers"
    dataset = write_manifest(store, dataset_id, prompt_set, GENERATOR, IMAGES_PER_CAPTION, {})
    groups = GroupDataset(store, dataset)
    seen = Counter(groups.caption(position).caption_id for position in range(groups.num_groups))
    assert set(seen.values()) == {1}
    counted = Counter[str]()
    for index in range(prompt_set.num_shards):
        made = make_shard(
            NoiseSampler(),
            shard_captions(captions, prompt_set.num_shards, index),
            images_per_caption=IMAGES_PER_CAPTION,
            batch_size=IMAGES_PER_CAPTION,
            image_format="png",
            image_quality=90,
            max_retries=MAX_RETRIES,
            inspector=inspector_of(policy),
        )
        assert made is not None
        record = find_shard(store, dataset_id, index, verify=True)
        assert record is not None
        assert record.counts == made[1], f"shard {index}"
        assert store.read(layout.shard_key(dataset_id, index)) == pack_shard(made[0]), f"shard {index}"
        counted += Counter(made[1])
    assert len(seen) == prompt_set.num_captions - counted["dropped_groups"]
    assert (counted["disagreeing"] > 0) == (policy != "keep")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--policy", choices=("keep", "drop", "regenerate"), default="keep")
    parser.add_argument("--lane", type=json.loads, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lane:
        return work(*options.lane)
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="stablerep-chaos-") as folder:
        store = Store(str(Path(folder) / "store"))
        result = run(Path(folder), store, options.kills, num_workers=options.workers, seed=options.seed, policy=options.policy)
    assert result.is_frugal or options.policy != "keep", result.line()
    sys.stdout.write(result.line() + "\n")
    return None


if __name__ == "__main__":
    main()
