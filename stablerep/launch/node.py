"""torchrun with exit codes: `python -m stablerep.launch.node <torchrun arguments>` is the command of a training container.

torchrun answers every failure with 1. This program calls it and ends with the code of the worker that failed first (128 + n for signal n),
so that a Job's podFailurePolicy and the launcher can tell a wrong recipe from a full memory. After SIGTERM it ends with 75 when every
worker saved and said so, else with 143. Torch is imported in `main` only.
"""

# pyright: reportUnknownMemberType=false, reportPrivateImportUsage=false
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from stablerep.errors import Preempted

# Codes that one worker's end causes in the others: a broken connection, a SIGTERM from torchrun, the save that follows it.
_SECONDARY = (1, 6, Preempted.exit_code, -signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Run torchrun on this node; returns the exit code that says how its workers ended."""
    _end_on_sigterm_until_workers_run()
    return _run(arguments)


def _run(arguments: list[str]) -> int:
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import api

    codes: dict[int, int | None] = {}

    class Agent(api.LocalElasticAgent):
        """Notes the workers' exit codes once they have ended: torchrun forgets them after a signal."""

        def _shutdown(self, *positional: Any, **named: Any) -> None:
            super()._shutdown(*positional, **named)
            handlers: dict[int, Any] = getattr(self._pcontext, "subprocess_handlers", {})
            codes.update({rank: handler.proc.poll() for rank, handler in handlers.items()})

    api.LocalElasticAgent = Agent
    try:
        torchrun.run(torchrun.parse_args(arguments))
    except ChildFailedError as error:
        sys.stderr.write(f"{error}\n")
        return first_code([(failure.timestamp, failure.exitcode) for failure in error.failures.values()])
    except SignalException as error:
        return code_after_signal(list(codes.values()), error.sigval)
    return 0


def first_code(failures: list[tuple[int, int]]) -> int:
    """The exit code that explains a node's end.

    Args:
        failures: time in whole seconds and exit code of each worker that failed, negative for a signal.
    """
    _, _, code = min((at, code in _SECONDARY, code) for at, code in failures)
    return code if code >= 0 else 128 - code


def code_after_signal(codes: list[int | None], number: int) -> int:
    """The exit code of a node that was told to stop.

    Args:
        codes: of its workers, None for one that did not end.
        number: of the signal.
    """
    if all(code in (0, Preempted.exit_code) for code in codes):
        return Preempted.exit_code if any(codes) or not codes else 0
    failed = [code for code in codes if code and code not in _SECONDARY and code > 0]
    return failed[0] if failed else 128 + number


def _end_on_sigterm_until_workers_run() -> None:
    """End with 75 on SIGTERM: nothing was begun, nothing is lost.

    The first process of a container ignores SIGTERM until it has a handler. torchrun installs its own with the first worker, but
    may wait for other nodes before that, minutes long and outside Python, where no handler runs: a thread reads the signal from a pipe.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def note(number: int, frame: FrameType | None) -> None:
        pass

    def watch() -> None:
        while os.read(reader, 1)[0] != signal.SIGTERM or signal.getsignal(signal.SIGTERM) is not note:
            pass
        os._exit(Preempted.exit_code)

    signal.signal(signal.SIGTERM, note)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, name="stop", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
