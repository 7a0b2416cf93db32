"""Figures of the probe report as inline SVG: accuracy against labels, and the confusion matrix.

Colours come from the page's style sheet, so that a figure is right in the light and in the dark. Names of classes are escaped. Nothing
here computes a score.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from stablerep.report import escape

STYLE = """<style>
.probe-figure { --encoder: #2457c5; --random_init: #7d8797; --raw_pixels: #c2660c; --wrong: 214, 93, 14; --right: 36, 87, 197; }
@media (prefers-color-scheme: dark) {
  .probe-figure { --encoder: #8fb1ff; --random_init: #98a2b3; --raw_pixels: #f0a85c; --wrong: 240, 150, 80; --right: 110, 150, 245; } }
.probe-figure text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
.probe-figure text.soft { fill: var(--soft); } .probe-figure text.strong { font-weight: 600; }
.probe-figure .grid { stroke: var(--line); } .probe-figure .chance { stroke: var(--soft); stroke-dasharray: 3 4; }
table.scores td, table.scores th { padding-right: 26px; } table.scores td small { color: var(--soft); margin-left: 6px; }
table.scores tr.first td { padding-top: 14px; } table.scores td.headline { font-weight: 600; color: var(--accent); }
</style>"""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 340, 52, 190, 14, 44
_LABEL_GAP = 17
_CROWDED_RATIO = 1.6
_DARK_SHARE = 0.55  # from this share on, a cell is dark enough for white digits


@dataclass(frozen=True)
class Series:
    """A line: `points` are (labels per class, accuracy, low, high), by labels."""

    key: str  # source, also the name of the colour
    title: str
    points: Sequence[tuple[float, float, float, float]]


def labels_figure(series: Sequence[Series], ticks: Sequence[tuple[float, str]], chance: float) -> str:
    """Accuracy against labelled images per class, with intervals and the level of chance.

    Args:
        series: one line per feature source.
        ticks: positions and texts of the horizontal axis, which is logarithmic.
        chance: accuracy of guessing.
    """
    parts = [f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(v / 5)}" y2="{_y(v / 5)}"/>' for v in range(6)]
    parts += [f'<text class="soft" x="{_LEFT - 8}" y="{_y(v / 5) + 4}" text-anchor="end">{20 * v} %</text>' for v in range(6)]
    parts.append(f'<line class="chance" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(chance)}" y2="{_y(chance)}"/>')
    parts.append(f'<text class="soft" x="{_WIDTH - _RIGHT + 14}" y="{_y(chance) + 4}">chance {100 * chance:.0f} %</text>')
    positions = [position for position, _ in ticks]
    for position, text in ticks:
        parts.append(f'<text class="soft" x="{_x(position, positions)}" y="{_HEIGHT - 22}" text-anchor="middle">{escape(text)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="soft" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">labelled images per class</text>')
    for index, line in enumerate(series):
        parts.append(_line(line, positions, shift=6 * (index - (len(series) - 1) / 2)))
    parts += _end_labels(series, taken=_y(chance))
    return _svg(_WIDTH, _HEIGHT, "accuracy against labelled images per class", parts)


def confusion_figure(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> str:
    """Heat map with counts: right answers blue, wrong ones orange, each row by its share; accuracy of each class at the right."""
    num_classes, longest = len(class_names), max(len(name) for name in class_names)
    cell = max(24, min(46, 620 // num_classes))
    left, top = 30 + 7 * min(longest, 22), 26 + (7 * min(longest, 22) if longest > 5 else 18)
    parts = [f'<text class="soft" x="{left}" y="14">predicted</text>', f'<text class="soft" x="0" y="{top - 8}">true</text>']
    for k, name in enumerate(class_names):
        x, y = left + k * cell, top + k * cell
        turn = f'transform="rotate(-60 {x + cell / 2 + 4:.1f} {top - 8})" text-anchor="start"' if longest > 5 else 'text-anchor="middle"'
        parts.append(f'<text x="{x + cell / 2 + (4 if longest > 5 else 0):.1f}" y="{top - 8}" {turn}>{escape(_short(name))}</text>')
        parts.append(f'<text x="{left - 10}" y="{y + cell / 2 + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        parts += _row(confusion[k], k, class_names, (left, y, cell))
    parts.append(f'<text class="soft" x="{left + num_classes * cell + 12}" y="{top - 8}">accuracy</text>')
    return _svg(left + num_classes * cell + 78, top + num_classes * cell + 6, "confusion matrix", parts)


def _row(counts: Sequence[int], true: int, class_names: Sequence[str], place: tuple[int, int, int]) -> list[str]:
    left, y, cell = place
    total = sum(counts)
    parts: list[str] = []
    for predicted, count in enumerate(counts):
        share = count / total if total else 0.0
        x, is_right = left + predicted * cell, predicted == true
        # a few wrong answers of a hundred must be visible beside the diagonal, hence the root
        opacity = 0.12 + 0.88 * share if is_right else min(1.0, 1.6 * math.sqrt(share))
        title = f"{count} of {total} {class_names[true]} were called {class_names[predicted]}"
        parts.append(
            f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" rx="4" fill="var(--tint)"/>'
            f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" rx="4" '
            f'style="fill: rgba(var(--{"right" if is_right else "wrong"}), {opacity:.2f})"><title>{escape(title)}</title></rect>'
        )
        if count:
            fill = ' style="fill: #ffffff"' if opacity >= _DARK_SHARE else ""
            parts.append(f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle"{fill}>{count}</text>')
    accuracy = f"{100 * counts[true] / total:.1f} %" if total else "no images"
    parts.append(f'<text class="soft" x="{left + len(counts) * cell + 12}" y="{y + cell / 2 + 4:.1f}">{accuracy}</text>')
    return parts


def _line(line: Series, positions: Sequence[float], shift: float) -> str:
    colour, dots = f"var(--{line.key})", [(_x(p[0], positions) + shift, _y(p[1]), _y(p[2]), _y(p[3])) for p in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in dots)
    parts = [f'<polyline points="{path}" fill="none" style="stroke: {colour}" stroke-width="2.2" stroke-linejoin="round"/>']
    for (x, y, low, high), point in zip(dots, line.points, strict=True):
        whisker = f"M{x - 4:.1f},{low:.1f}h8M{x - 4:.1f},{high:.1f}h8M{x:.1f},{low:.1f}V{high:.1f}"
        title = f"{line.title}: {100 * point[1]:.1f} % [{100 * point[2]:.1f}, {100 * point[3]:.1f}]"
        parts.append(f'<path d="{whisker}" style="stroke: {colour}" stroke-width="1.4"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill: {colour}"><title>{escape(title)}</title></circle>')
    return "".join(parts)


def _end_labels(series: Sequence[Series], taken: float) -> list[str]:
    """Name and value at the end of each line, moved apart where lines end close together."""
    parts: list[str] = []
    lowest = taken - _LABEL_GAP + 4
    for line in sorted(series, key=lambda s: s.points[-1][1]):
        accuracy = line.points[-1][1]
        lowest = min(_y(accuracy), lowest - _LABEL_GAP if parts else lowest)
        text = f"{line.title} {100 * accuracy:.1f} %"
        style = f'style="fill: var(--{line.key})"'
        parts.append(f'<text class="strong" {style} x="{_WIDTH - _RIGHT + 14}" y="{lowest + 4:.1f}">{escape(text)}</text>')
    return parts


def _x(position: float, positions: Sequence[float]) -> float:
    """Logarithmic, or evenly spaced where texts below the axis would touch."""
    ordered = sorted(positions)
    is_crowded = any(b < _CROWDED_RATIO * a for a, b in pairwise(ordered))
    places = [float(ordered.index(p)) if is_crowded else math.log(p) for p in (ordered[0], position, ordered[-1])]
    low, place, high = places
    inner_left, inner_right = _LEFT + 34, _WIDTH - _RIGHT - 34
    return inner_left + (inner_right - inner_left) * ((place - low) / (high - low) if high > low else 0.5)


def _y(accuracy: float) -> float:
    return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - accuracy), 1)


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}"'
    return f'<figure class="probe-figure"><svg xmlns="http://www.w3.org/2000/svg" {box}>{"".join(parts)}</svg></figure>'
