"""What each of two ranks runs for test_deepspeed.py: `python rank_worker.py FOLDER`, with torchrun's variables set.

One start of the processes serves all tests: every ZeRO stage trains once undisturbed, once stopped and continued by a new engine; one run
diverges on one rank only. Rank 0 writes results.json.
"""

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))

import torch
from tiny_training import TINY, StopAfter, tiny_run

from stablerep.config.schema import SynClrConfig
from stablerep.distributed import barrier, stop
from stablerep.errors import CheckpointError, DivergenceError, Preempted
from stablerep.stages.pretrain_parts import train_run
from stablerep.stages.pretrain_run import RunConfig
from stablerep.store import Store
from stablerep.training.capture import read_step
from stablerep.training.deepspeed_engine import DeepspeedEngine, _restricted_unpickler
from stablerep.training.history import read_history, series
from stablerep.training.processes import Processes, join_processes
from stablerep.training.state import METRICS_KEY, WEIGHTS_NAME, CheckpointRecord


def _facts(store: Store, plan: RunConfig, record: CheckpointRecord) -> dict[str, Any]:
    file = record.file(WEIGHTS_NAME)
    points = read_history(store.at(plan.prefix), METRICS_KEY)
    return {
        "losses": [value for _, value in series(points, "stablerep_training_loss", term="total")],
        "norms": [value for _, value in series(points, "stablerep_training_gradient_norm")],
        "weights": file.sha256 if file else "",
        "files": sorted(file.name.rpartition("/")[2] for file in record.files),
        "engine": record.engine,
    }


def _run(store: Store, processes: Processes, *, is_stopped: bool, **changes: Any) -> dict[str, Any]:
    """Facts of a whole run, or of one that was stopped after two steps and continued by new engines."""
    plan = processes.share(tiny_run(store, num_processes=2, **changes) if processes.rank == 0 else None)
    run = (plan, store, store.at(plan.prefix), processes)
    if is_stopped:
        try:
            # Only rank 1 hears the signal: all must stop.
            train_run(*run, "a", has_launcher=True, is_stop_asked=StopAfter(2) if processes.rank == 1 else lambda: False)
        except Preempted:
            barrier()
    record = train_run(*run, "b", has_launcher=True, is_stop_asked=lambda: False)
    barrier()
    return _facts(store, plan, record)


def _background(folder: Path, processes: Processes, stage: int) -> dict[str, Any]:
    """A run stopped after step 4 whose last checkpoint is lost: it continues from step 3, which was written in the background."""
    store = Store(str(folder / f"background-{stage}"))
    changes = {"num_processes": 2, "zero_stage": stage, "is_checkpoint_async": True, "ema_decay": 0.3 if stage < 3 else 0.0}
    plan = processes.share(tiny_run(store, **changes) if processes.rank == 0 else None)
    runs = store.at(plan.prefix)
    run = (plan, store, runs, processes)
    try:
        train_run(*run, "a", has_launcher=True, is_stop_asked=StopAfter(4))
    except Preempted:
        barrier()
    found = sorted({key.split("/")[1] for key in runs.list("checkpoints") if key.endswith("COMMITTED.json")})
    barrier()
    if processes.rank == 0:
        runs.delete("checkpoints/step-4")
    barrier()
    record = train_run(*run, "b", has_launcher=True, is_stop_asked=lambda: False)
    barrier()
    return _facts(store, plan, record) | {"committed": found}


def _zero_stage(folder: Path, processes: Processes, stage: int) -> dict[str, Any]:
    # The stopped run of stages 1 and 3 is on an object store.
    other = os.environ["S3_STORE"] if stage in (1, 3) else str(folder)
    return {
        "whole": _run(Store(str(folder / f"whole-{stage}")), processes, is_stopped=False, zero_stage=stage),
        "stopped": _run(Store(f"{other}/stopped-{stage}"), processes, is_stopped=True, zero_stage=stage),
    }


