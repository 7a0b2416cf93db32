"""Continuing in an epoch: the first batch from the saved position against skipping, the order for other world sizes, `kill -9`.

    python benchmarks/resume.py [--groups 100000] [--share 0.9] [--threads 1] [--seed 0]

A committed data set of `--groups` captions with four 32 px PNG images each, 512 captions a shard (as recipe cc3m_b16), is written to a
temporary folder and read as recipe quickstart reads: 64 captions x 4 images a step. Three ways to the batch of the step at `--share`
of the epoch, each with a data set that was opened anew and nothing in its memory: by the saved position; by iterating the loader over all
batches before; by reading the tars in order and counting captions, without decoding or checking anything (the least that any reader without
an index has to do). Wall time; the loader is iterated over the first `--baseline-steps` batches and its time extrapolated (0: over all).

Then a small run (recipe smoke, one process) is killed with SIGKILL from outside after a checkpoint and continued in a new process; its next
50 losses and its last weights are compared, bit for bit, with those of a run that nobody disturbed.
"""

import argparse
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import loaders
import torch
from groups import commit_groups, pictures
from result import Row, parser_of, write

from stablerep.batches import Batch, GroupLoader
from stablerep.batches.order import GroupOrder
from stablerep.config.recipes import RECIPES
from stablerep.records import DatasetRef
from stablerep.shards.layout import shards_folder
from stablerep.shards.read import GroupDataset
from stablerep.stages.pretrain_parts import train_run
from stablerep.stages.pretrain_run import RunConfig, plan_run
from stablerep.store import Store
from stablerep.training.history import read_history, series
from stablerep.training.processes import Processes
from stablerep.training.state import METRICS_KEY, WEIGHTS_NAME, CheckpointRecord

PRETRAIN = RECIPES["quickstart"].pretrain
GROUPS_PER_SHARD = 512
WORLD_SIZES = (1, 2, 4)
SMALL = replace(
    RECIPES["smoke"].pretrain, num_processes=1, num_steps=120, warmup_steps=10, checkpoint_every_steps=30, num_checkpoints_kept=8
)
KILLED_AFTER_STEP, NUM_COMPARED = 60, 50
WAIT_SECONDS = 300


def loader_of(store: Store, dataset: DatasetRef, seed: int, rank: int = 0, world_size: int = 1) -> GroupLoader:
    """The loader of a rank on a data set opened anew; what was hashed when it was opened is not hashed again."""
    return loaders.loader_of(GroupDataset(store, dataset, verify=False), None, PRETRAIN, seed, rank, world_size)


def by_position(store: Store, dataset: DatasetRef, seed: int, step: int) -> tuple[float, Batch]:
    """Seconds to the batch of a step, and the batch."""
    started_at = time.perf_counter()
    batch = next(loader_of(store, dataset, seed).batches(step, 1))
    return time.perf_counter() - started_at, batch


def by_iterating(store: Store, dataset: DatasetRef, seed: int, step: int) -> tuple[float, Batch]:
    """The same after all batches before it."""
    started_at = time.perf_counter()
    *_, batch = loader_of(store, dataset, seed).batches(0, step + 1)
    return time.perf_counter() - started_at, batch


def by_reading(store: Store, dataset: DatasetRef, num_skipped: int) -> float:
    """Seconds to read past so many captions in the tars."""
    started_at, num_seen = time.perf_counter(), 0
    folder = Path(store.uri_of(shards_folder(dataset.dataset_id)).removeprefix("file://"))
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path, "r|") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    file.read()
                num_seen += member.name.endswith(".txt")
                if num_seen > num_skipped:
                    return time.perf_counter() - started_at
    raise AssertionError(f"found {num_seen} captions, expected more than {num_skipped}")


def is_same(one: Batch, parts: Sequence[Batch]) -> bool:
    """Whether the batches of all ranks, side by side, are the batch of one process in every bit."""
    ids = tuple(caption_id for part in parts for caption_id in part.caption_ids)
    return (
        ids == one.caption_ids
        and torch.equal(torch.cat([part.labels_N for part in parts]), one.labels_N)
        and torch.equal(torch.cat([part.views_MNCHW for part in parts], 1), one.views_MNCHW)
    )


