import math
import os
import threading
from operator import neg

import pytest

from stablerep.batches.ahead import by_thread, by_workers
from stablerep.errors import LaunchError


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "stablerep-batches"]


def test_results_come_in_order() -> None:
    assert list(by_thread(neg, range(3, 9))) == [-3, -4, -5, -6, -7, -8]
    assert list(by_thread(neg, range(0))) == []
    assert not running()


def test_work_is_done_ahead_but_not_far_ahead() -> None:
    started: list[int] = []
    is_third_started, is_sixth_started = threading.Event(), threading.Event()

    def work(step: int) -> int:
        started.append(step)
        (is_third_started if step == 2 else is_sixth_started if step == 5 else threading.Event()).set()
        return step

    results = by_thread(work, range(100))
    assert next(results) == 0
    assert is_third_started.wait(10)  # while the first result is in use
    assert not is_sixth_started.wait(0.3)
    results.close()
    assert len(started) < 6


def test_an_error_is_raised_where_results_are_taken_and_after_those_before_it() -> None:
    results = by_thread(lambda step: 1 / (3 - step), range(10))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not running()


def test_leaving_early_stops_the_thread_also_while_its_queue_is_full() -> None:
    results = by_thread(neg, range(10**9))
    next(results)
    assert running()
    results.close()
    assert not running()


@pytest.mark.dist
def test_processes_give_results_in_order() -> None:
    assert list(by_workers(neg, range(7), 2)) == [0, -1, -2, -3, -4, -5, -6]


@pytest.mark.dist
def test_a_killed_worker_is_an_error_with_the_remedy() -> None:
    with pytest.raises(LaunchError, match=r"a process that prepares batches died: .*; give the container more memory or a larger /dev/shm"):
        list(by_workers(os._exit, range(1, 4), 1))


@pytest.mark.dist
def test_other_errors_of_a_worker_are_raised() -> None:
    with pytest.raises(ValueError, match=r"math domain error|expected a positive input"):
        list(by_workers(math.log, range(1), 1))
