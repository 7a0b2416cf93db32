"""SIGTERM and SIGINT as a question the program asks, instead of an exception anywhere.

Launchers and training processes both must finish something before they end. In a thread other than the main one nothing is installed
and the answer is always no.
"""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals(*numbers: signal.Signals) -> Generator[Callable[[], bool]]:
    """Catch signals inside the block; yields a function that says whether one arrived. The old handlers come back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    arrived = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        arrived.set()

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield arrived.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
