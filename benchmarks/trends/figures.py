"""Figures of the results page as SVG files on white: means with intervals, and one dot for each replicate. Nothing here computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_FONT = 'font-family="system-ui, Segoe UI, Roboto, sans-serif"'
_INK, _SOFT, _LINE = "#1d2733", "#66727f", "#dfe4ea"
COLOURS = ("#2457c5", "#c2660c", "#2b8a55", "#8a4bb5")
_ROW, _LEFT, _RIGHT, _WIDTH = 34, 326, 76, 886


@dataclass(frozen=True)
class Mark:
    """A mean in per cent with its interval (None: none) and the replicates behind it."""

    title: str
    mean: float
    interval: tuple[float, float] | None
    dots: Sequence[float]
    colour: str = COLOURS[0]


def forest(marks: Sequence[Mark], unit: str, zero: float | None = None) -> str:
    """One row for each mark; `zero` draws a reference line."""
    ends = [end for mark in marks for end in (*(mark.interval or ()), *mark.dots, mark.mean)] + ([zero] if zero is not None else [])
    low, high = _limits(ends)
    height = _ROW * len(marks) + 52

    def x(value: float) -> float:
        return _LEFT + (min(max(value, low), high) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    bottom = height - 40
    parts = [f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="8" y2="{bottom}" stroke="{_LINE}"/>' for t in _ticks(low, high)]
    parts += [_text(x(t), bottom + 16, f"{t:g}", _SOFT, "middle") for t in _ticks(low, high)]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, height - 6, unit, _SOFT, "middle"))
    if zero is not None:
        parts.append(f'<line x1="{x(zero):.1f}" x2="{x(zero):.1f}" y1="8" y2="{bottom}" stroke="{_SOFT}" stroke-dasharray="4 4"/>')
    for row, mark in enumerate(marks):
        y = 8 + _ROW * (row + 0.5)
        parts.append(_text(_LEFT - 14, y + 4, mark.title, _INK, "end"))
        if mark.interval:
            parts.append(_rod(x(mark.interval[0]), x(mark.interval[1]), y, mark.colour))
        parts += [f'<circle cx="{x(dot):.1f}" cy="{y:.1f}" r="3.2" fill="none" stroke="{mark.colour}" opacity="0.7"/>' for dot in mark.dots]
        parts.append(f'<rect x="{x(mark.mean) - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{mark.colour}"/>')
        parts.append(_text(_WIDTH - _RIGHT + 12, y + 4, f"{mark.mean:+.1f}" if zero is not None else f"{mark.mean:.1f}", _INK, "start"))
    return _svg(_WIDTH, height, unit, parts)


def lines(series: Sequence[tuple[str, Sequence[tuple[str, Mark]]]], axis: str, unit: str) -> str:
    """Lines over named places of the horizontal axis with intervals, and a light line for each replicate where all have all places."""
    places = list(dict.fromkeys(place for _, points in series for place, _ in points))
    ends = [end for _, points in series for _, mark in points for end in (*(mark.interval or ()), *mark.dots, mark.mean)]
    low, high = _limits(ends)
    width, height, left, right, top, bottom = 760, 320, 52, 190, 14, 48

    def x(place: str) -> float:
        return left + (places.index(place) + 0.5) / len(places) * (width - left - right)

    def y(value: float) -> float:
        return top + (high - min(max(value, low), high)) / (high - low) * (height - top - bottom)

    parts = [f'<line x1="{left}" x2="{width - right}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="{_LINE}"/>' for t in _ticks(low, high)]
    parts += [_text(left - 8, y(t) + 4, f"{t:g}", _SOFT, "end") for t in _ticks(low, high)]
    parts += [_text(x(place), height - 28, place, _SOFT, "middle") for place in places]
    parts.append(_text((left + width - right) / 2, height - 8, f"{axis}; {unit}", _SOFT, "middle"))
    for title, points in series:
        colour = points[0][1].colour
        counts = {len(mark.dots) for _, mark in points}
        for k in range(counts.pop() if len(counts) == 1 else 0):
            way = " ".join(f"{x(place):.1f},{y(mark.dots[k]):.1f}" for place, mark in points)
            parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" opacity="0.3"/>')
        way = " ".join(f"{x(place):.1f},{y(mark.mean):.1f}" for place, mark in points)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2.4"/>')
        parts += [_pole(x(place), y(mark.interval[0]), y(mark.interval[1]), colour) for place, mark in points if mark.interval]
        parts += [f'<circle cx="{x(place):.1f}" cy="{y(mark.mean):.1f}" r="4" fill="{colour}"/>' for place, mark in points]
        last, mark = points[-1]
        parts.append(_text(width - right + 12 if last == places[-1] else x(last) + 10, y(mark.mean) + 4, title, colour, "start"))
    return _svg(width, height, f"{unit} against {axis}", parts)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 0.5)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 8)
    first = -(-low // step) * step
    return [first + i * step for i in range(int((high - first) / step) + 1)]


def _rod(start: float, end: float, y: float, colour: str) -> str:
    ends = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}" stroke="{colour}"/>' for x in (start, end))
    return f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="1.6"/>{ends}'


def _pole(x: float, low: float, high: float, colour: str) -> str:
    ends = "".join(f'<line x1="{x - 5:.1f}" x2="{x + 5:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>' for y in (low, high))
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-width="1.6"/>{ends}'


def _text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} font-size="13" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"
