"""A training run in this process alone, from start to trunk: for what trains small encoders to compare other things by them."""

import json
import uuid
from typing import Any

import torch
from safetensors.torch import load

from stablerep.errors import CheckpointError
from stablerep.models import ModelSpec, build_two_tower
from stablerep.stages.pretrain_parts import train_run
from stablerep.stages.pretrain_run import MODEL_KEY, RunConfig
from stablerep.store import Store
from stablerep.training.checkpoint import step_prefix
from stablerep.training.processes import Processes
from stablerep.training.state import WEIGHTS_NAME
from stablerep.typed import decode


def train_alone(plan: RunConfig, store: Store) -> tuple[Any, float]:
    """Train a run to its end, or go on where it was, on one CPU.

    Args:
        plan: of one process.
        store: with its data set; checkpoints are left in it.

    Returns:
        The trained trunk, and the last loss (NaN where none was noted).

    Raises:
        CheckpointError: the last checkpoint has no weights.
    """
    runs = store.at(plan.prefix)
    processes = Processes(0, 1, torch.device("cpu"))
    record = train_run(plan, store, runs, processes, uuid.uuid4().hex[:12], has_launcher=True, is_stop_asked=lambda: False)
    weights = record.file(WEIGHTS_NAME)
    if weights is None:
        raise CheckpointError(f"{plan.run_key}: expected the weights of step {record.step}, found none; delete {runs.uri} and train again")
    model = build_two_tower(decode(ModelSpec, json.loads(runs.read_text(MODEL_KEY)), where=MODEL_KEY))
    model.load_state_dict(load(runs.read(f"{step_prefix(record.step)}/{weights.name}")))
    return model.trunk, record.metrics["loss"] if "loss" in record.metrics else float("nan")
