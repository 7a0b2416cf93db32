"""What there is to see of a run at one moment, and the page that shows it: stages, losses, data, probes, lineage.

Pure: whoever looks at the store fills an `Overview` in (`stablerep.stages.overview`). The page is one file, light and dark, with
nothing loaded from elsewhere; what a stage has not left yet is simply absent. Captions are untrusted: all text is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from stablerep.report.charts import CHART_STYLE, Interval, interval_chart, line_chart, share_bar
from stablerep.report.page import escape

State = Literal["waiting", "running", "done", "failed", "stopped", "left out"]
MARKS: dict[State, str] = {"waiting": "○", "running": "◐", "done": "●", "failed": "✕", "stopped": "■", "left out": "-"}


@dataclass(frozen=True)
class StageView:
    """A stage (or lane): `progress` from 0 to 1 and `left_seconds` where they are known."""

    name: str
    state: State
    seconds: float = 0.0
    progress: float | None = None
    left_seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class TrainingView:
    """The newest step of a training run, and its curves by metric: (step, value)."""

    step: int
    num_steps: int
    values: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[float, float]]]
    checkpoint_step: int | None
    checkpoint_age_seconds: float | None


@dataclass(frozen=True)
class Overview:
    """Everything that is known; `lineage` are `(noun, id, fact)` from the captions to the endpoint."""

    title: str
    description: str
    store_uri: str
    taken_at: float  # Unix seconds
    state: State
    stages: tuple[StageView, ...]
    tiles: tuple[tuple[str, str], ...] = ()
    training: TrainingView | None = None
    verdicts: Mapping[str, int] = field(default_factory=dict[str, int])
    captions: Mapping[str, int] = field(default_factory=dict[str, int])
    groups_html: str = ""  # figures of the contact sheet, which is a page of ours
    probes: tuple[Interval, ...] = ()
    lineage: tuple[tuple[str, str, str], ...] = ()
    endpoint: str = ""
    problem: str = ""


STYLE = (
    CHART_STYLE
    + """
body { max-width: 1180px; } main { display: block; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; } header h1 { margin: 0; }
.chip { border-radius: 999px; padding: 2px 12px; font-weight: 600; font-size: 13px; border: 1px solid var(--line); }
.chip.running { color: var(--s0); border-color: var(--s0); } .chip.done { color: var(--s2); border-color: var(--s2); }
.chip.failed, .chip.stopped { color: var(--bad); border-color: var(--bad); }
.stages { display: grid; grid-template-columns: repeat(auto-fit, minmax(112px, 1fr)); gap: 8px; margin: 18px 0 6px;
          padding: 0; list-style: none; }
.stages li { background: var(--tint); border: 1px solid var(--line); border-radius: 10px; padding: 7px 10px;
             font-size: 13px; min-width: 0; }
.stages div.head { display: flex; justify-content: space-between; gap: 6px; white-space: nowrap; }
.stages .mark { font-weight: 400; } .stages .soft { font-size: 12px; font-variant-numeric: tabular-nums; }
.stages .waiting b, .stages .waiting .mark { color: var(--soft); font-weight: 500; }
.stages .running { border-color: var(--s0); } .stages .running .mark { color: var(--s0); } .stages .done .mark { color: var(--s2); }
.stages .failed, .stages .stopped { border-color: var(--bad); } .stages .failed .mark, .stages .stopped .mark { color: var(--bad); }
.bar { height: 4px; border-radius: 2px; background: var(--line); margin-top: 5px; overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--s0); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px; margin: 14px 0; }
.panel { border: 1px solid var(--line); border-radius: 12px; padding: 12px 16px 10px; min-width: 0; } .panel.wide { grid-column: 1 / -1; }
.panel h2 { font-size: 15px; margin: 0 0 8px; } .panel h2 span { font-weight: 400; color: var(--soft); font-size: 13px; margin-left: 6px; }
.panel .groups { grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 8px 18px; }
.panel .groups figure { margin: 0; } .panel .groups img { width: 40px; } .panel figcaption { font-size: 12px; }
.chain { display: flex; flex-wrap: wrap; gap: 8px 0; align-items: stretch; padding: 0; margin: 0; list-style: none; }
.chain li { flex: 1 1 130px; min-width: 0; border: 1px solid var(--line); border-radius: 10px; padding: 7px 10px;
            margin-right: 22px; position: relative; }
