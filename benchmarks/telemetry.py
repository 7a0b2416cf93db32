"""What metrics cost: the share of a training run's time that is spent on reporting.

    python benchmarks/telemetry.py [--steps 60] [--points-before 900] [--threads 2] [--seed 0]

Real steps of recipe quickstart in one process (loader, towers, losses, AdamW; 64 captions x 4 images of 32 px), each reported to the real
journal with all sinks: history file, progress file, Prometheus. What training is held up: the seconds inside the journal's calls over
the seconds of the whole loop. Files are written by a thread; its CPU time is a second row. To be no kinder than the end of a long run, the
history starts with `--points-before` points of every metric, which each write of the file writes again. Steps of a GPU recipe are as long
or longer; reports of a long run are a thousand at most.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from groups import commit_groups, pictures
from loaders import loader_of
from prometheus_client import CollectorRegistry
from result import Row, parser_of, write

from stablerep.batches import Batch
from stablerep.batches.tokenize import CaptionTokenizer, build_tokenizer
from stablerep.config.recipes import RECIPES
from stablerep.integrations.prometheus_sink import PrometheusSink
from stablerep.shards.read import GroupDataset
from stablerep.stages.pretrain_parts import build_engine, model_spec
from stablerep.store import Store
from stablerep.training.journal import Journal
from stablerep.training.processes import Processes

PRETRAIN = RECIPES["quickstart"].pretrain
NUM_GROUPS = 256


class TimedStore(Store):
    """A store, and the CPU seconds of the threads that write into it."""

    cpu_seconds = 0.0

    def write(self, key: str, data: bytes | str) -> None:
        """Write, timed."""
        started_at = time.thread_time()
        super().write(key, data)
        self.cpu_seconds += time.thread_time() - started_at


class TimedJournal:
    """A journal, and the seconds spent in it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.seconds = 0.0
        self.calls: list[float] = []

    def step(self, *values: object) -> None:
        """Report one step."""
        started_at = time.perf_counter()
        self._journal.step(*values)  # type: ignore[arg-type]
        self.calls.append(time.perf_counter() - started_at)
        self.seconds += self.calls[-1]

    def flush(self) -> None:
        """Write what a checkpoint makes the journal write."""
        started_at = time.perf_counter()
        self._journal.flush()
        self.seconds += time.perf_counter() - started_at

    def leave(self) -> None:
        """Wait for the thread, untimed."""
        self._journal.leave()


def tokenizer_of(dataset: GroupDataset) -> CaptionTokenizer:
    """As a run learns it."""
    text = PRETRAIN.text
    return build_tokenizer(
        [dataset.caption(position).text for position in range(dataset.num_groups)],
        vocabulary=text.vocabulary,
        vocabulary_size=text.vocabulary_size,
        context_length=text.context_length,
    )


def filled_journal(runs: Store, num_before: int, num_steps: int) -> Journal:
    """A journal with a history, written by an earlier attempt of the run."""
    earlier = Journal(runs, is_first=True, attempt="a", after_step=0, num_steps=num_steps, log_every_seconds=0)
    for step in range(1, num_before + 1):
        earlier.step(step, {"total": 9.0 / step, "image": 5.0 / step, "text": 4.0 / step}, 1e-3, 0.1, 256 * step, 0.01 * step)
    earlier.flush()
    sink = PrometheusSink(CollectorRegistry(), "stablerep_training_")
    return Journal(runs, is_first=True, attempt="b", after_step=num_before, num_steps=num_steps, sinks=(sink,), log_every_seconds=60)


def measure(folder: Path, num_steps: int, num_before: int, seed: int) -> tuple[float, TimedJournal, float]:
    """Seconds of the loop, the journal, and the CPU seconds of writing files."""
    store = Store(str(folder))
    reference = commit_groups(store, NUM_GROUPS, 6, 64, pictures(64, 32, "PNG", is_grey=True), "png")
    dataset = GroupDataset(store, reference)
    tokenizer = tokenizer_of(dataset)
    engine = build_engine(PRETRAIN, model_spec(PRETRAIN, tokenizer), Processes(0, 1, torch.device("cpu")))
    loader = loader_of(dataset, tokenizer, PRETRAIN, seed)
    runs = TimedStore(store.uri_of("runs/benchmark"))
    journal = TimedJournal(filled_journal(runs, num_before, num_before + num_steps))
    runs.cpu_seconds = 0.0
    batches: Iterator[Batch] = loader.batches(num_before, num_steps + 2)
    for _ in range(2):  # libraries and buffers
        engine.step(next(batches), 1e-4)
    started_at, num_images = time.perf_counter(), 0
    for done, batch in enumerate(batches, 1):
        result = engine.step(batch, 1e-4)
        num_images += batch.views_MNCHW.shape[0] * len(batch.labels_N)
        losses = {"total": result.total, "image": result.image, "text": result.text}
        journal.step(num_before + done, losses, 1e-4, result.gradient_norm, num_images, loader.data_wait_seconds)
        if done % PRETRAIN.checkpoint_every_steps == 0:
            journal.flush()
    seconds = time.perf_counter() - started_at
    journal.leave()
    return seconds, journal, runs.cpu_seconds


def main() -> None:
    """Measure, print and store."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--points-before", type=int, default=900)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        seconds, journal, cpu_seconds = measure(Path(name), options.steps, options.points_before, options.seed)
    step_ms, cost_ms = 1000 * seconds / options.steps, 1000 * journal.seconds / options.steps
    held_up = Row(
        "metrics, share of a training step",
        f"{cost_ms:.2f} ms a step (calls: median {1000 * median(journal.calls):.2f}, longest {1000 * max(journal.calls):.1f})",
        f"step of recipe quickstart, {step_ms:.0f} ms",
        100 * journal.seconds / seconds,
        "%",
        0.2,
        is_most=True,
    )
    aside = Row(
        "CPU time of writing files, in a thread",
        f"{1000 * cpu_seconds / options.steps:.2f} ms a step",
        f"step of recipe quickstart, {step_ms:.0f} ms",
        100 * cpu_seconds / seconds,
        "%",
    )
    command = f"python benchmarks/telemetry.py --steps {options.steps} --points-before {options.points_before}"
    setting = (
        f"{options.steps} steps of {PRETRAIN.captions_per_batch} captions x {PRETRAIN.images_per_caption} images, every one reported "
        f"to history, progress and Prometheus, {options.points_before} points of each metric before them, a checkpoint's flush every "
        f"{PRETRAIN.checkpoint_every_steps} steps, seed {options.seed}, {options.threads} threads, wall time."
    )
    write("telemetry", "Metrics", command, setting, [held_up, aside], [], options)


if __name__ == "__main__":
    main()
