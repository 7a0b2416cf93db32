"""`make run`: the pipeline of pipelines/stablerep.py on this machine, with what is going on shown as it goes.

The pipeline runs under kfp.local's SubprocessRunner in a child process whose output is kept in `<root>/logs/`; this process follows
that log and shows one line a task, a progress line while it works, and at the end the summary. Finished work is a cache hit: the cache
is keyed by the code of stablerep/ and components/, so a change of code never serves an old result.
"""

import argparse
import logging
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from stablerep import errors  # noqa: E402
from stablerep.identity import sha256_bytes  # noqa: E402
from stablerep.stages.context import configured  # noqa: E402
from stablerep.stages.exporter import FOLDER_VARIABLE, targets_folder  # noqa: E402
from stablerep.stages.ledger import Ledger  # noqa: E402
from stablerep.store import Store  # noqa: E402

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '([\w-]+)'")
_ENDED = re.compile(r"Task '([\w-]+)' finished with status (\w+)")
_CACHED = re.compile(r"Task '?([\w-]+)'? cache hit")
_PROGRESS = re.compile(r"INFO ((?:[a-z]+ \d+/\d+|step \d+/\d+).*)")
_ERROR = re.compile(r"stablerep\.errors\.(\w+): (.*)")
_FAILED_CHECK = re.compile(r"^ *FAILED {2,}.+(?:\n {20,}\S.*)*", re.MULTILINE)  # a row of preflight's table, wrapped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pipeline and follow it; returns the exit code of `stablerep.errors`."""
    parser = argument_parser("make run", "Run the whole pipeline on this machine.", recipe="quickstart", root="build/run")
    options = parser.parse_args(arguments)
    if options.child:
        return run_tasks(options, lambda _: _subprocesses())
    return follow(options, "pipelines.run_local", sys.argv[1:] if arguments is None else arguments)


def follow(options: argparse.Namespace, module: str, arguments: Sequence[str]) -> int:
    """Run `module` in a child with the same arguments, show what it does, and end with the summary or the error.

    Args:
        options: what `argument_parser` made of `arguments`.
        module: whose main runs the tasks when it is given --child.
        arguments: words of the command line.
    """
    store = store_of(options)
    try:
        ledger = Ledger(Store(store), configured(options.recipe, shlex.join(options.set)))
    except errors.StablerepError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    started_at = time.monotonic()
    log_path = Path(options.root).absolute() / "logs" / f"{ledger.key}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{ledger.key}: log {log_path}", flush=True)
    targets = targets_folder(Store(store), Path(options.root).absolute())
    return_code = _follow([sys.executable, "-m", module, *arguments, "--child"], log_path, {FOLDER_VARIABLE: str(targets)})
    if return_code != 0:
        return _explain(log_path, return_code)
    print("\n" + Store(store).read_text(f"reports/{ledger.key}/summary.md").split("\n| stage")[0].rstrip())
    print(f"- **report**: {Store(store).uri_of(f'reports/{ledger.key}/report.html')}")
    print(f"- **total**: {time.monotonic() - started_at:.0f} s")
    return 0


def store_of(options: argparse.Namespace) -> str:
    """URI of the store: what was asked for, or a folder under the run's root."""
    return options.store or (Path(options.root).absolute() / "store").as_uri()


def argument_parser(program: str, what: str, recipe: str, root: str) -> argparse.ArgumentParser:
    """The options of a run on this machine.

    Args:
        program: how it is called.
        what: one sentence.
        recipe: the default recipe.
        root: the default folder for logs, cache and task outputs.
    """
    parser = argparse.ArgumentParser(prog=program, description=what)
    parser.add_argument("--recipe", default=recipe, help=f"name of a recipe (default: {recipe})")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. --set pretrain.num_steps=600")
    parser.add_argument("--store", default="", help="folder or URI for all results (default: <root>/store)")
    parser.add_argument("--root", default=root, help=f"folder for logs, cache and task outputs (default: {root})")
    parser.add_argument("--no-cache", action="store_true", help="run every task; finished shards and checkpoints are still kept")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def _subprocesses() -> "Tasks":
    from kfp import local

    return Tasks(local.SubprocessRunner(use_venv=False), environment={})


@dataclass(frozen=True)
class Tasks:
    """How tasks run: a runner of kfp.local, their environment, and (stage, image) -> image where images matter."""

    runner: Any
    environment: Mapping[str, str]
    image_of: Callable[[str, str], str] | None = None


