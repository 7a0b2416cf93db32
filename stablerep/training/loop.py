"""The loop that every process of a job runs: continue, step, agree, report, save, stop.

Everything a step uses is a function of its number: the batch, the learning rate, the seed of the global random generator. Once a step all
ranks add up a few numbers; from the sums each learns the losses of the whole batch, whether any rank saw a value that is not finite,
and whether any was asked to stop, so all take the same way.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

from stablerep.batches import Batch
from stablerep.errors import DivergenceError, Preempted, StablerepError
from stablerep.store import Store
from stablerep.training.background import BackgroundSaves
from stablerep.training.capture import keep_step, kept_prefix, random_seed
from stablerep.training.checkpoint import Checkpoints
from stablerep.training.engine import Engine, StepResult
from stablerep.training.journal import Journal
from stablerep.training.processes import Processes
from stablerep.training.state import WEIGHTS_NAME, CheckpointRecord

log = logging.getLogger("stablerep")

DIVERGED_KEY = "diverged.json"


class Batches(Protocol):
    """What the loop asks of a loader; `stablerep.batches.GroupLoader` is the real one."""

    data_wait_seconds: float

    def batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        """The batches of `num_steps` steps from `start_step` on."""
        ...

    def position(self, step: int) -> dict[str, int]:
        """A record to keep with the checkpoint of a step."""
        ...

    def check_position(self, saved: dict[str, int]) -> None:
        """Refuse to continue in another order."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long to train and when to save."""

    num_steps: int
    checkpoint_every_steps: int
    num_checkpoints_kept: int
    seed: int
    attempt: str
    is_async: bool = False  # checkpoints on the way are written while training goes on


@dataclass(frozen=True)
class Job:
    """What one process works with."""

    runs: Store  # the prefix of the run
    processes: Processes
    checkpoints: Checkpoints
    engine: Engine
    loader: Batches
    learning_rate: Callable[[int], float]
    plan: Plan
    is_stop_asked: Callable[[], bool]


def train(job: Job, make_journal: Callable[[int], Journal]) -> CheckpointRecord:
    """Train to the last step and commit its checkpoint with the full weights; continues from the newest committed checkpoint.

    Args:
        job: what this process works with.
        make_journal: opens the journal of a run that continues after the given step; only rank 0 writes.

    Returns:
        The commit record of the last step.

    Raises:
        CheckpointError: the checkpoint belongs to another run, or none is intact.
        DivergenceError: a loss or a gradient was not finite; its captions are in `diverged.json`.
        Preempted: asked to stop; a checkpoint is committed.
        DataError: a shard, an image or the store cannot be read or written.
    """
    start, record = _continue(job)
    if record is not None and start >= job.plan.num_steps:
        return record
    journal = make_journal(start)
    saves = BackgroundSaves(job.checkpoints, job.processes, journal.checkpoint)
    try:
        return _steps(job, journal, saves, start, record)
    finally:
        saves.leave()
        journal.leave()


def _steps(job: Job, journal: Journal, saves: BackgroundSaves, start: int, record: CheckpointRecord | None) -> CheckpointRecord:
    saved_step = start
    num_images = 0
    for batch in job.loader.batches(start, job.plan.num_steps - start):
        torch.manual_seed(random_seed(job.plan.seed, batch.step))
        lr = job.learning_rate(batch.step)
        result = job.engine.step(batch, lr)
        world = job.processes.world_size
        losses = [result.total / world, result.image / world, result.text / world]
        flags = [not result.is_finite, job.is_stop_asked(), saves.is_ready, saves.has_failed]
        total, image, text, num_bad, num_stops, num_ready, num_failed = job.processes.total([*losses, *flags])
        if num_bad:
            _diverged(job, saves, batch, result, lr)
        if num_failed:
            saves.raise_failure()
        if num_ready == world:
            saves.advance()
        step = batch.step + 1
        num_images += batch.views_MNCHW.shape[0] * len(batch.labels_N) * world
        journal.step(
            step, {"total": total, "image": image, "text": text}, lr, result.gradient_norm, num_images, job.loader.data_wait_seconds
        )
        if step == job.plan.num_steps or step % job.plan.checkpoint_every_steps == 0 or num_stops:
            if job.plan.is_async and step < job.plan.num_steps and not num_stops:
                _begin_save(job, journal, saves, step)
            else:
                saves.finish()
                record, saved_step = _save(job, journal, step), step
        if num_stops and step < job.plan.num_steps:
            break
    if saved_step < job.plan.num_steps or record is None:
        raise Preempted(
            f"stopped after step {saved_step} of {job.plan.num_steps} as asked, its checkpoint is committed; run again to continue"
        )
    return record


