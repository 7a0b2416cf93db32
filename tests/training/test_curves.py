"""The page of curves: one self-contained file that shows every series."""

import xml.etree.ElementTree as ElementTree

import pytest

from stablerep.training.curves import curves_html
from stablerep.training.history import Point


def _history(num_steps: int, text: float = 1.0) -> list[Point]:
    points: list[Point] = []
    for step in range(1, num_steps + 1):
        losses = {"total": 5.0 / step + text, "image": 5.0 / step, "text": text}
        points += [Point("stablerep_training_loss", step, 0.0, value, {"term": term}) for term, value in losses.items()]
        values = {"learning_rate": 1e-3 / step, "gradient_norm": 1.0, "images_per_second": 900.0, "data_wait_ratio": 0.25}
        points += [Point(f"stablerep_training_{name}", step, 0.0, value) for name, value in values.items()]
    return points


@pytest.mark.parametrize("num_steps", [1, 2, 7, 3000])
def test_every_series_is_drawn_and_nothing_is_loaded(num_steps: int) -> None:
    page = curves_html(_history(num_steps), title="<run>", facts={"steps": f"{num_steps}"})
    assert "&lt;run&gt;" in page
    assert all(f">{title}" in page for title in ("Loss", "Learning rate", "Gradient norm", "Throughput", "Waiting for data"))
    assert all(name in page for name in ("total", "image", "text"))
    assert not any(word in page for word in ("http:", "https:", "<script", "nan", "inf<"))
    assert len(page) < 400_000


def test_figures_are_well_formed_and_inside_their_frame() -> None:
    page = curves_html(_history(50))
    figures = [part.partition("</svg>")[0] + "</svg>" for part in page.split("<svg")[1:]]
    assert len(figures) == 5
    for figure in figures:
        root = ElementTree.fromstring("<svg" + figure)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for path in root.findall("path"):
            if path.attrib.get("fill") == "none":
                numbers = path.attrib["d"].removeprefix("M").replace("L", " ").split()
                assert all(0 <= float(x) <= width for x in numbers[::2])
                assert all(0 <= float(y) <= height for y in numbers[1::2])


def test_one_loss_is_drawn_once() -> None:
    page = curves_html(_history(5, text=0.0))
    assert page.count("<circle") == 0
    assert ">text " not in page
    assert ">total " not in page


def test_no_points_say_so() -> None:
    assert "No step was written down yet" in curves_html([])
