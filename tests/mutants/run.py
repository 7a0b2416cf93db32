"""`make mutants`: put one fault after another into a copy of the product; the tests named for it must fail.

    python tests/mutants/run.py [NAME ...]      the lists to run, e.g. `losses launch`; all when none is named

A list is tests/mutants/<name>.toml. Each entry has `file`, `find` (which occurs there once), `replace`, `tests`, and sometimes `select`, an
expression for pytest's -k. A fault that survives is either a missing test or code that nobody needs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
COPIED = ("stablerep", "benchmarks", "tests", "pipelines", "components", "manifests", "images", "docs", "pyproject.toml")
TIME_LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """A fault and the tests that must notice it."""

    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    select: str = ""

    def broken(self, text: str) -> str:
        """The text of the file with the fault in it.

        Raises:
            ValueError: `find` does not occur exactly once.
        """
        if text.count(self.find) != 1:
            raise ValueError(
                f"{self.file}: expected {self.find!r} once, found it {text.count(self.find)} times; bring the entry up to date"
            )
        return text.replace(self.find, self.replace)


def read(name: str) -> list[Mutant]:
    """The faults of a list."""
    entries = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))["mutant"]
    return [Mutant(entry["file"], entry["find"], entry["replace"], tuple(entry["tests"]), entry.get("select", "")) for entry in entries]


def names() -> list[str]:
    """All lists."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def is_killed(mutant: Mutant, copy: Path) -> bool:
    """Whether every one of the fault's tests fails in the copy that holds it."""
    path = copy / mutant.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(mutant.broken(whole), encoding="utf-8")
    try:
        return all(_fails(test, mutant.select, copy) for test in mutant.tests)
    finally:
        path.write_text(whole, encoding="utf-8")


def _fails(test: str, select: str, copy: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test, *(["-k", select] if select else [])]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=TIME_LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:  # a fault that never ends is noticed
        return True
    if done.returncode not in (0, 1):  # 1: a test failed; others: pytest could not run it
        raise SystemExit(f"{test}: pytest ended with {done.returncode}\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 1


def main() -> int:
    """Run the lists; returns 1 when a fault survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"lists to run: {', '.join(names())} (default: all)")
    mutants = [(name, mutant) for name in parser.parse_args().names or names() for mutant in read(name)]
    alive = 0
    with tempfile.TemporaryDirectory(prefix="stablerep-mutants-") as folder:
        for part in COPIED:
            source, target = PROJECT / part, Path(folder) / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        for number, (name, mutant) in enumerate(mutants, 1):
            killed = is_killed(mutant, Path(folder))
            alive += not killed
            what = " ".join(mutant.find.split())[:90]
            sys.stdout.write(f"{number:3}/{len(mutants)} {'killed' if killed else 'ALIVE '} {name}: {mutant.file}: {what}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(mutants) - alive} of {len(mutants)} faults were noticed\n")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
