"""What preflight found, as records and as tables.

A check is ok, failed, or not checked: nobody may look, or it is only known when it happens. Only a failure stops a run. The Markdown
table is for the pipeline's page, the plain one for a terminal. Nothing is looked at here.
"""

import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stablerep.errors import ClusterError
from stablerep.records import Record

State = Literal["ok", "failed", "not checked"]
_MIN_COLUMNS = 60


@dataclass(frozen=True)
class Check(Record):
    """One thing that was looked at; `remedy` says what to do where it is not ok."""

    name: str
    state: State
    found: str
    remedy: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether it stops nothing."""
        return self.state != "failed"


@dataclass(frozen=True)
class Preflight(Record):
    """All checks of a run, in order."""

    checks: tuple[Check, ...]


def judged(name: str, is_ok: bool, found: str, remedy: str) -> Check:
    """A check that has an answer."""
    return Check(name, "ok" if is_ok else "failed", found, "" if is_ok else remedy)


def unknown(name: str, found: str, remedy: str = "") -> Check:
    """A check that has none: who reads the table knows what was not looked at."""
    return Check(name, "not checked", found, remedy)


def looked(name: str, look: Callable[[], Check], remedy: str) -> Check:
    """The result of `look`; where these credentials may not look the check is unknown, where the server answers otherwise it failed."""
    try:
        return look()
    except ClusterError as error:
        if error.status == 403:
            return unknown(name, "these credentials are not allowed to look", remedy)
        return judged(name, False, str(error), remedy)


def markdown(checks: Sequence[Check]) -> str:
    """The checks as a Markdown table."""
    words = {"ok": "ok", "failed": "**failed**", "not checked": "not checked"}
    rows = [f"| {words[check.state]} | {check.name} | {_cell(check.found)} | {_cell(check.remedy)} |" for check in checks]
    return "\n".join(["# Preflight", "", "| | check | found | remedy |", "|---|---|---|---|", *rows, ""])


def plain(checks: Sequence[Check], num_columns: int = 0) -> str:
    """The checks as an aligned table, wrapped to a terminal; a remedy stands under what it mends.

    Args:
        checks: what was looked at.
        num_columns: width, 0: of the terminal.
    """
    width = max(num_columns or shutil.get_terminal_size((120, 24)).columns, _MIN_COLUMNS)
    names = min(max((len(check.name) for check in checks), default=0), width // 3)
    margin = " " * (len("not checked") + 2 + names + 2)
    lines: list[str] = []
    for check in checks:
        head = f"{check.state.upper() if check.state == 'failed' else check.state:11}  {check.name:{names}}  "
        lines += textwrap.wrap(head + " ".join(check.found.split()), width, subsequent_indent=margin, drop_whitespace=True)
        if check.remedy:
            lines += textwrap.wrap(f"-> {check.remedy}", width, initial_indent=margin, subsequent_indent=margin + "   ")
    counts = {state: sum(check.state == state for check in checks) for state in ("ok", "failed", "not checked")}
    return "\n".join([*lines, ", ".join(f"{count} {state}" for state, count in counts.items() if count)])


def failures(name: str, checks: Sequence[Check]) -> str:
    """One line for the error that follows a table: `preflight: 2 failed: store, nodes`. What to do is in the table, once."""
    failed = [check.name for check in checks if not check.is_ok]
    return f"{name}: {len(failed)} failed: {', '.join(failed)}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
