"""Evaluations and reference sets of models that need not exist, to register in a catalogue."""

import numpy as np

from stablerep.catalogue import Reference, ReferenceImage
from stablerep.records import Evaluation, ProbeScore

SUITE = "suite-0123456789abcdef"
MODEL, N, D = "model-0123456789abcdef", 300, 24


def evaluation(model_id: str, accuracy: float, suite: str = SUITE) -> Evaluation:
    """An evaluation with one score and an awkward lower end."""
    score = ProbeScore("encoder", "linear", -1, accuracy, accuracy - 0.012345678901234, accuracy + 0.01)
    return Evaluation(model_id, suite, f"file:///evals/{model_id}", accuracy, score.low, score.high, (score,))


def reference(seed: int = 0, space: str = "features", model_id: str = MODEL, d: int = D) -> Reference:
    """Random vectors; two of them are equally near to everything."""
    vectors_ND = np.random.default_rng(seed).normal(size=(N, d)).astype(np.float32)
    vectors_ND[7] = vectors_ND[5]
    images = tuple(ReferenceImage(f"data/{i * 7 % N:03d}/0", "data", f"{i * 7 % N:03d}", f"caption {i}", i, 0) for i in range(N))
    return Reference(model_id, space, images, vectors_ND)
