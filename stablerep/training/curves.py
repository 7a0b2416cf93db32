"""The curves of a run as one HTML page: losses, learning rate, gradient norm, throughput. Drawn as SVG, nothing loaded from elsewhere.

Noisy series are drawn twice: every point faintly, and their running mean. Long runs are thinned to what a page can show.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stablerep.report import escape, page
from stablerep.training.history import Point, series

Series = list[tuple[int, float]]

_HEIGHT = 260
_GRID = "display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));column-gap:28px"
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 34
_MOST_POINTS = 500
_COLOURS = ("#2457c5", "#c2571a", "#2b8a57", "#7a3fb0")
_INK, _SOFT, _LINE = "#1c2330", "#5d6778", "#e3e7ee"


def curves_html(history: Sequence[Point], *, title: str = "Training curves", facts: Mapping[str, str] | None = None) -> str:
    """The page.

    Args:
        history: points of a run, as `history.read_history` gives them.
        title: heading.
        facts: shown as tiles above the curves, name to value.
    """
    total = series(history, "stablerep_training_loss", term="total")
    if not total:
        return page(title, f"<h1>{escape(title)}</h1><p>No step was written down yet.</p>")
    terms = {"total": total, "image": _loss(history, "image"), "text": _loss(history, "text")}
    used = {name: points for name, points in terms.items() if any(value for _, value in points)}
    if len(used) == 2:  # one loss only: the total is that loss
        used.pop("total")
    waits = [(step, 100 * value) for step, value in series(history, "stablerep_training_data_wait_ratio")]
    others = [
        _Chart("Learning rate", "", {"": series(history, "stablerep_training_learning_rate")}, is_exact=True),
        _Chart("Gradient norm", "before clipping", {"": series(history, "stablerep_training_gradient_norm")}),
        _Chart("Throughput", "images a second, all processes", {"": series(history, "stablerep_training_images_per_second")}),
        _Chart("Waiting for data", "per cent of the time", {"": waits}),
    ]
    tiles = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in (facts or {}).items())
    first = _figure(_Chart("Loss", "of the whole batch; faint: every point, line: running mean", used), width=1000)
    grid = f'<div style="{_GRID}">{"".join(_figure(chart, width=520) for chart in others if chart.lines[""])}</div>'
    return page(title, f'<h1>{escape(title)}</h1><div class="tiles">{tiles}</div>{first}{grid}')


@dataclass(frozen=True)
class _Chart:
    title: str
    note: str
    lines: Mapping[str, Series]
    is_exact: bool = False  # nothing to smooth


def _loss(history: Sequence[Point], term: str) -> Series:
    return series(history, "stablerep_training_loss", term=term)


def _figure(chart: _Chart, width: int) -> str:
    note = f' <span class="soft" style="font-weight:400;font-size:14px">{escape(chart.note)}</span>' if chart.note else ""
    return f'<section><h2>{escape(chart.title)}{note}</h2><figure class="plot">{_drawn(chart, width)}</figure></section>'


def _drawn(chart: _Chart, width: int) -> str:
    """One SVG with axes, grid and legend."""
    every = [point for points in chart.lines.values() for point in points]
    last_step = max(step for step, _ in every)
    y_ticks = _ticks(min(value for _, value in every), max(value for _, value in every))
    low, high = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * step / last_step

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    parts = [f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="{escape(chart.title)} by step" font-size="12" fill="{_SOFT}">']
    for tick in y_ticks:
        parts.append(f'<path d="M{_LEFT} {y(tick):.1f}H{width - _RIGHT}" stroke="{_LINE}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in (tick for tick in _ticks(0, last_step) if tick <= last_step):
        label = f"step {_number(tick)}" if tick == 0 else _number(tick)
        parts.append(f'<text x="{x(tick):.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{label}</text>')
    for colour, points in zip(_COLOURS, chart.lines.values(), strict=False):
        thin = _thinned(points)
        if not chart.is_exact:
            parts.append(_path([(x(s), y(v)) for s, v in thin], colour, 'stroke-width="1" opacity="0.28"'))
        parts.append(_path([(x(s), y(v)) for s, v in (thin if chart.is_exact else _smoothed(thin))], colour, 'stroke-width="2"'))
    parts.append(_legend(chart.lines, width) if len(chart.lines) > 1 else "")
    return "".join(parts) + "</svg>"


def _legend(lines: Mapping[str, Series], width: int) -> str:
    parts: list[str] = []
    for i, (colour, (name, points)) in enumerate(zip(_COLOURS, lines.items(), strict=False)):
        left = width - _RIGHT - 130 * (len(lines) - i)
        parts.append(f'<path d="M{left} {_TOP + 8}h22" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{left + 28}" y="{_TOP + 12}" fill="{_INK}">{escape(name)} {points[-1][1]:.3f}</text>')
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]], colour: str, style: str) -> str:
    if len(points) == 1:
        return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" fill="{colour}"/>'
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}" fill="none" stroke="{colour}" stroke-linejoin="round" {style}/>'


def _thinned(points: Series) -> Series:
    every = math.ceil(len(points) / _MOST_POINTS)
    return points[::every] + ([points[-1]] if (len(points) - 1) % every else [])


def _smoothed(points: Series) -> Series:
    """Mean over a window of a fiftieth of the points on both sides."""
    reach = len(points) // 50
    values = [value for _, value in points]
    means = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [(step, sum(mean) / len(mean)) for (step, _), mean in zip(points, means, strict=True)]


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers that enclose low and high; from 0 where the values come near it."""
    low = 0.0 if 0 <= low < 0.4 * high else low
    span = (high - low) or abs(high) or 1.0
    raw = span / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [i * step for i in range(first, last + 1)]


def _number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}"
