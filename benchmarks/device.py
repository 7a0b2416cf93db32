"""The device of the benchmarks for a GPU, and time on it."""

import time
from collections.abc import Callable

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds_a_call(work: Callable[[], object], num_warm: int, num_calls: int) -> float:
    """Wall seconds of one call, over some after the first; the device is waited for."""
    for _ in range(num_warm):
        work()
    _wait()
    started_at = time.perf_counter()
    for _ in range(num_calls):
        work()
    _wait()
    return (time.perf_counter() - started_at) / num_calls


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
