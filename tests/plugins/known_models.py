"""Evaluations of models that need not exist, to register in a catalogue."""

from stablerep.records import Evaluation, ProbeScore

SUITE = "suite-0123456789abcdef"


def evaluation(model_id: str, accuracy: float, suite: str = SUITE) -> Evaluation:
    """An evaluation with one score and an awkward lower end."""
    score = ProbeScore("encoder", "linear", -1, accuracy, accuracy - 0.012345678901234, accuracy + 0.01)
    return Evaluation(model_id, suite, f"file:///evals/{model_id}", accuracy, score.low, score.high, (score,))
