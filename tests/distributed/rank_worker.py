"""What each rank of the distributed tests runs: `python rank_worker.py FOLDER`, with torchrun's variables set.

Every case takes the whole batch from a seed, keeps this rank's rows, and returns tensors; they are saved to FOLDER/<rank>.pt. The tests
import this file for the same batches and compare with one process.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stablerep.distributed import (
    SyncBatchNorm1d,
    all_gather,
    barrier,
    circulate,
    current_world,
    gather_int,
    gather_sizes,
    is_true_anywhere,
    mean_over_ranks,
    own_rows,
    start,
    stop,
    sum_over_ranks,
)
from stablerep.errors import DataError
from stablerep.losses import image_text, image_text_in_blocks, multi_positive, multi_positive_in_blocks
from stablerep.models import ProjectionHead

DIM, VIEWS = 5, 3
LABELS = torch.tensor([70, 10, 20, 70, 30, 10, 70, 20, 40, 10, 30, 50])  # captions over all ranks; 40 and 50 are single
TEXT_LABELS = torch.tensor([10, 20, 30, 40, 50, 60, 70, 20])  # 60 has no image, 20 is there twice
SPLITS = {
    2: {"even": [6, 6], "uneven": [9, 3], "empty": [12, 0]},
    4: {"even": [3, 3, 3, 3], "uneven": [5, 1, 4, 2], "empty": [7, 0, 5, 0]},
}
TEXT_SPLITS = {
    2: {"even": [4, 4], "uneven": [1, 7], "empty": [0, 8]},
    4: {"even": [2, 2, 2, 2], "uneven": [4, 1, 1, 2], "empty": [0, 3, 0, 5]},
}


def batch(name: str, *shape: int) -> Tensor:
    """The same numbers on every rank and in the tests."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(map(ord, name))), dtype=torch.float64)


WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 1.0, 0.25, 1.0, 1.0, 0.0, 2.0])  # of the images; caption 30 keeps one that counts


def lonely_labels(sizes: list[int]) -> Tensor:
    """Labels with which the last rank holds no positive: single images only (or no rows)."""
    return torch.cat([torch.full((sum(sizes[:-1]),), -1), torch.arange(sizes[-1])])


def own(rows: Tensor, sizes: list[int]) -> Tensor:
    """This rank's rows, as a leaf."""
    return rows[own_rows(sizes)].clone().requires_grad_(rows.is_floating_point())


def image_loss(sizes: list[int], labels: Tensor) -> dict[str, Tensor]:
    """The image loss of rows that went through shared weights."""
    world = current_world()
    weight = batch("weight", DIM, DIM).requires_grad_()
    rows = own(batch("rows", 12, DIM), sizes)
    anchor = rows @ weight
    labels_B = own(labels, sizes)
    value = multi_positive(
        anchor, all_gather(anchor, sizes), labels_B, gather_int(labels_B), own_rows(sizes), 0.1, num_ranks=world.world_size
    )
    value.backward()
    return {"value": value.detach(), "rows": rows.grad, "weight": weight.grad}


def ring_image_loss(sizes: list[int], labels: Tensor, weights: Tensor | None = None, factor: float = 1.0) -> dict[str, Tensor]:
    """The image loss again, with rows passed around the ring."""
    weight = batch("weight", DIM, DIM).requires_grad_()
    rows = own(batch("rows", 12, DIM), sizes)
    value = multi_positive_in_blocks(
        rows @ weight, labels, own_rows(sizes), 0.1, circulate, all_weights_G=weights, num_ranks=current_world().world_size
    )
    (factor * value).backward()
    return {"value": value.detach(), "rows": rows.grad, "weight": weight.grad}


def ring_text_loss(sizes: list[int], text_sizes: list[int], weights: Tensor | None = None) -> dict[str, Tensor]:
    """The image-text loss again, with rows passed around the ring."""
    weight, scale = batch("weight", DIM, DIM).requires_grad_(), torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    rows, texts = own(batch("rows", 12, DIM), sizes), own(batch("texts", 8, DIM), text_sizes)
    value = image_text_in_blocks(
        rows @ weight,
        texts @ weight,
        own(LABELS, sizes),
        own(TEXT_LABELS, text_sizes),
        LABELS,
        TEXT_LABELS,
        scale,
        circulate,
        image_weights_B=None if weights is None else weights[own_rows(sizes)],
        all_image_weights_G=weights,
        num_ranks=current_world().world_size,
    )
    value.backward()
    return {"value": value.detach(), "rows": rows.grad, "texts": texts.grad, "weight": weight.grad, "scale": scale.grad}


def text_loss(sizes: list[int], text_sizes: list[int]) -> dict[str, Tensor]:
    """The image-text loss of rows that went through shared weights."""
    weight, scale = batch("weight", DIM, DIM).requires_grad_(), torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    rows, texts = own(batch("rows", 12, DIM), sizes), own(batch("texts", 8, DIM), text_sizes)
    image, text = rows @ weight, texts @ weight
    labels_B, labels_N = own(LABELS, sizes), own(TEXT_LABELS, text_sizes)
    value = image_text(
        image,
        text,
        labels_B,
        labels_N,
        scale,
        all_image_GD=all_gather(image),
        all_text_HD=all_gather(text),
        all_image_labels_G=gather_int(labels_B),
        all_text_labels_H=gather_int(labels_N),
        num_ranks=current_world().world_size,
    )
    value.backward()
    return {"value": value.detach(), "rows": rows.grad, "texts": texts.grad, "weight": weight.grad, "scale": scale.grad}


