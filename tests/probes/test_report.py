"""The page says what was measured and no more; names are escaped; figures are well-formed; it becomes a section of the run's report."""

import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from stablerep.probes.figures import Series, confusion_figure, labels_figure
from stablerep.probes.protocol import ALL_LABELS, SOURCES
from stablerep.probes.report import PAPER_VALUES, report_html
from stablerep.probes.result import Difference, ProbeResult
from stablerep.records import Evaluation, ProbeScore
from stablerep.report import body_of


def make_result(class_names: tuple[str, ...] = ("cat", "dog"), labels: tuple[int, ...] = (5, ALL_LABELS)) -> ProbeResult:
    values = {"encoder": 0.8, "random_init": 0.4, "raw_pixels": 0.7}
    scores = [
        ProbeScore(source, probe, n, value - 0.1 * (n > 0), value - 0.12, value + 0.02)
        for source, value in values.items()
        for n in labels
        for probe in ("linear", "linear_bn")
    ] + [ProbeScore(source, "knn", ALL_LABELS, value, value - 0.02, value + 0.02) for source, value in values.items()]
    num = len(class_names)
    return ProbeResult(
        Evaluation("model-1", "suite-1", "file:///evals/model-1/suite-1", 0.8, 0.78, 0.82, tuple(scores)),
        {"headline_labels": labels[-1], "num_draws": 5, "labels_per_class": list(labels), "seed": 0},
        {"packaged": "mnist", "version": "1"},
        "CC BY-SA 3.0",
        "somewhere",
        class_names,
        num_train=20 * num,
        num_test=10 * num,
        base_lrs={},
        confusion=tuple(tuple(8 if i == j else (2 if j == (i + 1) % num else 0) for j in range(num)) for i in range(num)),
        per_class_accuracy=dict.fromkeys(class_names, 0.8),
        differences=(Difference("random_init", 0.4, 0.37, 0.43), Difference("raw_pixels", 0.01, -0.02, 0.04)),
        correct={},
    )


def svgs(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def words(element: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in element.iter("{http://www.w3.org/2000/svg}text")]


def test_the_page_holds_every_score_and_what_the_paper_got() -> None:
    html = report_html(make_result())
    assert "80.0 % [68.0, 82.0]" in html
    assert "40.0 points above an untrained trunk of the same shape" in html
    assert "not told apart from raw pixels under the same head (+1.0 points, and the interval holds 0)" in html
    assert html.count("<small>") == 15  # 3 sources x (2 probes x 2 label counts + k-NN)
    assert html.count('class="number headline"') == 1
    assert "paper value" in html
    assert "not a reproduction" in html
    assert all(row[1] in html and row[2] in html for row in PAPER_VALUES)
    assert "CC BY-SA 3.0" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)


def test_an_encoder_worse_than_pixels_is_called_so() -> None:
    worse = replace(make_result(), differences=(Difference("raw_pixels", -0.05, -0.07, -0.03),))
    assert "5.0 points below raw pixels under the same head: with so many labels the encoder does not help" in report_html(worse)


def test_names_from_outside_are_escaped() -> None:
    html = report_html(make_result(class_names=("<script>alert(1)</script>", "b&b")))
    assert "<script>" not in html
    assert "b&amp;b" in html


def test_figures_are_well_formed_and_hold_the_numbers() -> None:
    plot, matrix = svgs(report_html(make_result()))
    assert {"Encoder 80.0 %", "Raw pixels 70.0 %", "Untrained trunk 40.0 %", "all (20)", "5", "chance 50 %"} <= set(words(plot))
    assert words(matrix).count("8") == 2
    assert words(matrix).count("80.0 %") == 2


def test_labels_at_the_end_of_lines_do_not_overlap() -> None:
    series = [
        Series(source, source, [(5.0, 0.5, 0.4, 0.6), (300.0, value, 0.8, 0.9)])
        for source, value in zip(SOURCES, (0.9, 0.89, 0.88), strict=True)
    ]
    (plot,) = svgs(labels_figure(series, [(5.0, "5"), (300.0, "all")], chance=0.87))
    named = [t for t in plot.iter("{http://www.w3.org/2000/svg}text") if (t.text or "").startswith((*SOURCES, "chance"))]
    heights = sorted(float(text.get("y", "nan")) for text in named)
    assert len(heights) == 4
    assert all(b - a >= 12 for a, b in itertools.pairwise(heights))


def test_one_label_count_and_a_class_without_images() -> None:
    html = report_html(make_result(labels=(5,)))
    assert "all labels" in html  # k-NN
    (matrix,) = svgs(confusion_figure([[3, 0], [0, 0]], ["a", "b"]))
    assert words(matrix).count("no images") == 1


@pytest.mark.parametrize(("num_classes", "num_figures"), [(20, 2), (100, 1)])
def test_many_classes_become_a_table_of_mistakes(num_classes: int, num_figures: int) -> None:
    html = report_html(make_result(class_names=tuple(f"a kind of animal {i:03d}" for i in range(num_classes))))
    assert len(svgs(html)) == num_figures
    assert ("taken for</th>" in html) == (num_figures == 1)


def test_the_page_becomes_a_section() -> None:
    body = body_of(report_html(make_result()))
    assert "<h2>Probe of model-1</h2>" in body
    assert body.count("<svg") == 2
    assert "probe-figure" in body


def test_ticks_that_would_touch_are_spaced_evenly() -> None:
    def ticks(*positions: float) -> list[float]:
        line = Series("encoder", "e", [(positions[0], 0.5, 0.4, 0.6)])
        (plot,) = svgs(labels_figure([line], [(p, f"at {p:g}") for p in positions], 0.1))
        texts = plot.iter("{http://www.w3.org/2000/svg}text")
        return [float(text.get("x", "nan")) for text in texts if (text.text or "").startswith("at ")]

    plot, _ = svgs(report_html(make_result(labels=(5, 20, ALL_LABELS))))  # 20 images a class: 20 labels are all
    assert {"5", "all (20)"} < set(words(plot))
    assert "20" not in words(plot)
    near, far = ticks(5, 20, 21), ticks(5, 20, 300)
    assert near[1] - near[0] == pytest.approx(near[2] - near[1])
    assert far[2] - far[1] > 1.5 * (far[1] - far[0])
