"""Tiny objectives on a fixed batch, alone and as one of two gloo ranks: `python objective_worker.py FOLDER` with torchrun's variables."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import rank_processes
import torch

from stablerep.config.schema import HeadConfig, SynClrConfig
from stablerep.distributed import SyncBatchNorm1d, current_world, start, stop
from stablerep.models import HeadSpec, ModelSpec, TextSpec, TrunkSpec, build_two_tower
from stablerep.training.objective import MultiPositive, Objective
from stablerep.training.objective_baselines import Clip, SimClr, Supervised
from stablerep.training.objective_synclr import SynClr

TRUNK = TrunkSpec("vit_tiny_patch16_224", size_px=16, patch_px=8, width=16, depth=1, num_heads=2, mlp_ratio=2.0)
HEAD = HeadSpec(num_layers=2, hidden_dim=12, out_dim=6)
TEXT = TextSpec(vocabulary_size=20, eot_id=19, context_length=6, width=16, depth=1, num_heads=2, out_dim=8, projection="mlp")
LABELS, CLASSES = [50, 7, 31, 12, 99, 4], [0, 2, 1, 2, 0, 1]
VIEWS = {"multi_positive": 3, "ring": 3, "weighted": 3, "weighted_ring": 3, "simclr": 4, "clip": 1, "supervised": 2, "synclr": 3}
MULTI_POSITIVE = ("multi_positive", "ring", "weighted", "weighted_ring")
SYNCLR = SynClrConfig(num_local_crops=2, local_size_px=8, num_prototypes=32, prototype_hidden_dim=16, prototype_dim=8)
TIMEOUT_SECONDS = 240


def baseline(name: str) -> Any:
    """An objective over towers of a fixed seed, in training mode."""
    spec = ModelSpec(TRUNK, HEAD, TEXT if name in ("clip", *MULTI_POSITIVE) else None, name not in ("clip", "supervised"))
    if name == "synclr":
        spec = replace(spec, head=replace(HEAD, norm="layer"))
    towers = build_two_tower(spec, batch_norm=SyncBatchNorm1d, seed=3, is_size_free=name == "synclr")
    if name in MULTI_POSITIVE:
        in_ring = name.endswith("ring")
        objective: Objective = MultiPositive(towers, image_weight=1.0, text_weight=0.5, temperature=0.2, in_ring=in_ring)
    elif name == "synclr":
        head = HeadConfig(num_layers=2, hidden_dim=12, out_dim=6, norm="layer")
        objective = SynClr(towers, SYNCLR, head=head, temperature=0.2, num_steps=100, seed=1)
    elif name == "supervised":
        objective = Supervised(towers, labels=LABELS, classes=CLASSES, num_classes=3, seed=1)
    else:
        objective = SimClr(towers, temperature=0.2) if name == "simclr" else Clip(towers)
    return objective.train()


def batch(num_views: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views, tokens and labels of six captions."""
    generator = torch.Generator().manual_seed(num_views)
    tokens_NT = torch.randint(1, 18, (6, 6), generator=generator)
    tokens_NT[:, 4] = 19
    return torch.randn(num_views, 6, 3, 16, 16, generator=generator), tokens_NT, torch.tensor(LABELS)


def crops(num_views: int, own: slice = slice(None)) -> dict[str, Any]:
    """What SynCLR takes besides: two small crops of every image, and keys that hide patches of some."""
    generator = torch.Generator().manual_seed(10 + num_views)
    local_LNCHW = torch.randn(2 * num_views, 6, 3, 8, 8, generator=generator)
    view_key_MN = torch.randint(0, 1 << 62, (num_views, 6), generator=generator)
    return {"local_LNCHW": local_LNCHW[:, own], "view_key_MN": view_key_MN[:, own], "step": 3}


def outcome(name: str, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Loss and gradients of this rank's captions, in double precision."""
    objective = baseline(name).double()
    views, tokens, labels = batch(VIEWS[name])
    own = slice(rank * 6 // world_size, (rank + 1) * 6 // world_size)
    more = crops(VIEWS[name], own) if name == "synclr" else {}
    if more:
        more["local_LNCHW"] = more["local_LNCHW"].double()
    if name.startswith("weighted"):  # one image of the first rank's captions and two of the second's count less or not at all
        weights_MN = torch.ones(VIEWS[name], 6, dtype=torch.float64)
        weights_MN[0, 1], weights_MN[2, 3], weights_MN[1, 5] = 0.25, 0.0, 0.5
        more = {"weights_MN": weights_MN[:, own]}
    total, _, _ = objective(views[:, own].double(), tokens[own], labels[own], **more)
    total.backward()
    gradients = {key: parameter.grad for key, parameter in objective.named_parameters() if parameter.grad is not None}
    return {"loss": total.detach()} | gradients


def run_ranks(folder: Path) -> list[dict[str, Any]]:
    """What two processes found, in rank order."""
    rank_processes.run_ranks(Path(__file__), folder, 2, TIMEOUT_SECONDS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    start("cpu", timeout_seconds=120)
    world = current_world()
    torch.save({name: outcome(name, world.rank, world.world_size) for name in VIEWS}, Path(sys.argv[1]) / f"{world.rank}.pt")
    stop()
