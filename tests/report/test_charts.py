import re
from xml.etree import ElementTree

import pytest

from stablerep.report.charts import Interval, interval_chart, line_chart, round_ticks, share_bar


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (6.1, 7.9, [6, 6.5, 7, 7.5, 8]),
        (0.2, 9, [0, 2, 4, 6, 8, 10]),
        (3, 3, [3, 4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    ticks = round_ticks(low, high)
    assert ticks == pytest.approx(expected)


def test_lines_are_named_scaled_and_well_formed() -> None:
    svg = line_chart("Loss <by> step", {"total": [(1, 4.0), (2, 2.0)], "image": [(1, 1.0), (2, 0.5)], "none": []}, last=4)
    ElementTree.fromstring(svg)
    assert 'aria-label="Loss &lt;by&gt; step"' in svg
    assert "total 2" in svg
    assert "none" not in svg
    paths = [re.findall(r"[\d.]+ [\d.]+", path) for path in re.findall(r'class="line" style="stroke: var\(--s0\)" d="M([^"]*)"', svg)]
    (first, second) = ([float(number) for number in point.split()] for point in max(paths, key=len))
    assert second[0] < 520 / 2 + 40  # two steps of four are half the way
    assert first[1] < second[1]  # a smaller loss is lower on the page
    assert line_chart("Loss", {"total": []}) == ""


def test_shares_add_up_to_the_bar() -> None:
    svg = share_bar("Images", [("good", 3, "green"), ("black", 1, "red")], width=400)
    ElementTree.fromstring(svg)
    assert "good  3 (75.0 %)" in svg
    assert 'x="300.0" y="0" width="98.0"' in svg
    assert share_bar("Images", [("good", 0, "green")]) == ""


def test_intervals_are_drawn_around_their_value() -> None:
    svg = interval_chart("Probe", [Interval("encoder <1>", 0.75, 0.7, 0.8, is_ours=True), Interval("pixels", 0.65, 0.6, 0.7)])
    ElementTree.fromstring(svg)
    assert "encoder &lt;1&gt;" in svg
    (low, high), centre = re.findall(r'd="M([\d.]+) 16H([\d.]+)"', svg)[0], float(re.findall(r'cx="([\d.]+)"', svg)[0])
    assert float(low) < centre < float(high)
    assert centre == pytest.approx((float(low) + float(high)) / 2, abs=0.2)
    assert interval_chart("Probe", []) == ""
