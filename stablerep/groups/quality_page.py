"""The page about quality: the verdict, how well images agree with their captions, what became of those that do not, best and worst groups.

It becomes a section of the report of a run. Captions come from outside and are escaped; the histogram is an SVG drawn here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stablerep.groups.contact_sheet import group_figure
from stablerep.report import escape, page, table
from stablerep.shards.group import ImageGroup
from stablerep.shards.read import GroupDataset

NUM_SHOWN = 6
BIN = 0.05
_WIDTH_PX, _HEIGHT_PX, _LEFT_PX, _FOOT_PX = 640, 190, 44, 34

_WORDS = {
    "good": "stored",
    "nonfinite": "made again or left out: not finite",
    "black": "made again or left out: black",
    "constant": "made again or left out: nearly constant",
    "duplicate": "made again or left out: duplicate in its group",
    "disagreeing": "made again or left out: does not agree with its caption",
    "outlying": "made again or left out: far from the rest of its group",
    "kept_disagreeing": "stored all the same: does not agree with its caption",
    "kept_outlying": "stored all the same: far from the rest of its group",
    "weighted_disagreeing": "stored with a lower weight: does not agree with its caption",
    "weighted_outlying": "stored with a lower weight: far from the rest of its group",
    "missing": "wanted, not stored",
    "dropped_groups": "groups left out whole",
}
_VERDICTS = {
    "passed": ("passed", "#1a7f4b"),
    "warned": ("warning", "#a86400"),
    "lifted": ("warning, lifted by hand", "#a86400"),
    "refused": ("refused", "#b3261e"),
    "unmeasured": ("not measured", "#5d6778"),
}


@dataclass(frozen=True)
class AgreementSummary:
    """Scores of the groups that were looked at: images by bins of 0.05 from -1, their mean, and groups by mean agreement, lowest first."""

    bins: tuple[int, ...]
    mean: float
    num_images: int
    ordered: list[tuple[int, float]]


@dataclass(frozen=True)
class Shown:
    """Some groups under a heading, each with its mean agreement."""

    title: str
    groups: list[tuple[ImageGroup, float]]


def summarise(groups: GroupDataset, positions: Sequence[int]) -> AgreementSummary | None:
    """What the kept scores of some groups say; None where there are none."""
    scores: dict[int, list[float]] = {position: groups.metadata(position).get("scores", {}).get("agreement", []) for position in positions}
    scored = {position: values for position, values in scores.items() if values}
    if not scored:
        return None
    every = np.concatenate([np.asarray(values, dtype=np.float64) for values in scored.values()])
    counts = np.histogram(every, bins=np.linspace(-1, 1, round(2 / BIN) + 1))[0]
    means = sorted(((position, round(float(np.mean(values)), 4)) for position, values in scored.items()), key=lambda pair: pair[1])
    return AgreementSummary(tuple(counts.tolist()), round(float(every.mean()), 4), len(every), means)


def quality_html(
    *,
    outcome: str,
    sentence: str,
    values: Mapping[str, float],
    counts: Mapping[str, int],
    inspection: Mapping[str, Any],
    summary: AgreementSummary | None,
    shown: Sequence[Shown],
    is_labelled: bool,
) -> str:
    """The page.

    Args:
        outcome: passed, warned, lifted, refused or unmeasured.
        sentence: why.
        values: means and intervals, by name.
        counts: images by verdict, of the manifest.
        inspection: policy and thresholds; empty where nothing was scored.
        summary: of the scores; None where there are none.
        shown: best and worst groups.
        is_labelled: whether purity comes from class labels.
    """
    word, colour = _VERDICTS[outcome]
    parts = [
        "<h1>Quality of the groups</h1>",
        f'<p><b style="color: {colour}">{escape(word)}</b>: {escape(sentence)}.</p>',
        _tiles(values),
        f'<p class="soft">{_explained(is_labelled)}</p>' if "purity" in values else "",
        _histogram(summary, inspection) if summary else '<p class="soft">No model scored these images against their captions.</p>',
        "<h2>Images by what became of them</h2>",
        table(["images", "number"], [(_WORDS.get(name, name), number) for name, number in _sorted(counts)]),
    ]
    for some in shown:
        figures = [group_figure(group, f"{score:.3f}") for group, score in some.groups]
        width_px = max(width for _, width in figures)
        columns = f"grid-template-columns: repeat(auto-fill, minmax(min(100%, {width_px}px), 1fr)); overflow-wrap: anywhere"
        parts.append(f'<h2>{escape(some.title)}</h2><div class="groups" style="{columns}">{"".join(html for html, _ in figures)}</div>')
    return page("Quality of the groups", "\n".join(part for part in parts if part))


def _sorted(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    order = list(_WORDS)
    return sorted(counts.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))


def _tiles(values: Mapping[str, float]) -> str:
    tiles = [
        (f"{values[name]:.3f}", f"{name}, 95 % {values[f'{name}_low']:.3f} to {values[f'{name}_high']:.3f}")
        for name in ("purity", "diversity")
        if name in values
    ]
    tiles += [(f"{values['agreement']:.3f}", "mean agreement")] if "agreement" in values else []
    inside = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles)
    return f'<div class="tiles">{inside}</div>' if tiles else ""


def _explained(is_labelled: bool) -> str:
    purity = (
        "Purity is the share of a group's most frequent class, as a classifier of real training images sees it"
        if is_labelled
        else "Purity is the share of images that are nearer to the rest of their own group than to groups of other things"
    )
    return f"{purity}. Diversity is the mean distance of two images of a group, over that of two images of different groups."


def _histogram(summary: AgreementSummary, inspection: Mapping[str, Any]) -> str:
    """Images by agreement, with the thresholds that are on."""
    used = [place for place, count in enumerate(summary.bins) if count]
    first, last = max(0, min(used) - 1), min(len(summary.bins), max(used) + 2)
    counts, top = summary.bins[first:last], max(summary.bins)
    step = (_WIDTH_PX - _LEFT_PX) / len(counts)
    room = _HEIGHT_PX - _FOOT_PX - 12

    def x(agreement: float) -> float:
        return _LEFT_PX + ((agreement + 1) / BIN - first) * step

    bars = "".join(
        f'<rect x="{_LEFT_PX + place * step + 1:.1f}" y="{_HEIGHT_PX - _FOOT_PX - room * count / top:.1f}" width="{step - 2:.1f}" '
        f'height="{room * count / top:.1f}" fill="#2457c5"><title>{count} images</title></rect>'
        for place, count in enumerate(counts)
    )
    every = max(1, len(counts) // 8)
    ticks = "".join(
        f'<text x="{x(-1 + BIN * place):.1f}" y="{_HEIGHT_PX - 18}" text-anchor="middle">{-1 + BIN * place:.2f}</text>'
        for place in range(first, last + 1, every)
    )
    lines = "".join(
        f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="6" y2="{_HEIGHT_PX - _FOOT_PX}" stroke="#b3261e" stroke-dasharray="4 3"/>'
        f'<text x="{x(value) + 4:.1f}" y="14" fill="#b3261e">{escape(name)}</text>'
        for name, value in ((key.replace("_", " "), inspection.get(key, -1.0)) for key in ("min_agreement", "min_group_agreement"))
        if first * BIN - 1 <= value <= last * BIN - 1 and value > -1
    )
    axis = f'<line x1="{_LEFT_PX}" x2="{_WIDTH_PX}" y1="{_HEIGHT_PX - _FOOT_PX}" y2="{_HEIGHT_PX - _FOOT_PX}" stroke="#888"/>'
    scale = f'<text x="{_LEFT_PX - 6}" y="20" text-anchor="end">{top}</text>'
    middle = (_LEFT_PX + _WIDTH_PX) / 2
    label = f'<text x="{middle}" y="{_HEIGHT_PX - 3}" text-anchor="middle">cosine of an image and its caption</text>'
    drawing = (
        f'<svg viewBox="0 0 {_WIDTH_PX} {_HEIGHT_PX}" width="{_WIDTH_PX}" overflow="visible" font-size="11" '
        f'font-family="system-ui, sans-serif" fill="#333" role="img" aria-label="histogram of agreement">'
        f"{bars}{axis}{lines}{ticks}{scale}{label}</svg>"
    )
    policy = inspection.get("policy", "keep")
    said = f"{summary.num_images:,} images of {len(summary.ordered):,} groups; policy {escape(policy)}"
    return f'<h2>Agreement of images with their captions</h2><div class="plot">{drawing}</div><p class="soft">{said}.</p>'
