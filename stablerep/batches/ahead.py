"""Work of coming steps done ahead, by one thread or by processes; results come in order.

Errors are raised where the results are taken. Leaving the generator early stops the thread or the processes. The global random state is
not touched.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from stablerep.errors import LaunchError, StablerepError

T = TypeVar("T")
_NUM_AHEAD = 2  # results a thread or a worker prepares ahead
_POLL_SECONDS = 0.1


def by_thread(work: Callable[[int], T], steps: Iterable[int]) -> Generator[T]:
    """Results of `work` for each step, prepared by one thread; its exception is raised here."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(_NUM_AHEAD)
    is_stopped = threading.Event()

    def offer(result: T | BaseException | None) -> bool:
        while not is_stopped.is_set():
            try:
                ready.put(result, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def prepare() -> None:
        try:
            for step in steps:
                if not offer(work(step)):
                    return
            offer(None)
        except BaseException as error:  # whatever it is, the consumer must not wait for ever
            offer(error)

    thread = threading.Thread(target=prepare, name="stablerep-batches", daemon=True)
    thread.start()
    try:
        while (result := ready.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        is_stopped.set()
        thread.join()


def by_workers(work: Callable[[int], T], steps: Sequence[int], num_workers: int) -> Generator[T]:
    """The same, prepared by processes. They are not forked: the store's connections and threads do not survive a fork.

    Raises:
        LaunchError: a worker was killed, most often for memory or for too little /dev/shm.
    """
    loader: DataLoader[T | StablerepError] = DataLoader(
        _Steps(work),
        batch_size=None,
        sampler=steps,
        num_workers=min(num_workers, len(steps)),
        prefetch_factor=_NUM_AHEAD if steps else None,
        multiprocessing_context="forkserver" if steps else None,
        generator=torch.Generator(),  # else every loader would draw from the global random state
    )
    results = iter(loader)
    while True:
        try:
            result = next(results)
        except StopIteration:
            return
        except RuntimeError as error:
            raise LaunchError(
                f"a process that prepares batches died: {error}; give the container more memory or a larger /dev/shm, "
                "or lower pretrain.num_workers (0 prepares batches in a thread)"
            ) from error
        if isinstance(result, StablerepError):
            raise result
        yield result


class _Steps(Dataset[T | StablerepError]):
    """Steps as a map-style data set; errors made on purpose travel as values, so that their message stays as it is."""

    def __init__(self, work: Callable[[int], T]) -> None:
        self._work = work

    def __getitem__(self, step: int) -> T | StablerepError:
        try:
            return self._work(step)
        except StablerepError as error:
            return error