def norm(sizes: list[int], offset: float, dtype: torch.dtype, momentum: float | None = 0.1) -> dict[str, Any]:
    """Two training steps of the batch norm and one evaluation."""
    module = SyncBatchNorm1d(DIM, momentum=momentum).to(dtype)
    with torch.no_grad():
        module.weight.copy_(batch("affine", DIM))
    outputs, grads = [], []
    for step in ("first", "second"):
        rows = own((batch(step, 12, DIM) + offset).to(dtype), sizes)
        output = module(rows)
        (output * own(batch("direction", 12, DIM).to(dtype), sizes).detach()).pow(3).sum().backward()
        outputs.append(output.detach())
        grads.append(rows.grad)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    evaluated = module(own(batch("second", 12, DIM).to(dtype) + offset, sizes).detach()).detach()
    return {
        "outputs": outputs,
        "grads": grads,
        "weight": module.weight.grad,
        "bias": module.bias.grad,
        "state": state,
        "evaluated": evaluated,
    }


def head(sizes: list[int], per_view: bool) -> dict[str, Any]:
    """The projection head over view-major rows of this rank's captions."""
    torch.manual_seed(0)
    module = ProjectionHead(DIM, 7, 3, 3, "batch", SyncBatchNorm1d, per_view).double()
    rows = torch.cat([view[own_rows(sizes)] for view in batch("views", VIEWS, 12, DIM)]).requires_grad_()
    output = module(rows, VIEWS)
    output.pow(3).sum().backward()
    return {
        "output": output.detach(),
        "rows": rows.grad,
        "weights": {name: parameter.grad for name, parameter in module.named_parameters()},
        "state": {name: value.clone() for name, value in module.state_dict().items()},
    }


def refusals(rank: int) -> dict[str, str]:
    """Messages of what is refused; every rank must get one, or the others would wait for ever."""
    messages: dict[str, str] = {}
    cases = {
        "one row": lambda: SyncBatchNorm1d(DIM)(torch.ones(1 if rank == 0 else 0, DIM)),
        "sizes": lambda: all_gather(torch.ones(2, DIM), [2]),
        "floats": lambda: gather_int(torch.ones(2)),
        "singles": lambda: image_loss(list(SPLITS[current_world().world_size]["even"]), torch.arange(12)),
        "ring singles": lambda: ring_image_loss(list(SPLITS[current_world().world_size]["even"]), torch.arange(12)),
        "ring factors": lambda: ring_image_loss(list(SPLITS[current_world().world_size]["even"]), LABELS, factor=1.0 + rank),
    }
    for name, case in cases.items():
        try:
            case()
        except DataError as error:
            messages[name] = str(error)
    return messages


def outcome() -> dict[str, Any]:
    """All cases."""
    world = start("cpu", timeout_seconds=120)
    assert start("cpu") == world  # joining twice changes nothing
    splits, text_splits = SPLITS[world.world_size], TEXT_SPLITS[world.world_size]
    even, uneven = splits["even"], splits["uneven"]
    result: dict[str, Any] = {
        "world": (world.rank, world.world_size, world.is_first),
        "sizes": gather_sizes(uneven[world.rank]),
        "int": gather_int(own(LABELS, uneven)),
        "gather": all_gather(own(batch("cube", 12, 2, 3), uneven)).detach(),
        "gather_known": all_gather(own(batch("cube", 12, 2, 3), uneven), uneven).detach(),
        "circulated": [
            tuple(part.clone() for part in parts) for parts in circulate(own(batch("cube", 12, 2, 3), uneven), own(LABELS, uneven))
        ],
        "sum": sum_over_ranks(torch.tensor(2.0**world.rank)),
        "mean": mean_over_ranks(torch.tensor(float(world.rank), requires_grad=True)),
        "anywhere": [is_true_anywhere(world.rank == 1), is_true_anywhere(False)],
        "refusals": refusals(world.rank),
        "wide": norm(even, 1e4, torch.float32),
        "cumulative": norm(even, 0.0, torch.float64, None),
    }
    for name, sizes in splits.items():
        result[f"image {name}"] = image_loss(sizes, LABELS)
        result[f"lonely {name}"] = image_loss(sizes, lonely_labels(sizes))
        result[f"text {name}"] = text_loss(sizes, text_splits[name])
        result[f"ring image {name}"] = ring_image_loss(sizes, LABELS)
        result[f"ring lonely {name}"] = ring_image_loss(sizes, lonely_labels(sizes))
        result[f"ring weighted {name}"] = ring_image_loss(sizes, LABELS, WEIGHTS.double())
        result[f"ring text {name}"] = ring_text_loss(sizes, text_splits[name])
        result[f"ring weighted text {name}"] = ring_text_loss(sizes, text_splits[name], WEIGHTS.double())
        result[f"norm {name}"] = norm(sizes, 3.0, torch.float64)
        for per_view in (True, False):
            result[f"head {name} {per_view}"] = head(sizes, per_view)
    barrier()
    stop()
    result["after"] = current_world().world_size
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = outcome()
    torch.save(results, Path(sys.argv[1]) / f"{results['world'][0]}.pt")