def _continue(job: Job) -> tuple[int, CheckpointRecord | None]:
    record = job.checkpoints.find_intact(job.processes, job.engine.kind)
    if record is None:
        return 0, None
    job.loader.check_position(record.position)
    with job.checkpoints.opened(record, job.processes.rank) as folder:
        job.engine.load(folder)
    if job.processes.rank == 0:
        log.info("continuing after step %d of %d", record.step, record.num_steps)
    return record.step, record


def _save(job: Job, journal: Journal, step: int) -> CheckpointRecord:
    is_last = step == job.plan.num_steps
    journal.flush()  # before the commit: points up to a committed step are never lost

    def write(folder: Path) -> None:
        job.engine.save(folder)
        if is_last:
            weights = job.engine.weights()
            if job.processes.rank == 0:
                save_file(weights, str(folder / WEIGHTS_NAME))

    started_at = time.monotonic()
    record = job.checkpoints.save(step, write, job.processes, **_facts(job, journal, step), num_kept=job.plan.num_checkpoints_kept)
    journal.checkpoint(step, time.monotonic() - started_at)
    return record


def _begin_save(job: Job, journal: Journal, saves: BackgroundSaves, step: int) -> None:
    """As `_save`, but only until there is a copy in memory."""
    journal.flush()
    saves.finish()
    facts = job.checkpoints.facts(step, job.processes, **_facts(job, journal, step))
    saves.begin(job.engine.snapshot(), facts, job.plan.num_checkpoints_kept)


def _facts(job: Job, journal: Journal, step: int) -> dict[str, Any]:
    """What a checkpoint's record says beside the step."""
    return {
        "num_steps": job.plan.num_steps,
        "engine": job.engine.kind,
        "attempt": job.plan.attempt,
        "position": job.loader.position(step),
        "metrics": journal.summary(),
    }


def _diverged(job: Job, saves: BackgroundSaves, batch: Batch, result: StepResult, lr: float) -> None:
    """Keep what is known of the step, whole enough to replay it, and raise; every rank comes here."""
    try:
        saves.finish()
    except StablerepError as error:
        log.warning("the checkpoint on its way is lost: %s", error)
    parts = job.processes.collect({"loss": result.total, "captions": batch.caption_ids})
    found = f"loss {', '.join(format(part['loss'], 'g') for part in parts)}, gradient norm {result.gradient_norm:g}, learning rate {lr:g}"
    if job.processes.rank == 0:
        details = {"step": batch.step, "found": found, "caption_ids": [name for part in parts for name in part["captions"]]}
        job.runs.write(DIVERGED_KEY, json.dumps(details, indent=1))
    raise DivergenceError(
        f"step {batch.step}: expected finite losses and gradients, found {found}; lower pretrain.lr, raise pretrain.warmup_steps or set "
        f"pretrain.clip_norm=1; the captions of the batch are in {job.runs.uri_of(DIVERGED_KEY)}; {_keep(job, batch, result, lr)}"
    )


def _keep(job: Job, batch: Batch, result: StepResult, lr: float) -> str:
    """Keep the inputs of every rank and the weights; the words that say where, the same on all ranks."""
    facts = {
        "losses": {"total": result.total, "image": result.image, "text": result.text},
        "gradient_norm": result.gradient_norm,
        "learning_rate": lr,
        "random_seed": random_seed(job.plan.seed, batch.step),
        "world_size": job.processes.world_size,
        "engine": job.engine.kind,
        "torch": torch.__version__,
    }
    problem = keep_step(job.runs, batch, job.engine.state(), facts, job.processes.rank)
    problems = [text for text in job.processes.collect(problem) if text]
    if problems:
        return f"the batch is not kept for a replay ({'; '.join(problems)})"
    return (
        f"inputs and weights of the step are in {job.runs.uri_of(kept_prefix(batch.step))}; to see which tensor is the first that is not "
        f"finite: python -m stablerep.stages.pretrain_replay {job.runs.uri} {batch.step}"
    )
