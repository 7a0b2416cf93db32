"""A whole evaluation of a tiny encoder: what it holds, that it repeats to the byte, that test labels decide nothing but scores."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import write_encoder

from stablerep.errors import DataError
from stablerep.models import Encoder, load_encoder
from stablerep.probes.data import LabelledImages, load_labelled
from stablerep.probes.evaluate import evaluate_encoder
from stablerep.probes.protocol import ALL_LABELS, SOURCES, ProbeProtocol
from stablerep.probes.result import ProbeResult, find_result, unpack_bits, write_result
from stablerep.store import Store

PROTOCOL = ProbeProtocol(("linear", "linear_bn", "knn"), (2, ALL_LABELS), 3, 10, 16, (0.01, 0.1, 0.5), 5, 0.07, 100, 0)


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    write_encoder(tmp_path / "encoder", seed=4, has_text=False)
    return load_encoder(tmp_path / "encoder")


@pytest.fixture
def images(image_folder: Callable[..., Path]) -> LabelledImages:
    return load_labelled(str(image_folder(num_train=8, num_test=6)), 32)


def evaluate(encoder: Encoder, images: LabelledImages, protocol: ProbeProtocol = PROTOCOL) -> ProbeResult:
    return evaluate_encoder(encoder, images, protocol, identity={"folder": "x"}, uri="file:///evals", batch_size=10)


def test_every_source_under_every_probe(encoder: Encoder, images: LabelledImages) -> None:
    protocol = replace(PROTOCOL, probes=("linear", "linear_bn", "knn", "logistic"))
    result = evaluate(encoder, images, protocol)
    found = {(s.source, s.probe, s.num_labels_per_class) for s in result.evaluation.scores}
    assert found == {
        (source, probe, n)
        for source in SOURCES
        for probe in protocol.probes
        for n in (2, ALL_LABELS)
        if probe.startswith("linear") or n == ALL_LABELS
    }
    assert all(0 <= s.low <= s.accuracy <= s.high <= 1 for s in result.evaluation.scores)
    assert result.headline("raw_pixels").accuracy > 1 / 3
    score = result.headline("encoder")
    assert (result.evaluation.headline, result.evaluation.headline_low, result.evaluation.headline_high) == (
        score.accuracy,
        score.low,
        score.high,
    )
    assert result.evaluation.model_id == encoder.model_id
    assert result.evaluation.suite == protocol.suite({"folder": "x"})


def test_confusion_answers_and_classes_agree_with_the_headline(encoder: Encoder, images: LabelledImages) -> None:
    result = evaluate(encoder, images)
    confusion = np.array(result.confusion)
    assert confusion.sum(1).tolist() == [6, 6, 6]
    assert confusion.trace() / 18 == pytest.approx(result.evaluation.headline)
    for source in SOURCES:
        assert result.answers(source).shape == (1, 18)
        assert result.answers(source).mean() == pytest.approx(result.headline(source).accuracy)
    by_class = result.answers("encoder")[0].reshape(3, 6).mean(1)
    assert result.per_class_accuracy == pytest.approx(dict(zip(("blue", "green", "red"), by_class, strict=True)))
    over_pixels = next(d for d in result.differences if d.source == "raw_pixels")
    assert over_pixels.mean == pytest.approx(result.headline("encoder").accuracy - result.headline("raw_pixels").accuracy)


def test_the_same_again_to_the_byte(encoder: Encoder, images: LabelledImages, store: Store) -> None:
    first, second = evaluate(encoder, images), evaluate(encoder, images)
    assert first.to_json() == second.to_json()
    write_result(store, first)
    assert find_result(store, encoder.model_id, first.evaluation.suite) == first


def test_test_labels_decide_nothing_but_scores(encoder: Encoder, images: LabelledImages) -> None:
    wrong = replace(images, test_labels=(images.test_labels + 1) % 3)
    honest, fooled = evaluate(encoder, images), evaluate(encoder, wrong)
    assert honest.base_lrs == fooled.base_lrs
    assert len(honest.base_lrs["encoder/linear/2"]) == 3
    assert (np.array(fooled.confusion) == np.roll(np.array(honest.confusion), 1, axis=0)).all()


def test_the_untrained_trunk_is_not_the_encoder_and_not_learnt(encoder: Encoder, images: LabelledImages, tmp_path: Path) -> None:
    write_encoder(tmp_path / "other", seed=1, has_text=False)
    first, second = evaluate(encoder, images), evaluate(load_encoder(tmp_path / "other"), images)
    assert first.correct["random_init"] == second.correct["random_init"]
    assert first.correct["encoder"] != first.correct["random_init"]


def test_only_what_is_asked_for_is_measured(encoder: Encoder, images: LabelledImages) -> None:
    result = evaluate(encoder, images, replace(PROTOCOL, probes=("linear",)))
    assert {score.probe for score in result.evaluation.scores} == {"linear"}


def test_few_shot_episodes_need_five_classes(encoder: Encoder, images: LabelledImages) -> None:
    with pytest.raises(DataError, match=r"few_shot: expected at least 5 classes, found 3; take few_shot out of probe.probes"):
        evaluate(encoder, images, replace(PROTOCOL, probes=("linear", "few_shot")))


def test_few_shot_is_a_score_of_every_source(encoder: Encoder, image_folder: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 20)
    colours = rng.integers(0, 255, (6, 3, 1, 1))
    pictures = np.clip(colours[labels] + rng.normal(0, 8, (120, 3, 32, 32)), 0, 255).astype(np.uint8)
    names = tuple("abcdef")
    images = LabelledImages(pictures, labels, pictures[::-1].copy(), labels[::-1].copy(), names, "CC0", "made here")
    result = evaluate(encoder, images, replace(PROTOCOL, probes=("linear", "few_shot")))
    scores = {score.source: score for score in result.evaluation.scores if score.probe == "few_shot"}
    assert set(scores) == set(SOURCES)
    assert scores["raw_pixels"].num_labels_per_class == 5
    assert scores["raw_pixels"].accuracy > 0.95
    assert all(score.low <= score.accuracy <= score.high for score in scores.values())


def test_few_labels_only(encoder: Encoder, images: LabelledImages) -> None:
    result = evaluate(encoder, images, replace(PROTOCOL, labels_per_class=(2, 4)))
    assert result.headline("encoder").num_labels_per_class == 4
    assert result.answers("encoder").shape == (3, 18)


def test_more_labels_than_images(encoder: Encoder, images: LabelledImages) -> None:
    with pytest.raises(DataError, match="at least 9 training images of class 'blue', found 8"):
        evaluate(encoder, images, replace(PROTOCOL, labels_per_class=(9,)))


def test_answers_that_do_not_fit_are_refused(encoder: Encoder, images: LabelledImages) -> None:
    result = evaluate(encoder, images)
    with pytest.raises(DataError, match="expected 18 answers of encoder: found 8 bits; delete it and probe again"):
        replace(result, correct={"encoder": ("AA==",)}).answers("encoder")
    assert unpack_bits("gIA=", 10).tolist() == [True, *[False] * 7, True, False]