def _divergence(folder: Path, processes: Processes) -> dict[str, Any]:
    """A gradient is spoilt on rank 1 at step 2."""
    store = Store(str(folder / "diverged"))
    plan = processes.share(tiny_run(store, num_processes=2, zero_stage=1) if processes.rank == 0 else None)
    step = DeepspeedEngine.step

    def spoilt(self: DeepspeedEngine, batch: Any, lr: float) -> Any:
        if batch.step == 2 and processes.rank == 1:
            batch.views_MNCHW[0, 0] = float("inf")
        return step(self, batch, lr)

    DeepspeedEngine.step = spoilt
    message = ""
    try:
        train_run(plan, store, store.at(plan.prefix), processes, "a", has_launcher=True, is_stop_asked=lambda: False)
    except DivergenceError as error:
        message = str(error)
    DeepspeedEngine.step = step
    messages = processes.collect(message)
    runs = store.at(plan.prefix)
    kept = read_step(runs, 2)
    facts = {
        "labels": len(set(kept.batch.labels_N.tolist())),
        "bad": (~kept.batch.views_MNCHW.isfinite()).nonzero()[:, :2].unique(dim=0).tolist(),
        "is_state_finite": all(bool(value.isfinite().all()) for name, value in kept.state.items() if "running" not in name),
    }
    return {"messages": messages, "details": json.loads(runs.read_text("diverged.json")), "kept": facts}


def _other_world(folder: Path, processes: Processes) -> str:
    """A checkpoint of two processes read by a run that says it has one rank only in its record."""
    store = Store(str(folder / "whole-1"))
    plan = processes.share(tiny_run(store, num_processes=2, zero_stage=1) if processes.rank == 0 else None)
    key = f"{plan.prefix}/checkpoints/step-6/COMMITTED.json"
    barrier()
    if processes.rank == 0:
        store.write(key, store.read_text(key).replace('"world_size":2', '"world_size":4'))
    barrier()
    try:
        train_run(plan, store, store.at(plan.prefix), processes, "c", has_launcher=True, is_stop_asked=lambda: False)
    except CheckpointError as error:
        return str(error)
    return ""


class _Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def _foreign_pickle(folder: Path) -> str:
    """What DeepSpeed does to read a file, on a file with code in it."""
    folder.mkdir()
    torch.save({"module": _Bomb()}, folder / "bomb.pt")
    try:
        with _restricted_unpickler():
            torch.load(folder / "bomb.pt", weights_only=False)
    except pickle.UnpicklingError as error:
        return str(error)
    return ""


def main() -> None:
    folder = Path(sys.argv[1])
    processes = join_processes(2)
    results: dict[str, Any] = {f"zero_{stage}": _zero_stage(folder, processes, stage) for stage in range(4)}
    results["bf16"] = _run(Store(str(folder / "bf16")), processes, is_stopped=False, zero_stage=2, precision="bf16")
    results["parts"] = {
        stage: _run(Store(str(folder / f"parts-{stage}")), processes, is_stopped=False, zero_stage=stage, accumulation_steps=3)
        for stage in (1, 3)
    }
    results["average"] = [
        _run(Store(str(folder / f"average-{is_stopped}")), processes, is_stopped=is_stopped, zero_stage=2, ema_decay=0.3)
        for is_stopped in (False, True)
    ]
    small = SynClrConfig(num_local_crops=2, local_size_px=8, num_prototypes=32, prototype_hidden_dim=16, prototype_dim=8)
    synclr = {"objective": "synclr", "synclr": small, "head": replace(TINY.head, norm="layer"), "zero_stage": 2}
    results["synclr"] = [
        _run(Store(str(folder / f"synclr-{is_stopped}")), processes, is_stopped=is_stopped, **synclr) for is_stopped in (False, True)
    ]
    results["background"] = [_background(folder, processes, stage) for stage in (2, 3)]
    results["other_world"] = _other_world(folder, processes)
    results["foreign_pickle"] = _foreign_pickle(folder / str(processes.rank))
    results["divergence"] = _divergence(folder, processes)
    if processes.rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    barrier()
    stop()
    os._exit(0)


if __name__ == "__main__":
    main()