.chain li + li::before { content: "→"; position: absolute; left: -19px; top: 50%; transform: translateY(-50%); color: var(--soft); }
.chain b { display: block; font-size: 13px; } .chain code { display: block; font-size: 11px; overflow-wrap: anywhere; color: var(--soft); }
.chain span { font-size: 12px; overflow-wrap: anywhere; }
.problem { border-left: 3px solid var(--bad); padding-left: 12px; overflow-wrap: anywhere; }
footer { margin-top: 22px; font-size: 12px; color: var(--soft); overflow-wrap: anywhere; }
"""
)
_COLOURS = ("var(--s2)", "var(--s1)", "var(--s3)", "var(--bad)", "var(--soft)", "var(--s0)")


def overview_html(overview: Overview) -> str:
    """The body of the page."""
    taken = f"{datetime.fromtimestamp(overview.taken_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    parts = [
        f'<header><h1>{escape(overview.title)}</h1><span class="chip {overview.state}">{escape(overview.state)}</span>'
        f'<span class="soft"><time>{taken}</time></span></header>',
        f'<p class="soft">{escape(overview.description)}</p>',
        f'<p class="problem">{escape(overview.problem)}</p>' if overview.problem else "",
        f'<ol class="stages">{"".join(map(_stage, overview.stages))}</ol>',
        _tiles(overview.tiles),
        f'<div class="panels">{_panels(overview)}</div>',
        f"<footer>{escape(overview.store_uri)}</footer>",
    ]
    return "\n".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """`47 s`, `3 m 12 s`, `5 h 7 m`, `3 d 4 h`."""
    whole = round(seconds)
    for size, unit, small, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {small_unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def _stage(stage: StageView) -> str:
    is_going = stage.state == "running"
    about = f"{duration(stage.left_seconds)} left" if is_going and stage.left_seconds is not None else ""
    about = about or (duration(stage.seconds) if stage.state not in ("waiting", "left out") else "")
    bar = f'<div class="bar"><span style="width: {100 * stage.progress:.1f}%"></span></div>' if is_going and stage.progress else ""
    note = f' title="{escape(stage.note)}"' if stage.note else ""
    mark = f'<span class="mark" role="img" aria-label="{stage.state}">{MARKS[stage.state]}</span>'
    return (
        f'<li class="{stage.state.replace(" ", "-")}"{note}><div class="head"><b>{escape(stage.name)}</b>{mark}</div>'
        f'<span class="soft">{escape(about)}&nbsp;</span>{bar}</li>'
    )


def _tiles(tiles: Sequence[tuple[str, str]]) -> str:
    inside = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in tiles)
    return f'<div class="tiles">{inside}</div>' if inside else ""


def _panels(overview: Overview) -> str:
    panels = list[str]()
    if overview.training:
        panels += _training_panels(overview.training)
    shares = [(name.replace("_", " "), count, _COLOURS[min(i, 5)]) for i, (name, count) in enumerate(overview.verdicts.items())]
    rest = [(name.replace("_", " "), count, _COLOURS[min(i, 5)]) for i, (name, count) in enumerate(overview.captions.items())]
    quality = [share_bar("Images by verdict", shares), share_bar("Captions", rest)]
    panels.append(_panel("Data quality", "images by verdict, captions by what became of them", "".join(quality)))
    panels.append(_panel("Probe", "accuracy on real images, 95 % interval", interval_chart("Probe accuracy", overview.probes)))
    panels.append(_panel("Groups", "one caption, its images", overview.groups_html, is_wide=True))
    chain = "".join(
        f"<li><b>{escape(n)}</b><span>{_breakable(fact)}</span><code>{escape(i)}</code></li>" for n, i, fact in overview.lineage
    )
    panels.append(_panel("Lineage", "each made from the one before", f'<ol class="chain">{chain}</ol>' if chain else "", is_wide=True))
    return "".join(panels)


def _training_panels(training: TrainingView) -> list[str]:
    terms = {name: training.curves.get(f"loss_{name}", ()) for name in ("total", "image", "text")}
    lines = {name: points for name, points in terms.items() if any(value for _, value in points)}
    if len(lines) == 2:
        lines.pop("total", None)  # one loss only: the total is that loss
    last = float(training.num_steps)
    loss = line_chart("Loss by step", lines, last=last)
    speed = line_chart("Images a second by step", {"": training.curves.get("images_per_second", ())}, last=last)
    norm = line_chart("Gradient norm by step", {"": training.curves.get("gradient_norm", ())}, last=last)
    waits = [(step, 100 * value) for step, value in training.curves.get("data_wait_ratio", ())]
    return [
        _panel("Loss", f"step {training.step:,} of {training.num_steps:,}; faint: every point, line: running mean", loss),
        _panel("Throughput", "images a second, all processes", speed),
        _panel(
            "Gradient norm",
            "before clipping",
            norm,
        ),
        _panel("Waiting for data", "per cent of the time", line_chart("Waiting for data by step", {"": waits}, last=last)),
    ]


def _breakable(text: str) -> str:
    """Escaped, with places in long names where a narrow box may begin another line."""
    return escape(text).replace("_", "_<wbr>")


def _panel(title: str, note: str, inside: str, *, is_wide: bool = False) -> str:
    if not inside:
        return ""
    return f'<section class="panel{" wide" if is_wide else ""}"><h2>{escape(title)}<span>{escape(note)}</span></h2>{inside}</section>'