def order_rows(store: Store, dataset: DatasetRef, seed: int, start: int) -> list[Row]:
    """Other world sizes."""
    order = GroupOrder(dataset.num_groups, PRETRAIN.captions_per_batch, seed)
    num_different = 0
    for step in range(order.steps_per_epoch):
        whole = order.groups(step)
        for world_size in WORLD_SIZES[1:]:
            parts = [order.groups(step, rank, world_size) for rank in range(world_size)]
            num_different += not torch.equal(torch.cat(parts), whole)
    steps = range(start, min(start + 3, order.steps_per_epoch))
    whole_batches = list(loader_of(store, dataset, seed).batches(start, len(steps)))
    num_other_batches = 0
    for world_size in WORLD_SIZES[1:]:
        parts = [loader_of(store, dataset, seed, rank, world_size).batches(start, len(steps)) for rank in range(world_size)]
        num_other_batches += sum(not is_same(one, of_ranks) for one, of_ranks in zip(whole_batches, zip(*parts, strict=True), strict=True))
    sizes = ", ".join(map(str, WORLD_SIZES[1:]))
    return [
        Row(
            f"order of the groups, world sizes {sizes}, {order.steps_per_epoch:,} steps",
            f"{num_different} steps differ",
            "world size 1",
            num_different,
            "steps",
            0,
            is_most=True,
        ),
        Row(
            f"captions, labels and pixels, world sizes {sizes}, {len(steps)} steps from there",
            f"{num_other_batches} batches differ",
            "world size 1",
            num_other_batches,
            "batches",
            0,
            is_most=True,
        ),
    ]


def position_rows(folder: Path, options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """The large data set."""
    store = Store(str(folder / "large"))
    encoded = pictures(64, 32, "PNG", is_grey=True)
    started_at = time.perf_counter()
    dataset = commit_groups(store, options.groups, PRETRAIN.images_per_caption, GROUPS_PER_SHARD, encoded, "png", num_workers=2)
    built_at = time.perf_counter()
    GroupDataset(store, dataset)
    opened_seconds = time.perf_counter() - built_at
    loader = loader_of(store, dataset, options.seed)
    step = int(options.share * loader.steps_per_epoch)
    loader.check_position(loader.position(step))
    runs = [by_position(store, dataset, options.seed, step) for _ in range(options.repeats)]
    seconds = min(run[0] for run in runs)
    num_iterated = min(step, options.baseline_steps or step)
    iterated_seconds, reached = by_iterating(store, dataset, options.seed, num_iterated)
    skipped_seconds = iterated_seconds * (step + 1) / (num_iterated + 1)
    num_different = int(not is_same(reached, [by_position(store, dataset, options.seed, num_iterated)[1]]))
    read_seconds = by_reading(store, dataset, step * PRETRAIN.captions_per_batch)
    where = f"first batch at step {step:,} of {loader.steps_per_epoch:,}"
    ours = f"saved position, {1000 * seconds:.0f} ms"
    how = "" if num_iterated == step else f" (extrapolated from {num_iterated + 1} batches, {iterated_seconds:.1f} s)"
    rows = [
        Row(where, ours, f"iterating the loader, {skipped_seconds:.1f} s{how}", skipped_seconds / seconds, "x", 100),
        Row(f"{where}, nothing decoded", ours, f"reading the tars, {read_seconds:.1f} s", read_seconds / seconds, "x"),
        Row(
            f"batch of step {num_iterated:,}, pixels included",
            "saved position",
            "iterating the loader",
            num_different,
            "batches differ",
            0,
            is_most=True,
        ),
    ]
    notes = [
        f"Writing the data set took {built_at - started_at:.0f} s. Opening it with its whole content hashed took {opened_seconds:.2f} s "
        "more, once, however the position is found; no way includes it.",
        "A first batch reads the index of nearly every shard its captions are in; later batches find them in memory.",
    ]
    return rows + order_rows(store, dataset, options.seed, step), notes


def child(store_uri: str, plan_json: str) -> None:
    """One training process, as a worker runs it."""
    torch.set_num_threads(1)
    store, plan = Store(store_uri), RunConfig.from_json(plan_json)
    alone = Processes(0, 1, torch.device("cpu"))
    train_run(plan, store, store.at(plan.prefix), alone, f"attempt-{time.time_ns()}", has_launcher=True, is_stop_asked=lambda: False)


def start(store: Store, plan: RunConfig) -> "subprocess.Popen[bytes]":
    """The same in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, "--child", store.uri, plan.to_json()])


def finish(process: "subprocess.Popen[bytes]") -> None:
    """Wait for its good end."""
    if (code := process.wait(WAIT_SECONDS)) != 0:
        raise SystemExit(f"a training process ended with {code}")


def kill_after(process: "subprocess.Popen[bytes]", runs: Store, step: int) -> None:
    """SIGKILL as soon as the checkpoint of a step is committed."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not runs.exists(f"checkpoints/step-{step}/COMMITTED.json"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the training process left no checkpoint of step {step}")
        time.sleep(0.005)
    time.sleep(0.1)  # into the steps behind it
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise SystemExit("the training process ended before it was killed: take more steps")


