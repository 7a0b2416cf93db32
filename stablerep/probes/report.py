"""The page people read: is the encoder good, against what, how sure, where does it fail, and what the numbers do not say.

Paper values are from section 4 of the StableRep paper and the released READMEs; they are printed as the paper's, never as ours.
"""

from collections.abc import Sequence

from stablerep.probes.figures import STYLE, Series, confusion_figure, labels_figure
from stablerep.probes.protocol import ALL_LABELS, NO_LABELS, SOURCES
from stablerep.probes.result import ProbeResult
from stablerep.records import ProbeScore
from stablerep.report import escape, page, table

MAX_CLASSES_DRAWN = 24
TITLES = {"encoder": "Encoder", "random_init": "Untrained trunk", "raw_pixels": "Raw pixels"}
_OPPONENTS = {"random_init": "an untrained trunk of the same shape", "raw_pixels": "raw pixels under the same head"}
PROBE_TITLES = {
    "linear": "linear",
    "linear_bn": "linear, batch norm",
    "knn": "k-NN",
    "logistic": "logistic, 45 penalties",
    "few_shot": "5-way 5-shot",
    "zero_shot": "zero-shot",
}
_NUM_CONFUSIONS = 8

# ImageNet, ViT-B/16, top-1 of a linear probe: without and with batch norm before the head
PAPER_VALUES = (
    ("StableRep, CC12M captions, 1x schedule", "72.8", "73.7"),
    ("StableRep, CC12M captions, 3x schedule", "75.7", "75.6"),
    ("StableRep+ (with text), CC12M captions, 1x", "74.4", "74.3"),
    ("StableRep, RedCaps captions, 1x schedule", "73.7", "74.6"),
    ("StableRep, RedCaps captions, 3x schedule", "76.7", "76.6"),
    ("StableRep+ (with text), RedCaps captions, 1x", "75.4", "75.4"),
)


def report_html(result: ProbeResult) -> str:
    """The whole page of a result."""
    evaluation = result.evaluation
    parts = [
        STYLE,
        f"<h1>Probe of {escape(evaluation.model_id)}</h1>",
        f'<p class="soft">{escape(_data_line(result))}<br><code>{escape(evaluation.suite)}</code></p>',
        _tiles(result),
        f"<p>{escape(_reading(result))}</p>",
        "<h2>How many labels it takes</h2>",
        _labels_figure(result),
        "<h2>Every probe</h2>",
        _score_table(result),
        '<p class="soft">Accuracy on the test images in per cent, with the 95 % bootstrap interval over test images'
        f"{_draws_note(result)}. Learning rates are chosen inside the labelled images; the test images are scored once.</p>",
        f"<h2>Where it fails</h2><p>{escape(_worst_line(result))}</p>",
        _confusion(result),
        "<h2>What these numbers do not say</h2>",
        _limits(result),
        "<h2>For comparison: paper values</h2>",
        table(["paper value, ImageNet, ViT-B/16", "linear", "with batch norm"], PAPER_VALUES),
        '<p class="soft">Top-1 in per cent as published for StableRep (NeurIPS 2023); measured by its authors, not here. '
        "76.7 is without text. That synthetic images beat real ones is claimed for linear probes; zero-shot, CLIP trained on many real "
        "images wins (syn-rep-learn, issue 6).</p>",
        "<h2>Protocol</h2>",
        _protocol(result),
    ]
    return page(f"Probe of {evaluation.model_id}", "\n".join(parts))


def labels_text(number: int) -> str:
    """`5 labels per class`, `all labels` or `no labels`."""
    return {ALL_LABELS: "all labels", NO_LABELS: "no labels"}.get(number, f"{number} labels per class")


def _data_line(result: ProbeResult) -> str:
    name = result.data.get("packaged", "folder of images")
    return (
        f"Frozen features, {name}: {result.num_train:,} training and {result.num_test:,} held-out test images, all real, "
        f"{len(result.class_names)} classes"
    )


def _tiles(result: ProbeResult) -> str:
    number = result.protocol["headline_labels"]
    tiles = [(_interval(result.headline("encoder")), f"encoder, linear probe, {labels_text(number)}")]
    for difference in result.differences:
        gain = f"encoder {_points(difference.mean)} [{_points(difference.low)}, {_points(difference.high)}]"
        tiles.append((_percent(result.headline(difference.source).accuracy), f"{TITLES[difference.source].lower()}; {gain}"))
    inside = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{inside}</div>'


def _reading(result: ProbeResult) -> str:
    """A few sentences that follow from the scores and their intervals alone."""
    number, fewest = result.protocol["headline_labels"], _label_numbers(result)[0]
    sentences = [
        f"With {labels_text(number)}, a linear head on the frozen encoder names {_interval(result.headline('encoder'))} of the test images."
    ]
    for difference in result.differences:
        opponent, points = _OPPONENTS[difference.source], f"{100 * abs(difference.mean):.1f} points"
        if round(difference.low, 3) > 0:  # as it is printed
            sentences.append(f"That is {points} above {opponent}.")
        elif round(difference.high, 3) < 0:
            sentences.append(f"That is {points} below {opponent}: with so many labels the encoder does not help.")
        else:
            sentences.append(f"That is not told apart from {opponent} ({_points(difference.mean)} points, and the interval holds 0).")
    few = {source: _score(result, source, "linear", fewest) for source in SOURCES}
    if fewest != number and all(few.values()):
        values = ", ".join(f"{TITLES[source].lower()} {_interval(score)}" for source, score in few.items() if score)
        sentences.append(f"With {labels_text(fewest)}: {values}.")
    return " ".join(sentences)


