"""An in-process micro-batcher: requests queue up, one worker thread runs the model on as many of their images as fit.

There is no waiting for company: the worker takes what is queued, so a lone request is answered at once and batches form while the
model is busy. The queue is bounded from the moment a request starts to be decoded (`admit`); beyond it callers are told to come back. A
request that makes the model fail does not take others down with it: its batch is run again, request by request.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stablerep.errors import NotReadyError

Image = TypeVar("Image")
Answer = TypeVar("Answer")


@dataclass
class _Job(Generic[Image, Answer]):
    images: list[Image]
    future: "Future[list[Answer]]" = field(default_factory=Future)  # pyright: ignore[reportUnknownVariableType]


class Batcher(Generic[Image, Answer]):
    """One queue, one worker thread.

    Args:
        forward: the model; images in, one answer each out, in order.
        max_batch: images in a model batch.
        max_queue: images admitted and not yet answered.
        on_batch: told the size of every model batch.
    """

    def __init__(
        self,
        forward: Callable[[list[Image]], list[Answer]],
        *,
        max_batch: int,
        max_queue: int,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._forward, self._max_batch, self._max_queue, self._on_batch = forward, max_batch, max_queue, on_batch
        self._jobs: deque[_Job[Image, Answer]] = deque()
        self._num_admitted = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="stablerep-batcher", daemon=True)
        self._worker.start()

    @contextmanager
    def admit(self, num_images: int) -> Generator[None]:
        """Hold `num_images` places of the queue while a request is decoded, queued and answered.

        Raises:
            NotReadyError: the queue is full or the batcher is closed.
        """
        with self._changed:
            if self._is_closed:
                raise NotReadyError("the server is shutting down; send the request again in a moment")
            if self._num_admitted + num_images > self._max_queue:
                raise NotReadyError(
                    f"{self._num_admitted} images are waiting and at most {self._max_queue} may; send the request again in a moment"
                )
            self._num_admitted += num_images
        try:
            yield
        finally:
            with self._changed:
                self._num_admitted -= num_images

    def submit(self, images: Sequence[Image]) -> "Future[list[Answer]]":
        """Queue the images of one request; the future has one answer per image, or the error of the model."""
        job: _Job[Image, Answer] = _Job(list(images))
        with self._changed:
            if self._is_closed:
                raise NotReadyError("the server is shutting down; send the request again in a moment")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Answer what is queued, then end the worker."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while jobs := self._next_jobs():
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if running:
                self._answer(running)

    def _next_jobs(self) -> list[_Job[Image, Answer]]:
        """The longest run of queued jobs that fits a batch (at least one); empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            jobs: list[_Job[Image, Answer]] = []
            num_images = 0
            while self._jobs and (not jobs or num_images + len(self._jobs[0].images) <= self._max_batch):
                jobs.append(self._jobs.popleft())
                num_images += len(jobs[-1].images)
            return jobs

    def _answer(self, jobs: list[_Job[Image, Answer]]) -> None:
        images = [image for job in jobs for image in job.images]
        try:
            answers = self._forward(images)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        self._on_batch(len(images))
        start = 0
        for job in jobs:
            job.future.set_result(answers[start : start + len(job.images)])
            start += len(job.images)
