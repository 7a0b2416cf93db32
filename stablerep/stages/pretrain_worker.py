"""One process of the training job: `python -m stablerep.stages.pretrain_worker STORE_URI RUN_KEY`, under torchrun.

Unpacks the run's configuration into the parts of `training.loop` and runs it. An error is written to `failure.json` in the run's prefix
and ends the process with its exit code. Environment: torchrun's variables; STABLEREP_ATTEMPT and STABLEREP_LEASH from a launcher on this
machine; STABLEREP_METRICS_PORT for Prometheus where no launcher reports.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from stablerep.errors import LaunchError, StablerepError
from stablerep.launch import ATTEMPT_VARIABLE, follow, stop_signals
from stablerep.stages.context import set_up_logging
from stablerep.stages.pretrain_run import CONFIG_KEY, LEASH_VARIABLE, RunConfig
from stablerep.store import Store
from stablerep.training.state import RunFailure, write_failure

log = logging.getLogger("stablerep")


def main() -> int:
    """Run one process to its end; returns its exit code."""
    parser = argparse.ArgumentParser(description="one process of a training job; started by torchrun")
    parser.add_argument("store", help="URI of the store")
    parser.add_argument("run", help="key of the run")
    options = parser.parse_args()
    set_up_logging()
    stop_asked = threading.Event()
    attempt = os.environ.get(ATTEMPT_VARIABLE, "")
    runs = Store(options.store).at(f"runs/{options.run}")
    if leash := os.environ.get(LEASH_VARIABLE, ""):
        follow(Path(leash), attempt, on_stop=stop_asked.set, on_gone=_end_at_once)
    with stop_signals(signal.SIGTERM) as is_signalled:
        try:
            _train(Store(options.store), runs, attempt, bool(leash), lambda: stop_asked.is_set() or is_signalled())
        except StablerepError as error:
            _tell(runs, attempt, type(error).__name__, str(error), is_first_hand=True)
            return error.exit_code
        except Exception as error:
            log.exception("the training process failed")
            _tell(runs, attempt, LaunchError.__name__, f"a training process failed: {type(error).__name__}: {error}", is_first_hand=False)
            return LaunchError.exit_code
    return 0


def _train(store: Store, runs: Store, attempt: str, has_launcher: bool, is_stop_asked: Callable[[], bool]) -> None:
    plan = RunConfig.from_json(runs.read_text(CONFIG_KEY))
    from stablerep.stages.pretrain_parts import train_run
    from stablerep.training.processes import join_processes

    processes = join_processes(plan.pretrain.num_processes)
    attempt = attempt or processes.share(uuid.uuid4().hex[:12])
    train_run(plan, store, runs, processes, attempt, has_launcher=has_launcher, is_stop_asked=is_stop_asked)


def _tell(runs: Store, attempt: str, error: str, message: str, *, is_first_hand: bool) -> None:
    try:
        write_failure(runs, RunFailure(attempt, error, message, int(os.environ.get("RANK", "0"))), is_first_hand)
    except StablerepError as second:
        log.error("%s: %s (and the store did not take this: %s)", error, message, second)


def _end_at_once() -> None:
    log.error("the launcher is gone: this process ends; the run continues from its last checkpoint when it is started again")
    os._exit(LaunchError.exit_code)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the process group and of the loader must not delay the end, nor turn it into another exit code.
    os._exit(code)