def _score(result: ProbeResult, source: str, probe: str, number: int) -> ProbeScore | None:
    wanted = (source, probe, number)
    return next((s for s in result.evaluation.scores if (s.source, s.probe, s.num_labels_per_class) == wanted), None)


def _label_numbers(result: ProbeResult) -> list[int]:
    numbers = {s.num_labels_per_class for s in result.evaluation.scores if s.probe == "linear"}
    return sorted(numbers, key=lambda n: (n == ALL_LABELS, n))


def _labels_figure(result: ProbeResult) -> str:
    per_class = result.num_train / len(result.class_names)
    numbers = [n for n in _label_numbers(result) if n < per_class]  # as many labels as there are images is drawn once, as all
    place = {n: per_class if n == ALL_LABELS else float(n) for n in numbers}
    ticks = [(place[n], f"all ({per_class:,.0f})" if n == ALL_LABELS else str(n)) for n in numbers]
    series = [
        Series(
            source, TITLES[source], [(place[n], s.accuracy, s.low, s.high) for n in numbers if (s := _score(result, source, "linear", n))]
        )
        for source in SOURCES
    ]
    return labels_figure([line for line in series if line.points], ticks, 1 / len(result.class_names))


def _score_table(result: ProbeResult) -> str:
    numbers = _label_numbers(result)
    if ALL_LABELS not in numbers:
        numbers.append(ALL_LABELS)  # k-NN always has all labels
    if any(score.num_labels_per_class == NO_LABELS for score in result.evaluation.scores):
        numbers.insert(0, NO_LABELS)
    measured = {(score.source, score.probe) for score in result.evaluation.scores}
    head = "".join(f'<th class="number">{escape(labels_text(n))}</th>' for n in numbers)
    rows: list[str] = []
    for source in SOURCES:
        for probe in (probe for probe in PROBE_TITLES if (source, probe) in measured):
            first = probe == "linear"
            kind = "first" if first and source != SOURCES[0] else ""
            headline = result.protocol["headline_labels"] if first and source == SOURCES[0] else None
            cells = "".join(_cell(_score(result, source, probe, n), n == headline) for n in numbers)
            name = TITLES[source] if first else ""
            rows.append(f'<tr class="{kind}"><td>{escape(name)}</td><td>{escape(PROBE_TITLES[probe])}</td>{cells}</tr>')
    return f'<table class="scores"><thead><tr><th>features</th><th>probe</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _cell(score: ProbeScore | None, is_headline: bool) -> str:
    if score is None:
        return '<td class="number soft">-</td>'
    kind = "number headline" if is_headline else "number"
    return f'<td class="{kind}">{100 * score.accuracy:.1f}<small>{100 * score.low:.1f} to {100 * score.high:.1f}</small></td>'


def _worst_line(result: ProbeResult) -> str:
    worst = sorted(result.per_class_accuracy.items(), key=lambda item: item[1])[:2]
    named = " and ".join(f"{name} ({100 * accuracy:.1f} %)" for name, accuracy in worst)
    wrong = _confusions(result)
    most = f" The commonest mistake: {wrong[0][0]} taken for {wrong[0][1]}, {wrong[0][2]} times." if wrong else ""
    return f"Hardest classes under the headline probe: {named}.{most}"


def _confusions(result: ProbeResult) -> list[tuple[str, str, int]]:
    names = result.class_names
    pairs = [(names[i], names[j], n) for i, row in enumerate(result.confusion) for j, n in enumerate(row) if i != j and n]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))[:_NUM_CONFUSIONS]


def _confusion(result: ProbeResult) -> str:
    if len(result.class_names) <= MAX_CLASSES_DRAWN:
        return confusion_figure(result.confusion, result.class_names)
    return table(["true class", "taken for", "images"], _confusions(result))


def _limits(result: ProbeResult) -> str:
    points = [
        "The untrained trunk is a weak opponent: raw pixels under the same linear head usually beat it by far. Look at both.",
        "Features are computed once, without augmentation; the paper trains its probe on ImageNet with random crops and flips."
        if result.protocol.get("augmentation", "none") == "none"
        else "Linear heads with all labels learnt from random views, anew in every epoch; all other probes from images as they are.",
        "The interval is over test images (and over draws of labels), for this one trained encoder. It does not cover what another "
        "training seed, generator or set of captions would give.",
        "With few labels the learning rate is chosen from very few held-out answers; up to about two points "
        "were lost to that choice where we measured it.",
    ]
    if any(score.probe == "zero_shot" for score in result.evaluation.scores):
        points.append("Zero-shot depends on the names of the classes and on the templates as much as on the encoder; both are below.")
    if "packaged" in result.data:
        points.insert(
            0,
            "These are small handwritten digits: a check that the trend is right, not a reproduction of the paper's numbers. "
            "With all labels the task is nearly saturated; the probes with few labels say more.",
        )
    return "<ul>" + "".join(f"<li>{escape(point)}</li>" for point in points) + "</ul>"


def _protocol(result: ProbeResult) -> str:
    shown = {key: value for key, value in result.protocol.items() if key != "headline_labels"}
    rows = [(key.replace("_", " "), _plain(value)) for key, value in shown.items()]
    rows += [("data", result.source), ("licence of the data", result.licence)]
    rows += [(f"identity: {key}", value) for key, value in result.data.items()]
    return table(["setting", "value"], rows)


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join("all" if item == ALL_LABELS else str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)


def _interval(score: ProbeScore) -> str:
    return f"{100 * score.accuracy:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0 makes -0.0 positive


def _draws_note(result: ProbeResult) -> str:
    few: Sequence[int] = [n for n in _label_numbers(result) if n != ALL_LABELS]
    return f" and over {result.protocol['num_draws']} draws of labels where labels are few" if few else ""
