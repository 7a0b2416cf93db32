"""The report of a run: what was made, how good it is, where it is, how to call it.

Everything shown comes from the records the stages returned; a stage that has not run is simply absent. The HTML holds the contact
sheet, the curves and the probe report of their stages as sections, so that one file is all one needs to send.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from stablerep.config import Recipe
from stablerep.report.lineage import Node, mermaid
from stablerep.report.page import body_of, escape, page, table


class Entry(Protocol):
    """What the report needs of a ledger entry."""

    @property
    def name(self) -> str:
        """The stage (or stage-lane)."""
        ...

    @property
    def output(self) -> str:
        """The record as JSON text."""
        ...

    @property
    def started_at(self) -> float:
        """Unix seconds."""
        ...

    @property
    def ended_at(self) -> float:
        """Unix seconds."""
        ...


@dataclass(frozen=True)
class Run:
    """Facts of a run; `pages` maps stage to the HTML page it left."""

    key: str
    recipe: Recipe
    state: str
    error: str
    entries: tuple[Entry, ...]
    store_uri: str
    pages: dict[str, str]

    def record(self, name: str) -> dict[str, Any]:
        """The record of a stage as plain data, empty when it has not run."""
        return next((json.loads(entry.output) for entry in self.entries if entry.name == name), dict[str, Any]())


def run_markdown(run: Run) -> str:
    """The run on one screen, for the Kubeflow UI and the terminal."""
    lines = [f"# {run.recipe.name}: {run.state.lower()}", "", run.recipe.description, ""]
    if run.error:
        lines += [f"> {run.error}", ""]
    lines += [f"- **{title}**: {text}" for title, text in _facts(run)]
    lines += ["", "| stage | seconds |", "|---|---|"]
    lines += [f"| {entry.name} | {entry.ended_at - entry.started_at:.1f} |" for entry in run.entries if entry.name != "finish"]
    return "\n".join([*lines, "", "```mermaid", *_diagram(run), "```", ""])


def run_html(run: Run) -> str:
    """Everything people look at, in one self-contained file."""
    parts = [
        f"<h1>{escape(run.recipe.name)}: {escape(run.state.lower())}</h1>",
        f'<p class="soft">{escape(run.recipe.description)}</p>',
        f"<p><b>{escape(run.error)}</b></p>" if run.error else "",
        _tiles_html(_tiles(run)),
        _call(run),
    ]
    parts += [f'<section id="{name}">{body_of(run.pages[name])}</section>' for name in _SECTIONS if name in run.pages]
    parts += ["<h2>Facts</h2>", table(["what", "value"], _facts(run)), "<h2>Stages</h2>", _stages(run)]
    return page(f"stablerep {run.recipe.name}", "\n".join(parts))


_SECTIONS = ("commit", "generate-0", "pretrain", "probe")  # of the stage that names what the page is about


def _tiles(run: Run) -> list[tuple[str, str]]:
    dataset, evaluation, verification = run.record("commit"), run.record("probe"), run.record("verify")
    tiles: list[tuple[str, str]] = []
    if dataset:
        made = "real" if run.record("generator").get("uri", "").startswith("real:") else "synthetic"
        tiles += [("captions", f"{dataset['num_groups']:,}"), (f"{made} images", f"{dataset['num_images']:,}")]
        tiles += [("group purity", f"{dataset['quality']['purity']:.3f}")] if "purity" in dataset["quality"] else []
    if evaluation:
        tiles.append(("linear probe on real images", f"{100 * evaluation['headline']:.1f} %"))
    if verification:
        tiles.append(("endpoint, median", f"{verification['latency_p50_ms']:.1f} ms"))
    seconds = sum(entry.ended_at - entry.started_at for entry in run.entries)
    return [*tiles, ("time in stages", f"{seconds:.0f} s")]


def _tiles_html(tiles: list[tuple[str, str]]) -> str:
    inside = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in tiles)
    return f'<div class="tiles">{inside}</div>'


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = [(title, tell(record)) for stage, title, tell in _TOLD if (record := run.record(stage))]
    return [*facts, ("store", run.store_uri)]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(counts.items()) if name not in ("kept",))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(record: dict[str, Any]) -> str:
    return f"{_percent(record['headline'])} [{_percent(record['headline_low'])}, {_percent(record['headline_high'])}]"


_TOLD: list[tuple[str, str, Callable[[dict[str, Any]], str]]] = [
    ("prepare", "captions", lambda r: f"{r['num_captions']} kept; {_counts(r['counts'])}"),
    ("generator", "generator", lambda r: f"{r['pipeline_class']} {r['generator_id']}, licence {r['licence']}"),
    ("commit", "data set", lambda r: f"{r['dataset_id']}: {r['num_groups']} groups, {r['num_images']} images at {r['uri']}"),
    ("pretrain", "training", lambda r: f"{r['step']} steps, " + ", ".join(f"{k} {v:.4g}" for k, v in sorted(r["metrics"].items()))),
    ("export", "encoder", lambda r: f"{r['model_id']} ({r['architecture']}, {r['embedding_dim']} dimensions) at {r['uri']}"),
    ("probe", "linear probe", _interval),
    ("gate", "gate", lambda r: ("promoted: " if r["is_promoted"] else "held: ") + "; ".join(r["reasons"])),
    ("deploy", "endpoint", lambda r: str(r["url"])),
    ("verify", "latency", lambda r: f"p50 {r['latency_p50_ms']:.1f} ms, p99 {r['latency_p99_ms']:.1f} ms"),
]


def _call(run: Run) -> str:
    model, endpoint = run.record("export"), run.record("deploy")
    if not model:
        return ""
    lines = [f"encoder   {model['uri']}"]
    if endpoint:
        curl = f'curl -s {endpoint["url"]} -d \'{{"instances":[{{"b64":"\'$(base64 -w0 digit.png)\'"}}]}}\''
        lines += [f"endpoint  {endpoint['url']}   gRPC {endpoint['grpc_address']}", "", "# embed an image", curl]
    return f"<h2>Where it is and how to call it</h2><pre>{escape(chr(10).join(lines))}</pre>"


def _stages(run: Run) -> str:
    rows = [
        (entry.name, f"{entry.ended_at - entry.started_at:.1f}", f"{datetime.fromtimestamp(entry.ended_at, UTC):%Y-%m-%d %H:%M:%S}")
        for entry in run.entries
        if entry.name != "finish"
    ]
    return table(["stage", "seconds", "ended (UTC)"], rows)


def _diagram(run: Run) -> list[str]:
    """What was made from what, as far as the run came."""
    chain = [
        ("captions", "prepare", "prompt_set_id", ()),
        ("generator", "generator", "generator_id", ()),
        ("groups", "commit", "dataset_id", ("captions", "generator")),
        ("run", "pretrain", "run_key", ("groups",)),
        ("encoder", "export", "model_id", ("run",)),
        ("probe", "probe", "suite", ("encoder",)),
        ("gate", "gate", "is_promoted", ("probe",)),
        ("endpoint", "deploy", "url", ("gate",)),
    ]
    nodes: list[Node] = []
    numbers: dict[str, int] = {}
    for kind, stage, key, sources in chain:
        if record := run.record(stage):
            name = ("promoted" if record[key] else "held") if key == "is_promoted" else record[key]
            numbers[kind] = len(nodes)
            nodes.append(Node(kind, str(name), {}, tuple(numbers[source] for source in sources if source in numbers)))
    return mermaid(nodes)
