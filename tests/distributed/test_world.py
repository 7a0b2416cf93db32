"""Starting and stopping: a process alone, and ranks that never come."""

import socket

import pytest
import torch
import torch.distributed as dist

from stablerep.distributed import World, barrier, current_world, is_true_anywhere, mean_over_ranks, start, stop, sum_over_ranks
from stablerep.errors import LaunchError


def test_a_process_alone_needs_no_start():
    assert current_world() == World(rank=0, world_size=1)
    assert current_world().is_first
    barrier()
    assert sum_over_ranks(torch.tensor(3.0)).item() == 3
    assert mean_over_ranks(torch.tensor(3.0)).item() == 3
    assert is_true_anywhere(True)
    assert not is_true_anywhere(False)
    stop()


def test_sum_over_ranks_leaves_its_argument_alone():
    value = torch.ones(2, requires_grad=True)
    total = sum_over_ranks(value)
    total += 1
    assert value.tolist() == [1, 1]
    assert not total.requires_grad


def test_start_without_torchrun_is_a_world_of_one():
    try:
        assert start("cpu", timeout_seconds=30) == World(0, 1)
        assert dist.is_initialized()
        assert dist.get_backend() == "gloo"
        barrier()
    finally:
        stop()
    assert not dist.is_initialized()


def test_ranks_that_do_not_come_are_named(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=r"expected gloo to connect all ranks within 1 s \(RANK=0, WORLD_SIZE=2"):
        start("cpu", timeout_seconds=1)
    assert not dist.is_initialized()


def test_a_bad_variable_is_a_launch_error(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(LaunchError, match="WORLD_SIZE="):
        start("cpu", timeout_seconds=1)


def test_unknown_device_is_refused():
    with pytest.raises(LaunchError, match="expected device type cpu or cuda, found 'tpu'"):
        start("tpu")
