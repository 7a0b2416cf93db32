"""SIGTERM and SIGINT as a question the program asks, instead of an exception anywhere.

Launchers and training processes both must finish something before they end. What cannot wait until the program asks runs in a thread
that the signal itself wakes: the main thread may be asleep, or wait for a server. In a thread other than the main one nothing is
installed and the answer is always no.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

_JOIN_SECONDS = 5.0  # for a call that runs while the block is left


@contextmanager
def stop_signals(*numbers: signal.Signals, at_once: Callable[[], None] | None = None) -> Generator[Callable[[], bool]]:
    """Catch signals inside the block; yields a function that says whether one arrived. The old handlers come back afterwards.

    Args:
        numbers: the signals.
        at_once: called in a thread of its own at the first signal, within milliseconds, whatever the main thread does; must not raise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    has_arrived = False

    def note() -> None:
        nonlocal has_arrived
        has_arrived = True

    def handle(number: int, frame: FrameType | None) -> None:
        note()

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        if at_once is None:
            yield lambda: has_arrived
        else:
            with _woken(frozenset(numbers), (note, at_once)):
                yield lambda: has_arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _woken(numbers: frozenset[int], calls: tuple[Callable[[], None], ...]) -> Generator[None]:
    """A thread that makes `calls` when the first of the signals arrives: the interpreter writes its number into a pipe at once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while received := os.read(reader, 1):
            if received[0] in numbers:
                for call in calls:
                    call()
                return

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join(_JOIN_SECONDS)
        if not thread.is_alive():
            os.close(reader)
