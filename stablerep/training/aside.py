"""Objects written by a thread while training goes on: a disk that flushes or an object store that answers slowly holds up no step.

Of an object that waits to be written only the newest content counts. The thread stays between two writes: to start one waits for it.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from stablerep.store import Store


class WritesAside:
    """Writes into a store, one after another, in a thread.

    Args:
        store: where keys are.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._waiting: dict[str, bytes] = {}
        self._pool = ThreadPoolExecutor(1, "journal")
        self._work: Future[None] | None = None
        self._error: Exception | None = None

    def write(self, key: str, content: bytes) -> None:
        """Have an object written soon.

        Raises:
            StoreError: an earlier write failed.
        """
        self._raise_failure()
        with self._lock:
            self._waiting[key] = content
            if self._work is None:
                self._work = self._pool.submit(self._write_all)

    def finish(self) -> None:
        """Wait until all is written.

        Raises:
            StoreError: a write failed.
        """
        self.wait()
        self._raise_failure()

    def wait(self) -> None:
        """Wait until nothing is on its way."""
        work = self._work
        if work is not None:
            work.result()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._work = None
                    return
                key = next(iter(self._waiting))
                content = self._waiting.pop(key)
            try:
                self._store.write(key, content)
            except Exception as error:  # raised again by the training thread
                self._error = error

    def _raise_failure(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
