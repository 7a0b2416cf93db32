"""finish: the exit task. However the run ended, it writes one Markdown summary and one HTML file with everything people look at.

It reads the ledger and the pages the stages left in the store; it computes nothing and never hides how the run ended.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from stablerep.config import recipe_json
from stablerep.records import Record
from stablerep.report.run import Run, run_html, run_markdown
from stablerep.stages.context import open_stage
from stablerep.stages.ledger import Entry, Ledger
from stablerep.store import Store

_PAGES = {
    "commit": "groups/{dataset_id}/contact_sheet.html",
    "generate-0": "groups/{dataset_id}/quality.html",  # also of a run that commit refused
    "pretrain": "runs/{run_key}/curves.html",
    "probe": "evals/{model_id}/{suite}/report.html",
}


@dataclass(frozen=True)
class RunReport(Record):
    """Where the report of a run is, and how the run ended."""

    key: str
    state: str
    uri: str


def run(
    recipe: str,
    overrides: str,
    store: str,
    *,
    state: str = "SUCCEEDED",
    error: str = "",
    summary_path: str = "",
    report_path: str = "",
) -> RunReport:
    """Write `reports/<key>/{summary.md, report.html, config.json}`, and copies where a path is given.

    Args:
        recipe: name of the recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        state: how the run ended, as KFP says it: SUCCEEDED, FAILED or CANCELLED.
        error: the pipeline's message when it failed.
        summary_path: file for a copy of the summary.
        report_path: file for a copy of the report.
    """
    with open_stage("finish", recipe, overrides, store) as stage:
        ledger = Ledger(stage.store, stage.recipe)
        entries = _of_this_run(ledger.entries())
        facts = Run(ledger.key, stage.recipe, state, error, entries, stage.store.uri, _pages(stage.store, entries))
        folder = f"reports/{ledger.key}"
        outputs = {"summary.md": run_markdown(facts), "report.html": run_html(facts), "config.json": recipe_json(stage.recipe)}
        for name, text in outputs.items():
            stage.store.write(f"{folder}/{name}", text)
    for path, name in ((summary_path, "summary.md"), (report_path, "report.html")):
        if path:
            Path(path).write_text(outputs[name], encoding="utf-8")
    return RunReport(ledger.key, state, stage.store.uri_of(f"{folder}/report.html"))


def _of_this_run(entries: list[Entry]) -> tuple[Entry, ...]:
    """Without the branch that the gate did not take: an earlier run of the same configuration may have taken it."""
    verdict = next((json.loads(entry.output)["is_promoted"] for entry in entries if entry.name == "gate"), None)
    not_taken = {True: {"hold"}, False: {"deploy", "verify"}, None: set[str]()}[verdict]
    return tuple(entry for entry in entries if entry.name not in not_taken)


def _pages(store: Store, entries: tuple[Entry, ...]) -> dict[str, str]:
    pages: dict[str, str] = {}
    for entry in entries:
        if entry.name in _PAGES:
            key = _PAGES[entry.name].format(**json.loads(entry.output))
            if store.exists(key):
                pages[entry.name] = store.read_text(key)
    return pages
