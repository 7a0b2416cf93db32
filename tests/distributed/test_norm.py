"""Batch norm over ranks equals torch's batch norm over all rows: values, gradients, running statistics, evaluation."""

import pytest
import torch
from torch import nn

from stablerep.distributed import SyncBatchNorm1d
from stablerep.errors import DataError
from stablerep.models import ProjectionHead


def one_process(worker, offset: float, dtype: torch.dtype, momentum: float | None = 0.1) -> dict:
    """The norm case of the worker with nn.BatchNorm1d over all rows."""
    module = nn.BatchNorm1d(worker.DIM, momentum=momentum).to(dtype)
    with torch.no_grad():
        module.weight.copy_(worker.batch("affine", worker.DIM))
    outputs, grads = [], []
    for step in ("first", "second"):
        rows = (worker.batch(step, 12, worker.DIM) + offset).to(dtype).requires_grad_()
        output = module(rows)
        (output * worker.batch("direction", 12, worker.DIM).to(dtype)).pow(3).sum().backward()
        outputs.append(output.detach())
        grads.append(rows.grad)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    evaluated = module(worker.batch("second", 12, worker.DIM).to(dtype) + offset).detach()
    return {
        "outputs": outputs,
        "grads": grads,
        "weight": module.weight.grad,
        "bias": module.bias.grad,
        "state": state,
        "evaluated": evaluated,
    }


def check(found: list[dict], expected: dict, **tolerance: float) -> None:
    for step in range(2):
        for name in ("outputs", "grads"):
            torch.testing.assert_close(torch.cat([rank[name][step] for rank in found]), expected[name][step], **tolerance)
    for name in ("weight", "bias"):
        torch.testing.assert_close(torch.stack([rank[name] for rank in found]).sum(0), expected[name], **tolerance)
    for rank in found:
        torch.testing.assert_close(rank["state"], expected["state"], **tolerance)
    torch.testing.assert_close(torch.cat([rank["evaluated"] for rank in found]), expected["evaluated"], **tolerance)


@pytest.mark.dist
@pytest.mark.parametrize("split", ["even", "uneven", "empty"])
def test_equals_the_whole_batch(ranks, worker, split):
    check([rank[f"norm {split}"] for rank in ranks], one_process(worker, 3.0, torch.float64))


@pytest.mark.dist
def test_cumulative_statistics(ranks, worker):
    check([rank["cumulative"] for rank in ranks], one_process(worker, 0.0, torch.float64, None))


@pytest.mark.dist
def test_variance_is_no_difference_of_large_squares(ranks, worker):
    """A mean of 1e4 with a deviation of 1: E[x^2] - E[x]^2 in float32 would keep no digit (1e8 against 1)."""
    exact = one_process(worker, 1e4, torch.float32)["outputs"][0].double()
    found = torch.cat([rank["wide"]["outputs"][0] for rank in ranks]).double()
    torch.testing.assert_close(found, exact, rtol=0, atol=5e-3)
    variance = ranks[0]["wide"]["state"]["running_var"]
    expected = 0.81 + 0.09 * worker.batch("first", 12, worker.DIM).var(0) + 0.1 * worker.batch("second", 12, worker.DIM).var(0)
    torch.testing.assert_close(variance.double(), expected, rtol=5e-3, atol=0)


@pytest.mark.dist
@pytest.mark.parametrize("split", ["even", "uneven", "empty"])
@pytest.mark.parametrize("per_view", [True, False])
def test_head_equals_one_process(ranks, worker, split, per_view):
    """Each view is a batch over all ranks' captions (or all views are one)."""
    torch.manual_seed(0)
    module = ProjectionHead(worker.DIM, 7, 3, 3, "batch", nn.BatchNorm1d, per_view).double()
    rows = worker.batch("views", worker.VIEWS, 12, worker.DIM).flatten(0, 1).requires_grad_()
    output = module(rows, worker.VIEWS)
    output.pow(3).sum().backward()
    found = [rank[f"head {split} {per_view}"] for rank in ranks]

    def views(name: str) -> torch.Tensor:
        return torch.cat([torch.cat([rank[name].chunk(worker.VIEWS)[view] for rank in found]) for view in range(worker.VIEWS)])

    torch.testing.assert_close(views("output"), output.detach())
    torch.testing.assert_close(views("rows"), rows.grad)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(torch.stack([rank["weights"][name] for rank in found]).sum(0), parameter.grad)
    for rank in found:
        torch.testing.assert_close(rank["state"], module.state_dict())


@pytest.mark.dist
def test_too_few_rows_are_refused_on_every_rank(ranks):
    for rank in ranks:
        assert "expected 2 or more rows over all ranks, found 1" in rank["refusals"]["one row"]


def test_alone_it_is_batch_norm_to_the_last_bit():
    """Trap 11: it works on one CPU process, where torch's SyncBatchNorm raises."""
    ours, theirs = SyncBatchNorm1d(4), nn.BatchNorm1d(4)
    for step in range(3):
        rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        left, right = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        out_left, out_right = ours(left), theirs(right)
        out_left.pow(3).sum().backward()
        out_right.pow(3).sum().backward()
        assert torch.equal(out_left, out_right)
        assert torch.equal(left.grad, right.grad)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert torch.equal(ours.eval()(rows), theirs.eval()(rows))


def test_state_is_interchangeable_with_batch_norm():
    nn.BatchNorm1d(4).load_state_dict(SyncBatchNorm1d(4).state_dict())
    assert SyncBatchNorm1d(4).state_dict().keys() == nn.BatchNorm1d(4).state_dict().keys()


@pytest.mark.parametrize("arguments", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_arguments_of_batch_norm(arguments):
    ours, theirs = SyncBatchNorm1d(4, **arguments), nn.BatchNorm1d(4, **arguments)
    rows = torch.randn(6, 4)
    assert torch.equal(ours(rows), theirs(rows))
    assert torch.equal(ours.eval()(rows), theirs.eval()(rows))


def test_running_statistics_stay_wide_in_half_precision():
    module = SyncBatchNorm1d(4).bfloat16()
    assert module.weight.dtype == torch.bfloat16
    assert module.running_mean.dtype == module.running_var.dtype == torch.float32
    rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    for _ in range(50):
        assert module(rows).dtype == torch.bfloat16
    wide = rows.float()
    torch.testing.assert_close(module.running_mean, wide.mean(0), rtol=0.01, atol=1e-3)
    torch.testing.assert_close(module.running_var, wide.var(0), rtol=0.01, atol=0)
    assert module.eval()(rows).dtype == torch.bfloat16
    assert SyncBatchNorm1d(4).double().running_var.dtype == torch.float64


def test_autocast_changes_no_digit():
    module, rows = SyncBatchNorm1d(4), torch.randn(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(rows)
    assert torch.equal(inside, module(rows))


def test_wrong_shapes_are_refused():
    with pytest.raises(DataError, match=r"expected 2 or more rows over all ranks, found 1; raise captions_per_batch"):
        SyncBatchNorm1d(4)(torch.ones(1, 4))
    with pytest.raises(DataError, match=r"expected rows of 4 channels, found shape \(2, 5\)"):
        SyncBatchNorm1d(4)(torch.ones(2, 5))
    with pytest.raises(DataError, match="expected rows of 4 channels"):
        SyncBatchNorm1d(4)(torch.ones(2, 4, 3))
    assert SyncBatchNorm1d(4).eval()(torch.ones(1, 4)).shape == (1, 4)
