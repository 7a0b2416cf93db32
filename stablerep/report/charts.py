"""Charts as SVG for light and dark pages: lines over steps, shares of a whole, values with intervals. Colours are the page's variables.

A page that shows them includes CHART_STYLE. Every chart has a title for screen readers and labels that can be read without colour.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stablerep.report.page import escape

CHART_STYLE = """
:root { --s0: #2457c5; --s1: #c2571a; --s2: #2b8a57; --s3: #7a3fb0; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --s0: #7ea6ff; --s1: #f0975a; --s2: #6fcf97; --s3: #c39bef; --bad: #ff7b6b; } }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
svg .ink { fill: var(--ink); } svg .grid { stroke: var(--line); fill: none; } svg .faint { opacity: .25; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
"""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 28
_MOST_POINTS = 400
Series = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Interval:
    """A value with its interval, all between 0 and 1."""

    name: str
    value: float
    low: float
    high: float
    is_ours: bool = False


def line_chart(title: str, lines: Mapping[str, Series], *, width: int = 520, height: int = 230, last: float = 0.0) -> str:
    """Lines over steps, each drawn faintly and as its running mean, named where it ends; empty where there is no point.

    Args:
        title: for screen readers.
        lines: name to points in the order of the steps; an empty name is not written.
        width: in pixels of the picture's own system.
        height: as width.
        last: the step at the right end, 0 for the last one there is.
    """
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    every = [point for points in lines.values() for point in points]
    end = max(last, *(step for step, _ in every), 1.0)
    ticks = round_ticks(min(value for _, value in every), max(value for _, value in every))

    def x(step: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * step / end

    def y(value: float) -> float:
        return _TOP + (height - _TOP - _BOTTOM) * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in (tick for tick in round_ticks(0, end) if tick <= end and float(tick).is_integer()):
        anchor = "start" if tick == 0 else "middle" if x(tick) < width - 40 else "end"
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 8}" text-anchor="{anchor}">{"step 0" if tick == 0 else number(tick)}</text>')
    for i, points in enumerate(lines.values()):
        thin = points[:: math.ceil(len(points) / _MOST_POINTS)]
        colour = f"stroke: var(--s{i % 4})"
        parts.append(_path([(x(s), y(v)) for s, v in thin], "line faint", colour))
        parts.append(_path([(x(s), y(v)) for s, v in _smoothed(thin)], "line", colour))
    return "".join(parts) + _legend(lines, width) + "</svg>"


def share_bar(title: str, shares: Sequence[tuple[str, int, str]], *, width: int = 520) -> str:
    """One bar of parts `(name, number, CSS colour)`, with the numbers below it; empty where there is nothing."""
    total = sum(count for _, count, _ in shares)
    if not total:
        return ""
    rows = math.ceil(len(shares) / 2)
    parts = [f'<svg viewBox="0 0 {width} {34 + 22 * rows}" role="img" aria-label="{escape(title)}">']
    left = 0.0
    for i, (name, count, colour) in enumerate(shares):
        wide = width * count / total
        parts.append(
            f'<rect x="{left:.1f}" y="0" width="{max(wide - 2, 1 if count else 0):.1f}" height="18" rx="3" style="fill: {colour}"/>'
        )
        left += wide
        column, row = i % 2 * width / 2, 40 + 22 * (i // 2)
        parts.append(f'<rect x="{column:.0f}" y="{row - 10}" width="11" height="11" rx="2" style="fill: {colour}"/>')
        text = f"{escape(name)}  {count:,} ({100 * count / total:.1f} %)"
        parts.append(f'<text class="ink" x="{column + 18:.0f}" y="{row}">{text}</text>')
    return "".join(parts) + "</svg>"


def interval_chart(title: str, rows: Sequence[Interval], *, width: int = 520) -> str:
    """Values between 0 and 1 as points with their intervals, one a row; ours in the first colour."""
    if not rows:
        return ""
    left, right, height = 190, 64, 26
    low = math.floor(10 * max(min(row.low for row in rows) - 0.02, 0.0)) / 10

    def x(value: float) -> float:
        return left + (width - left - right) * (value - low) / (1 - low)

    bottom = height * len(rows) + 6
    parts = [f'<svg viewBox="0 0 {width} {bottom + 22}" role="img" aria-label="{escape(title)}">']
    for tick in (low + i * (1 - low) / 4 for i in range(5)):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} 0V{bottom}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{100 * tick:.0f} %</text>')
    for i, row in enumerate(rows):
        y = height * i + 16
        colour = "var(--s0)" if row.is_ours else "var(--soft)"
        weight = ' class="ink" style="font-weight: 600"' if row.is_ours else ""
        parts.append(f'<text{weight} x="0" y="{y + 4}">{escape(row.name)}</text>')
        parts.append(f'<path class="line" style="stroke: {colour}" d="M{x(row.low):.1f} {y}H{x(row.high):.1f}"/>')
        parts.append(f'<circle cx="{x(row.value):.1f}" cy="{y}" r="5" style="fill: {colour}"/>')
        parts.append(f'<text{weight} x="{width}" y="{y + 4}" text-anchor="end">{100 * row.value:.1f} %</text>')
    return "".join(parts) + "</svg>"


def round_ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers around low and high; from 0 where the values come near it."""
    low = 0.0 if 0 <= low < 0.4 * high else low
    raw = ((high - low) or abs(high) or 1.0) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
    first = math.floor(low / step + 1e-9)
    return [i * step for i in range(first, max(math.ceil(high / step - 1e-9), first + 1) + 1)]


def number(value: float) -> str:
    """A number on an axis."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.5g}"


def _legend(lines: Mapping[str, Series], width: int) -> str:
    parts: list[str] = []
    names = [name for name in lines if name]
    for i, name in enumerate(lines):
        if name:
            left = width - _RIGHT - 118 * (len(names) - i)
            parts.append(f'<path class="line" style="stroke: var(--s{i % 4})" d="M{left} {_TOP + 6}h18"/>')
            parts.append(f'<text class="ink" x="{left + 24}" y="{_TOP + 10}">{escape(name)} {number(round(lines[name][-1][1], 3))}</text>')
    return "".join(parts)


def _path(points: Series, name: str, style: str) -> str:
    if len(points) == 1:
        return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" style="{style}; fill: none"/>'
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{name}" style="{style}" d="M{steps}"/>'


def _smoothed(points: Series) -> Series:
    """Mean over a window of a fiftieth of the points on both sides."""
    reach = len(points) // 50
    values = [value for _, value in points]
    means = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [(step, sum(mean) / len(mean)) for (step, _), mean in zip(points, means, strict=True)]