def outcome(store: Store, plan: RunConfig) -> tuple[list[tuple[int, float]], str]:
    """Losses by step, and the digest of the last weights."""
    runs = store.at(plan.prefix)
    losses = series(read_history(runs, METRICS_KEY), "stablerep_training_loss", term="total")
    record = CheckpointRecord.from_json(runs.read_text(f"checkpoints/step-{plan.pretrain.num_steps}/COMMITTED.json"))
    file = record.file(WEIGHTS_NAME)
    return losses, file.sha256 if file else ""


def kill_rows(folder: Path) -> tuple[list[Row], list[str]]:
    """A run that is killed, and one that is not."""
    found: list[tuple[list[tuple[int, float]], str]] = []
    last_step = 0
    for name, is_killed in (("whole", False), ("killed", True)):
        store = Store(str(folder / name))
        dataset = commit_groups(store, 64, 4, 16, pictures(64, 32, "PNG", is_grey=True), "png")
        plan = plan_run("smoke", SMALL, dataset)
        process = start(store, plan)
        if is_killed:
            runs = store.at(plan.prefix)
            kill_after(process, runs, KILLED_AFTER_STEP)
            last_step = max(n for n in range(SMALL.num_steps) if runs.exists(f"checkpoints/step-{n}/COMMITTED.json"))
            process = start(store, plan)
        finish(process)
        found.append(outcome(store, plan))
    (whole, whole_weights), (killed, killed_weights) = found
    window = range(last_step + 1, last_step + 1 + NUM_COMPARED)
    expected, continued = ([(n, value.hex()) for n, value in losses if n in window] for losses in (whole, killed))
    if len(expected) != NUM_COMPARED:
        raise SystemExit(f"expected {NUM_COMPARED} losses after step {last_step}, found {len(expected)}")
    num_different = len(set(expected).symmetric_difference(continued))
    return [
        Row(
            f"losses of the {NUM_COMPARED} steps after SIGKILL, continued from step {last_step}",
            f"{NUM_COMPARED - num_different} equal in every bit",
            "undisturbed run",
            num_different,
            "losses differ",
            0,
            is_most=True,
        ),
        Row("last weights", killed_weights[:16], whole_weights[:16], int(killed_weights != whole_weights), "files differ", 0, is_most=True),
    ], [f"The killed and the undisturbed run: recipe smoke, {SMALL.num_steps} steps, one process, 64 groups x 4 images, seed {SMALL.seed}."]


def main() -> None:
    """Measure, print and store."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.9, help="of the epoch that is done")
    parser.add_argument("--baseline-steps", type=int, default=400, help="batches that are skipped by iterating; 0: all before the share")
    parser.add_argument("--repeats", type=int, default=3, help="of the first batch by position; the best counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        rows, notes = position_rows(Path(name), options)
        more_rows, more_notes = kill_rows(Path(name))
    command = f"python benchmarks/resume.py --groups {options.groups} --share {options.share} --baseline-steps {options.baseline_steps}"
    setting = (
        f"{options.groups:,} groups x {PRETRAIN.images_per_caption} images, batches of {PRETRAIN.captions_per_batch} captions, "
        f"{GROUPS_PER_SHARD} groups a shard, seed {options.seed}, {options.threads} thread, wall time."
    )
    write("resume", "Resuming", command, setting, rows + more_rows, notes + more_notes, options)


if __name__ == "__main__":
    main()