def run_tasks(options: argparse.Namespace, tasks_of: Callable[[Path], Tasks]) -> int:
    """Run the pipeline in this process, with what KFP prints on standard output; returns 0, or 1 when a task failed.

    Args:
        options: what `argument_parser` made of the command line.
        tasks_of: folder for task outputs -> how tasks run.
    """
    from kfp import local

    from pipelines.on_this_machine import adapted
    from pipelines.stablerep import stablerep

    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp.local")
    logging.getLogger().setLevel(logging.INFO)
    root, store = Path(options.root).absolute(), store_of(options)
    tasks = tasks_of(root / "tasks")
    local.init(
        tasks.runner,
        pipeline_root=str(root / "tasks"),
        raise_on_error=True,
        enable_caching=not options.no_cache,
        cache_root=str(_cache_folder(store, root) / code_digest()[:16]),
    )
    try:
        pipeline = adapted(stablerep, tasks.environment, tasks.image_of)
        pipeline(recipe=options.recipe, overrides=shlex.join(options.set), store=store)
    except RuntimeError as error:
        print(error, flush=True)
        return 1
    return 0


def _cache_folder(store: str, root: Path) -> Path:
    """Inside a local store, so that who deletes the results deletes the memory of them; else under the run's root."""
    return Store(store).local_path("cache") or root / "cache"


def code_digest(project: Path = PROJECT) -> str:
    """SHA-256 over the code that tasks run: stablerep/ and components/."""
    files = sorted(path for folder in ("stablerep", "components") for path in (project / folder).rglob("*.py"))
    return sha256_bytes(part for path in files for part in (str(path.relative_to(project)).encode(), path.read_bytes()))


def _follow(command: Sequence[str], log_path: Path, variables: Mapping[str, str]) -> int:
    """Start the child, show its tasks as they start and end, return its exit code."""
    every = "2" if sys.stdout.isatty() else "60"
    environment = {"STABLEREP_LOG_EVERY_SECONDS": every, "OMP_NUM_THREADS": "1", **variables, **os.environ, "PYTHONUNBUFFERED": "1"}
    bin_folder = str(Path(sys.executable).parent)
    environment["PATH"] = bin_folder + os.pathsep + environment.get("PATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), environment.get("PYTHONPATH", ""))))
    view = TaskView(sys.stdout.isatty())
    with log_path.open("wb") as log, log_path.open("r", encoding="utf-8", errors="replace") as reader:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=PROJECT)
        try:
            while True:
                is_running = child.poll() is None
                for line in reader:
                    view.read(_ANSI.sub("", line))
                if not is_running:
                    break
                time.sleep(0.2)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            view.close()
            print("stopped; `make run` again continues", file=sys.stderr)
            return 130
    view.close()
    return child.returncode


def _bar(text: str, width: int = 20) -> str:
    match = re.search(r"\(([\d.]+) %\)", text)
    done = round(width * float(match[1]) / 100) if match else 0
    return "\u2588" * done + "\u2591" * (width - done)


class TaskView:
    """Shows the tasks of a run from the lines of its log; progress is redrawn in place in a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._started: dict[str, list[float]] = {}
        self._is_dirty = False

    def read(self, line: str) -> None:
        """Take one line of the log, without colours."""
        if match := _CACHED.search(line):
            self._print(f"  cached  {match[1]}")
        elif match := _STARTED.search(line):
            self._started.setdefault(match[1], []).append(time.monotonic())
        elif match := _ENDED.search(line):
            started = self._started.get(match[1], [])
            seconds = time.monotonic() - (started.pop(0) if started else time.monotonic())
            self._print(f"  {'done  ' if match[2] == 'SUCCESS' else 'FAILED'}  {match[1]:10} {seconds:6.1f} s")
        elif match := _PROGRESS.search(line):
            self._progress(match[1])

    def close(self) -> None:
        """End the progress line."""
        if self._is_dirty:
            print("\r\x1b[K", end="", flush=True)
            self._is_dirty = False

    def _progress(self, text: str) -> None:
        if self._is_terminal:
            print(f"\r\x1b[K  {_bar(text)} {text.strip()}"[:150], end="", flush=True)
            self._is_dirty = True
        else:
            print(f"  ...     {text.strip()}", flush=True)

    def _print(self, text: str) -> None:
        self.close()
        print(text, flush=True)


def _explain(log_path: Path, return_code: int) -> int:
    """Print the error of the stage that failed, with what preflight found where it was that, and return its exit code."""
    text = _ANSI.sub("", log_path.read_text(encoding="utf-8", errors="replace"))
    found = _ERROR.findall(text)
    if not found:
        print("\n".join(text.splitlines()[-30:]), file=sys.stderr)
        print(f"the run failed; the whole log is in {log_path}", file=sys.stderr)
        return return_code
    name, message = found[0]
    rows = [textwrap.dedent(row) for row in _FAILED_CHECK.findall(text)]
    print("\n".join([*rows, f"{name}: {message}", f"the whole log is in {log_path}"]), file=sys.stderr)
    return int(getattr(errors, name, errors.StablerepError).exit_code)


if __name__ == "__main__":
    sys.exit(main())
