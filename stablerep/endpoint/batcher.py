"""An in-process micro-batcher: images queue up, worker threads run the model on as many of them as fit.

There is no waiting for company: a worker takes what is queued, so a lone image is answered at once and batches form while the model is
busy. Images of one request may run in several batches and images of several requests in one. What is queued is shared out evenly among idle
workers (on a CPU, one thread a core beats one batch over all cores: no barrier after every layer). The queue is bounded from the moment a
request starts to be decoded (`admit`); beyond it callers are told to come back. An image that makes the model fail does not take others
down with it: its batch is run again, image by image, and only its own request fails. A request that is cancelled costs nothing more.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stablerep.errors import NotReadyError

Image = TypeVar("Image")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Request(Generic[Image, Answer]):
    images: list[Image]
    answers: dict[int, Answer] = field(default_factory=dict)  # pyright: ignore[reportUnknownVariableType]
    future: "Future[list[Answer]]" = field(default_factory=Future)  # pyright: ignore[reportUnknownVariableType]
    queued_at: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        return self.future.done()

    def answer(self, position: int, answer: Answer) -> None:
        self.answers[position] = answer
        if len(self.answers) == len(self.images) and self.future.set_running_or_notify_cancel():
            self.future.set_result([self.answers[place] for place in range(len(self.images))])

    def fail(self, error: Exception) -> None:
        if not self.is_over and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


_Place = tuple[_Request[Image, Answer], int]


class Batcher(Generic[Image, Answer]):
    """One queue, `num_workers` worker threads.

    Args:
        forward: the model; images in, one answer each out, in order. Called from several threads when there are several workers.
        max_batch: images in a model batch.
        max_queue: images admitted and not yet answered.
        num_workers: threads that run the model.
        on_batch: told the size of every model batch.
        on_wait: told the seconds that a request waited for the model.
    """

    def __init__(
        self,
        forward: Callable[[list[Image]], list[Answer]],
        *,
        max_batch: int,
        max_queue: int,
        num_workers: int = 1,
        on_batch: Callable[[int], None] = lambda _: None,
        on_wait: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._forward, self._max_batch, self._max_queue = forward, max_batch, max_queue
        self._on_batch, self._on_wait = on_batch, on_wait
        self._places: deque[_Place[Image, Answer]] = deque()
        self._num_admitted = self._num_idle = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._workers = [
            threading.Thread(target=self._work, name=f"stablerep-batcher-{number}", daemon=True) for number in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()

    @contextmanager
    def admit(self, num_images: int) -> Generator[None]:
        """Hold `num_images` places of the queue while a request is decoded, queued and answered.

        Raises:
            NotReadyError: the queue is full or the batcher is closed.
        """
        with self._changed:
            self._check_open()
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
        """Queue the images of one request (at least one); the future has one answer per image, or the error of the model."""
        request: _Request[Image, Answer] = _Request(list(images))
        with self._changed:
            self._check_open()
            self._places.extend((request, position) for position in range(len(request.images)))
            self._changed.notify(min(len(request.images), len(self._workers)))
        return request.future

    def close(self) -> None:
        """Answer what is queued, then end the workers."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _check_open(self) -> None:
        if self._is_closed:
            raise NotReadyError("the server is shutting down; send the request again in a moment")

    def _work(self) -> None:
        while places := self._next_places():
            self._answer(places)

    def _next_places(self) -> list[_Place[Image, Answer]]:
        """This worker's share of what is queued, at most a batch, at least one; empty when closed."""
        with self._changed:
            self._num_idle += 1
            places: list[_Place[Image, Answer]] = []
            while not places:
                self._changed.wait_for(lambda: self._places or self._is_closed)
                if not self._places:
                    break
                share = min(self._max_batch, -(-len(self._places) // self._num_idle))
                while self._places and len(places) < share:
                    request, position = self._places.popleft()
                    if not request.is_over:
                        places.append((request, position))
            self._num_idle -= 1
        for request, position in places:
            if position == 0:
                self._on_wait(time.monotonic() - request.queued_at)
        return places

    def _answer(self, places: list[_Place[Image, Answer]]) -> None:
        try:
            answers = self._forward([request.images[position] for request, position in places])
        except Exception as error:
            if len(places) == 1:
                with self._changed:
                    places[0][0].fail(error)
                return
            for place in places:
                self._answer([place])
            return
        self._on_batch(len(places))
        with self._changed:  # two workers may finish images of one request in the same moment
            for (request, position), answer in zip(places, answers, strict=True):
                if not request.is_over:
                    request.answer(position, answer)
