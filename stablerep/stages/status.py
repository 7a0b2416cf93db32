"""`stablerep status`: how a run stands, as a table in the terminal; with --watch redrawn until it ends."""

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stablerep.report.overview import MARKS, Overview, StageView, duration
from stablerep.stages.overview import facts, look
from stablerep.store import Store

_STYLES = {"waiting": "dim", "running": "bold blue", "done": "green", "failed": "bold red", "stopped": "red", "left out": "dim"}


def run(recipe: str, overrides: str, store: str, *, is_watching: bool = False, every_seconds: float = 2.0) -> None:
    """Print the state of a run.

    Args:
        recipe: name of a recipe, empty for the run that was worked on last.
        overrides: `section.key=value` words.
        store: URI of the store.
        is_watching: draw it again until nothing runs.
        every_seconds: how often.
    """
    console, opened = Console(file=sys.stdout), Store(store)
    overview = look(opened, recipe, overrides)
    if not is_watching:
        console.print(drawn(overview))
        return
    with Live(drawn(overview), console=console, auto_refresh=False) as live:
        while overview.state in ("running", "waiting"):
            time.sleep(every_seconds)
            overview = look(opened, recipe, overrides)
            live.update(drawn(overview), refresh=True)


def drawn(overview: Overview) -> Group:
    """The table and the facts below it."""
    head = Text.assemble((overview.title, "bold"), "  ", (overview.state, _STYLES[overview.state]))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "stage", "progress", "time", "left"):
        table.add_column(title, justify="right" if title in ("time", "left") else "left", header_style="dim")
    for stage in overview.stages:
        table.add_row(*_row(stage))
    below = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    below.add_column(style="dim")
    below.add_column(overflow="fold")
    for name, value in facts(overview):
        below.add_row(name, value)
    problem = [Text(overview.problem, style="red")] if overview.problem else []
    return Group(head, table, Text(), below, *problem)


def _row(stage: StageView) -> tuple[Text | ProgressBar | str, ...]:
    style = _STYLES[stage.state]
    is_going = stage.state == "running"
    progress = (
        ProgressBar(total=1.0, completed=stage.progress, width=24) if is_going and stage.progress is not None else stage.note or stage.state
    )
    spent = duration(stage.seconds) if stage.state not in ("waiting", "left out") else ""
    left = duration(stage.left_seconds) if is_going and stage.left_seconds is not None else ""
    return Text(MARKS[stage.state], style=style), Text(stage.name, style=style), progress, spent, left
