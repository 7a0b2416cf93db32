"""The results in a model card: every score with its interval, and what may not be concluded from them."""

from collections.abc import Sequence

from stablerep.records import Evaluation, ProbeScore

RESULTS, LIMITS = "## Results\n", "## Limits of the claim\n"
_SOURCES = {"encoder": "**this encoder**", "random_init": "the same trunk, untrained", "raw_pixels": "raw pixels"}
NOT_MEASURED = "Not measured yet: `stablerep probe` fills this in.\n"


def with_results(card: str, evaluations: Sequence[Evaluation]) -> str:
    """A card with its section of results replaced; a card without such a section stays as it is.

    Args:
        card: Markdown, as `export_card.model_card` writes it.
        evaluations: of the model, by suite.
    """
    before, mark, rest = card.partition(RESULTS)
    after = rest.partition(LIMITS)[2]
    if not mark or not after:
        return card
    return f"{before}{RESULTS}\n{results_markdown(evaluations)}\n{LIMITS}{after}"


def results_markdown(evaluations: Sequence[Evaluation]) -> str:
    """A table a suite: accuracy in per cent with its 95 % bootstrap interval."""
    if not evaluations:
        return NOT_MEASURED
    return "\n".join(_table(evaluation) for evaluation in evaluations)


def _table(evaluation: Evaluation) -> str:
    columns = list(dict.fromkeys((score.probe, score.num_labels_per_class) for score in evaluation.scores))
    sources = list(dict.fromkeys(score.source for score in evaluation.scores))
    head = " | ".join(_column(probe, labels) for probe, labels in columns)
    lines = [
        f"Suite `{evaluation.suite}`, accuracy in per cent on real test images, 95 % bootstrap intervals.\n",
        f"| features | {head} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for source in sources:
        cells = (_cell(evaluation.scores, source, probe, labels) for probe, labels in columns)
        lines.append(f"| {_SOURCES.get(source, source)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _column(probe: str, labels: int) -> str:
    return f"{probe.replace('_', ' ')}, {'all labels' if labels < 0 else f'{labels} labels a class'}"


def _cell(scores: Sequence[ProbeScore], source: str, probe: str, labels: int) -> str:
    score = next((s for s in scores if (s.source, s.probe, s.num_labels_per_class) == (source, probe, labels)), None)
    return f"{100 * score.accuracy:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]" if score else ""
