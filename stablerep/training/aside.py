"""Objects written by a thread while training goes on: a disk that flushes or an object store that answers slowly holds up no step.

Of an object that waits to be written only the newest content counts. Between two writes there is no thread.
"""

import threading

from stablerep.store import Store


class WritesAside:
    """Writes into a store, one after another, in a thread.

    Args:
        store: where keys are.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._waiting: dict[str, bytes] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def write(self, key: str, content: bytes) -> None:
        """Have an object written soon.

        Raises:
            StoreError: an earlier write failed.
        """
        self._raise_failure()
        with self._lock:
            self._waiting[key] = content
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="journal")
                self._thread.start()

    def finish(self) -> None:
        """Wait until all is written.

        Raises:
            StoreError: a write failed.
        """
        self.wait()
        self._raise_failure()

    def wait(self) -> None:
        """Wait until nothing is on its way."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
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
