import threading
import time
from collections.abc import Callable, Iterator

import pytest

from stablerep.endpoint.batcher import Batcher
from stablerep.errors import NotReadyError


class Doubling:
    """A model on integers: waits at a gate, doubles, fails on negative numbers, keeps the batches it saw."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, numbers: list[int]) -> list[int]:
        self.entered.release()
        assert self.gate.wait(60)  # longer than any test waits for `entered`: a batch that gave up would come again image by image
        self.batches.append(list(numbers))
        if any(number < 0 for number in numbers):
            raise ValueError(f"negative among {len(numbers)}")
        return [2 * number for number in numbers]


Make = Callable[..., Batcher[int, int]]


@pytest.fixture
def model() -> Doubling:
    return Doubling()


@pytest.fixture
def make(model: Doubling) -> Iterator[Make]:
    made: list[Batcher[int, int]] = []

    def make(**options: object) -> Batcher[int, int]:
        made.append(Batcher(model, **{"max_batch": 4, "max_queue": 8} | options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    model.gate.set()
    for batcher in made:
        batcher.close()


def test_what_queues_while_the_model_is_busy_becomes_batches_in_order(make: Make, model: Doubling) -> None:
    sizes: list[int] = []
    batcher = make(on_batch=sizes.append)
    first = batcher.submit([0])
    assert model.entered.acquire(timeout=10)
    others = [batcher.submit(numbers) for numbers in ([1], [2, 3], [4, 5], [6, 7, 8, 9], [10])]
    model.gate.set()
    assert [future.result(10) for future in (first, *others)] == [[0], [2], [4, 6], [8, 10], [12, 14, 16, 18], [20]]
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert sizes == [1, 4, 4, 2]


def test_a_request_that_fails_fails_alone(make: Make, model: Doubling) -> None:
    batcher = make()
    blocker = batcher.submit([0])
    assert model.entered.acquire(timeout=10)
    good, bad, also_good = batcher.submit([1]), batcher.submit([-1]), batcher.submit([2, 3][:1])
    model.gate.set()
    assert [blocker.result(10), good.result(10), also_good.result(10)] == [[0], [2], [4]]
    with pytest.raises(ValueError, match="negative among 1"):
        bad.result(10)


def test_a_full_queue_refuses_before_decoding_and_opens_again(make: Make) -> None:
    batcher = make()
    with batcher.admit(5):
        with batcher.admit(3):
            with pytest.raises(NotReadyError, match=r"8 images are waiting and at most 8 may; send the request again"):
                with batcher.admit(1):
                    pytest.fail("a ninth image was admitted")
        with batcher.admit(3):
            pass


def test_places_are_given_back_when_a_request_fails(make: Make) -> None:
    batcher = make()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="decoding"), batcher.admit(8):
            raise RuntimeError("decoding failed")


def test_closing_answers_what_is_queued_and_refuses_the_rest(make: Make, model: Doubling) -> None:
    batcher = make()
    futures = [batcher.submit([number]) for number in range(6)]
    model.gate.set()
    batcher.close()
    assert [future.result(0) for future in futures] == [[0], [2], [4], [6], [8], [10]]
    with pytest.raises(NotReadyError, match="shutting down"):
        batcher.submit([1])
    with pytest.raises(NotReadyError, match="shutting down"), batcher.admit(1):
        pytest.fail("admitted after close")


def test_a_cancelled_request_costs_the_model_nothing(make: Make, model: Doubling) -> None:
    batcher = make()
    blocker = batcher.submit([0])
    assert model.entered.acquire(timeout=10)
    cancelled, kept = batcher.submit([1]), batcher.submit([2])
    assert cancelled.cancel()
    model.gate.set()
    assert [blocker.result(10), kept.result(10)] == [[0], [4]]
    assert model.batches == [[0], [2]]


def test_workers_share_what_is_queued_evenly_and_answers_keep_their_order(make: Make, model: Doubling) -> None:
    batcher = make(num_workers=2)
    blockers = [batcher.submit([0]), batcher.submit([0])]
    assert all(model.entered.acquire(timeout=10) for _ in range(2))
    big = batcher.submit([1, 2, 3, 4, 5, 6, 7, 8])
    model.gate.set()
    assert big.result(10) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert [blocker.result(10) for blocker in blockers] == [[0], [0]]
    assert sorted(number for batch in model.batches for number in batch) == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert max(len(batch) for batch in model.batches) <= 4


def test_two_images_of_an_idle_server_go_to_two_workers(make: Make, model: Doubling) -> None:
    batcher = make(num_workers=2)
    deadline = time.monotonic() + 30
    while batcher._num_idle < 2:  # threads that have not begun have no share yet
        assert time.monotonic() < deadline
        time.sleep(0.001)
    future = batcher.submit([1, 2])
    assert all(model.entered.acquire(timeout=10) for _ in range(2))  # both are in the model before either is done
    model.gate.set()
    assert future.result(10) == [2, 4]
    assert sorted(model.batches) == [[1], [2]]


def test_one_bad_image_fails_its_request_and_no_other(make: Make, model: Doubling) -> None:
    batcher = make()
    blocker = batcher.submit([0])
    assert model.entered.acquire(timeout=10)
    bad, good = batcher.submit([1, -1]), batcher.submit([2, 3])
    model.gate.set()
    assert [blocker.result(10), good.result(10)] == [[0], [4, 6]]
    with pytest.raises(ValueError, match="negative among 1"):
        bad.result(10)


def test_the_wait_of_every_request_is_told_once(make: Make, model: Doubling) -> None:
    waits: list[float] = []
    batcher = make(on_wait=waits.append, max_batch=2)
    futures = [batcher.submit([1, 2, 3]), batcher.submit([4])]
    model.gate.set()
    assert [future.result(10) for future in futures] == [[2, 4, 6], [8]]
    assert len(waits) == 2
    assert all(0 <= seconds < 60 for seconds in waits)
