"""Rows of a benchmark and the file that keeps them: what every script here writes and `all.py` reads back.

A row compares what this project does with a named baseline of the same run; `target` is what issue 4 asks of the ratio or share.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
HEADER = "| what | this project | baseline | found | target | met |"
_LINE = "|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Row:
    """One comparison: `found` in `unit` (x: times as fast, % or points), and what it should at least (`least`) or at most be."""

    what: str
    ours: str
    baseline: str
    found: float
    unit: str
    target: float | None = None
    is_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the target is reached; rows without one are."""
        if self.target is None:
            return True
        return self.found <= self.target if self.is_most else self.found >= self.target

    def line(self) -> str:
        """The row of the table."""
        target = "" if self.target is None else f"{'<=' if self.is_most else '>='} {_number(self.target)} {self.unit}"
        met = "" if self.target is None else "yes" if self.is_met else "**no**"
        return f"| {self.what} | {self.ours} | {self.baseline} | {_number(self.found)} {self.unit} | {target} | {met} |"


def parser_of(document: str) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardware", default="2core", help="name of the machine, in the name of the result file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    return parser


def write(
    theme: str, title: str, command: str, setting: str, rows: Sequence[Row], notes: Sequence[str], options: argparse.Namespace
) -> Path:
    """Print and keep a result.

    Args:
        theme: first word of the file's name.
        title: what was measured.
        command: how it was started.
        setting: sizes, seeds and threads, one paragraph.
        rows: the table.
        notes: one sentence or more each.
        options: `hardware` and `results` of `parser_of`.
    """
    lines = [
        f"# {title}, {options.hardware} machine, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"`{command}`: {setting}",
        "",
        f"{machine()}",
        "",
        *table(rows),
    ]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    path = options.results / f"{theme}_{options.hardware}_{datetime.now(UTC):%Y%m%d}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines) + f"\n\nwritten to {path}")
    return path


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of the table."""
    return [HEADER, _LINE, *(row.line() for row in rows)]


def read_table(text: str, header: str = HEADER) -> list[list[str]]:
    """The cells of the first table with this header; none when there is no such table."""
    lines = text.splitlines()
    if header not in lines:
        return []
    rows: list[list[str]] = []
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return rows


def machine() -> str:
    """Where and with what this ran, and how busy the machine was at the end."""
    names = [line.split(":")[1].strip() for line in _cpu_facts() if line.startswith("model name")]
    packages = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("torch", "torchvision", "pillow", "scikit-learn"))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg()[:2])
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}; load "
        f"average {load} over the last 1 and 5 minutes (more than the threads used: others were busy; ratios are of the same run)."
    )


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


def _cpu_facts() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"
