"""Collectives: rows in rank order, uneven and empty ranks, agreement, refusals."""

import pytest
import torch

from stablerep.distributed import all_gather, circulate, gather_int, gather_sizes, own_rows
from stablerep.errors import DataError


@pytest.mark.dist
def test_rows_arrive_in_rank_order(ranks, worker):
    for index, rank in enumerate(ranks):
        assert rank["world"] == (index, len(ranks), index == 0)
        assert rank["sizes"] == worker.SPLITS[len(ranks)]["uneven"]
        assert torch.equal(rank["int"], worker.LABELS)
        assert torch.equal(rank["gather"], worker.batch("cube", 12, 2, 3))
        assert torch.equal(rank["gather_known"], rank["gather"])
        assert rank["after"] == 1


@pytest.mark.dist
def test_rows_of_every_rank_come_around_the_ring(ranks, worker):
    """Own first, then those of rank - 1, rank - 2, ...; no rank holds more than two ranks' rows."""
    sizes = worker.SPLITS[len(ranks)]["uneven"]
    cube, labels = worker.batch("cube", 12, 2, 3).split(sizes), worker.LABELS.split(sizes)
    for index, rank in enumerate(ranks):
        assert len(rank["circulated"]) == len(ranks)
        for hop, (part, part_labels) in enumerate(rank["circulated"]):
            assert torch.equal(part, cube[index - hop])
            assert torch.equal(part_labels, labels[index - hop])


@pytest.mark.dist
def test_sums_and_agreement(ranks):
    for rank in ranks:
        assert rank["sum"].item() == 2 ** len(ranks) - 1
        assert rank["mean"].item() == (len(ranks) - 1) / 2
        assert not rank["mean"].requires_grad
        assert rank["anywhere"] == [True, False]


@pytest.mark.dist
def test_refusals_reach_every_rank(ranks):
    for index, rank in enumerate(ranks):
        assert rank["refusals"]["sizes"] == f"all_gather: expected sizes of {len(ranks)} ranks with 2 for rank {index}, found [2]"
        assert "expected whole numbers, found torch.float32" in rank["refusals"]["floats"]


def test_a_process_alone_gathers_itself():
    rows = torch.randn(3, 2, requires_grad=True)
    assert all_gather(rows) is rows
    assert torch.equal(gather_int(torch.tensor([3, 1])), torch.tensor([3, 1]))
    assert [parts[0] is rows for parts in circulate(rows)] == [True]
    with pytest.raises(DataError, match=r"circulate: expected tensors with equally many rows, found \[3, 2\]"):
        next(circulate(rows, rows[:2]))
    assert gather_sizes(7) == [7]
    assert torch.equal(own_rows([7]), torch.arange(7))
    with pytest.raises(DataError, match="all_gather carries floats"):
        gather_int(rows)
