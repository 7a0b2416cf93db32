"""What a probe leaves behind: `result.json`, enough to compare two encoders image by image without measuring again.

Answers of the headline probe are kept as bits, one per test image and label draw, in the order of the suite's test images. Numpy only.

Dimension key: D draws, Q test images.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from stablerep.errors import DataError
from stablerep.probes.protocol import BoolArray, Int64Array
from stablerep.records import Evaluation, ProbeScore, Record
from stablerep.store import Store


@dataclass(frozen=True)
class Difference(Record):
    """Accuracy of the encoder's headline probe minus that of another source, on the same test images."""

    source: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ProbeResult(Record):
    """An evaluation with everything behind it."""

    evaluation: Evaluation
    protocol: dict[str, Any]
    data: dict[str, Any]  # identity of the images
    licence: str
    source: str
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    base_lrs: dict[str, tuple[float, ...]]  # "<source>/<probe>/<labels>" -> chosen in each draw
    confusion: tuple[tuple[int, ...], ...]  # headline of the encoder; row: true class, column: predicted
    per_class_accuracy: dict[str, float]  # classes that have test images
    differences: tuple[Difference, ...]
    correct: dict[str, tuple[str, ...]]  # source -> per draw, base64 of the packed bits of the headline probe

    def headline(self, source: str) -> ProbeScore:
        """Score of the headline probe of a source.

        Raises:
            DataError: the result has no such score.
        """
        number = self.protocol["headline_labels"]
        for score in self.evaluation.scores:
            if (score.source, score.probe, score.num_labels_per_class) == (source, "linear", number):
                return score
        raise DataError(f"{self.evaluation.uri}: expected a linear probe of {source} with {number} labels per class, found none")

    def answers(self, source: str) -> BoolArray:
        """Whether each test image was answered right by the headline probe of a source, bool [D,Q].

        Raises:
            DataError: the result has no answers of that source, or they are damaged.
        """
        try:
            draws = [unpack_bits(text, self.num_test) for text in self.correct[source]]
            return np.stack(draws)
        except (KeyError, ValueError) as error:
            where = f"{self.evaluation.uri}/result.json"
            raise DataError(f"{where}: expected {self.num_test} answers of {source}: {error}; delete it and probe again") from error


def result_key(model_id: str, suite: str) -> str:
    """Where the result of a model on a suite lies in the store."""
    return f"evals/{model_id}/{suite}/result.json"


def report_key(model_id: str, suite: str) -> str:
    """Where its page lies."""
    return f"evals/{model_id}/{suite}/report.html"


def write_result(store: Store, result: ProbeResult) -> None:
    """Write `result.json`; equal measurements give equal bytes."""
    key = result_key(result.evaluation.model_id, result.evaluation.suite)
    store.write(key, json.dumps(json.loads(result.to_json()), indent=1, sort_keys=True) + "\n")


def find_result(store: Store, model_id: str, suite: str) -> ProbeResult | None:
    """The finished result of a model on a suite, or None.

    Raises:
        DataError: the object is not a probe result.
    """
    key = result_key(model_id, suite)
    return ProbeResult.from_json(store.read_text(key)) if store.exists(key) else None


def read_result(store: Store, evaluation: Evaluation) -> ProbeResult:
    """The result behind an evaluation.

    Raises:
        DataError: it is not in the store, or not a probe result.
    """
    result = find_result(store, evaluation.model_id, evaluation.suite)
    if result is None:
        where = store.uri_of(result_key(evaluation.model_id, evaluation.suite))
        raise DataError(f"expected the probe result of {evaluation.model_id} at {where}, found none; run the probe stage again")
    return result


def pack_bits(correct_Q: BoolArray) -> str:
    """Answers as base64 text, eight a byte."""
    return base64.b64encode(np.packbits(correct_Q).tobytes()).decode("ascii")


def unpack_bits(text: str, num_images: int) -> BoolArray:
    """The inverse of `pack_bits`.

    Raises:
        ValueError: the text is not base64, or not of `num_images` answers.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(packed) != -(-num_images // 8):
        raise ValueError(f"found {8 * len(packed)} bits")
    return np.unpackbits(packed, count=num_images).astype(np.bool_)


def per_class_accuracy(confusion: Int64Array, class_names: tuple[str, ...]) -> dict[str, float]:
    """Share of right answers of every class that has test images."""
    totals = confusion.sum(1)
    return {name: float(confusion[k, k] / totals[k]) for k, name in enumerate(class_names) if totals[k]}
