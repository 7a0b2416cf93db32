"""The step that was not finite, kept whole so that it can be replayed: inputs of every rank, weights before the update, seed, losses.

    nonfinite/step-<N>/rank-<R>.safetensors   the tensors of that rank's batch
    nonfinite/step-<N>/rank-<R>.json          its losses, captions and whatever a number in the step depends on
    nonfinite/step-<N>/state.safetensors      full weights and buffers of the objective, from rank 0

Dimension key: N captions; a batch's tensors name their dimensions, so the parts of all ranks are joined along N. Keeping never hides the
error that it explains: what cannot be written is said in the message.
"""

# pyright: reportUnknownVariableType=false
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from stablerep.batches import Batch
from stablerep.errors import DataError, StablerepError
from stablerep.store import Store


@dataclass(frozen=True)
class KeptStep:
    """What was kept of a step: the batch of all ranks as one, the objective's state, and each rank's facts."""

    batch: Batch
    state: dict[str, Tensor]
    facts: tuple[dict[str, Any], ...]

    @property
    def seed(self) -> int:
        """Of the global random generator when the step began."""
        return int(self.facts[0]["random_seed"])


def kept_prefix(step: int) -> str:
    """Key of the folder of a step, in the run's prefix."""
    return f"nonfinite/step-{step}"


def random_seed(seed: int, step: int) -> int:
    """What the global random generator of every rank is set to before a step."""
    return seed * 1_000_003 + step


def keep_step(runs: Store, batch: Batch, state: Mapping[str, Tensor], facts: Mapping[str, Any], rank: int) -> str:
    """Write this rank's part of a step.

    Args:
        runs: the prefix of the run.
        batch: the inputs of this rank.
        state: of the objective; empty on other ranks than 0.
        facts: numbers and words of the step.
        rank: of this process.

    Returns:
        Empty, or why it could not be written.
    """
    prefix = kept_prefix(batch.step)
    try:
        _put(runs, f"{prefix}/rank-{rank}.safetensors", _tensors(batch))
        if state:
            _put(runs, f"{prefix}/state.safetensors", state)
        written = {name: _plain(value) for name, value in facts.items()} | {"rank": rank, "caption_ids": batch.caption_ids}
        runs.write(f"{prefix}/rank-{rank}.json", json.dumps(written, indent=1, sort_keys=True))
    except (StablerepError, OSError, RuntimeError) as error:
        return f"rank {rank}: {error}"
    return ""


def read_step(runs: Store, step: int) -> KeptStep:
    """Read what all ranks kept of a step, as one batch.

    Raises:
        DataError: nothing was kept of this step, or not by every rank.
    """
    prefix = kept_prefix(step)
    keys = runs.list(prefix)
    facts = [json.loads(runs.read_text(key)) for key in keys if key.endswith(".json")]
    facts.sort(key=lambda part: part["rank"])
    expected = facts[0]["world_size"] if facts else 1
    if len(facts) != expected:
        found = ", ".join(sorted(key.split("/")[1] for key in runs.list("nonfinite"))) or "none"
        raise DataError(f"{runs.uri_of(prefix)}: expected a kept step of {expected} ranks, found {len(facts)}; steps kept: {found}")
    parts = [load(runs.read(f"{prefix}/rank-{part['rank']}.safetensors")) for part in facts]
    joined: dict[str, Any] = {name: torch.cat([part[name] for part in parts], dim=_caption_dimension(name)) for name in parts[0]}
    captions = tuple(name for part in facts for name in part["caption_ids"])
    return KeptStep(Batch(**joined, step=step, caption_ids=captions), load(runs.read(f"{prefix}/state.safetensors")), tuple(facts))


def _tensors(batch: Batch) -> dict[str, Tensor]:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value.detach().cpu().contiguous() for name, value in values.items() if isinstance(value, Tensor)}


def _caption_dimension(name: str) -> int:
    """Where N is among the dimensions that a tensor's name spells: 1 of views_MNCHW, 0 of labels_N."""
    return name.rpartition("_")[2].index("N")


def _put(runs: Store, key: str, tensors: Mapping[str, Tensor]) -> None:
    with tempfile.TemporaryDirectory(prefix="stablerep-nonfinite-") as name:
        path = Path(name) / "tensors.safetensors"
        save_file(dict(tensors), str(path))
        runs.put(path, key)


def _plain(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in cast("Mapping[Any, Any]", value).items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
