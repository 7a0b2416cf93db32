"""A run small enough for tests: real loader, real towers, real engine, a few hundred weights."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tiny_groups import tiny_dataset

from stablerep.config import RECIPES
from stablerep.config.schema import HeadConfig, PretrainConfig, TextConfig, TrunkConfig
from stablerep.records import DatasetRef
from stablerep.stages.pretrain_parts import train_run
from stablerep.stages.pretrain_run import RunConfig, plan_run
from stablerep.store import Store
from stablerep.training.processes import Processes
from stablerep.training.state import CheckpointRecord

TINY = replace(
    RECIPES["smoke"].pretrain,
    trunk=TrunkConfig("vit_tiny_patch16_224", size_px=16, patch_px=8, width=16, depth=1, num_heads=2, mlp_ratio=2.0),
    head=HeadConfig(num_layers=2, hidden_dim=16, out_dim=8),
    text=TextConfig("captions", 256, context_length=8, width=16, depth=1, num_heads=2, out_dim=8, projection="mlp"),
    captions_per_batch=12,
    images_per_caption=3,
    num_steps=6,
    warmup_steps=1,
    checkpoint_every_steps=3,
    num_processes=1,
)

ALONE = Processes(0, 1, torch.device("cpu"))


def tiny_run(store: Store, **changes: Any) -> RunConfig:
    """The plan of a tiny run on a tiny data set, both in `store`."""
    return plan_run("tiny", replace(TINY, **changes), _dataset(store))


def train_alone(
    store: Store, plan: RunConfig, *, attempt: str = "a", is_stop_asked: Callable[[], bool] = lambda: False
) -> CheckpointRecord:
    """Run a plan in this process, as a worker does."""
    return train_run(plan, store, store.at(plan.prefix), ALONE, attempt, has_launcher=True, is_stop_asked=is_stop_asked)


class StopAfter:
    """Asks to stop at the n-th question: the loop asks once a step."""

    def __init__(self, num_steps: int) -> None:
        self._left = num_steps
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left <= 0


def overrides_of(config: PretrainConfig) -> str:
    """Override words that turn the recipe `smoke` into `config`."""
    words: list[str] = []
    base = RECIPES["smoke"].pretrain
    for section, value in vars(config).items():
        before = getattr(base, section)
        if hasattr(value, "__dataclass_fields__"):
            words += [f"pretrain.{section}.{k}={json.dumps(v)}" for k, v in vars(value).items() if v != getattr(before, k)]
        elif value != before:
            words.append(f"pretrain.{section}={json.dumps(value)}")
    return " ".join(words)


def _dataset(store: Store) -> DatasetRef:
    return tiny_dataset(store)
