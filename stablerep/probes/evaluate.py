"""One encoder under one protocol: features once, every probe on three sources, one result.

It writes nothing and registers nothing.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from torch import Tensor

from stablerep.batches.augment import Augmenter
from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.config.schema import AugmentConfig
from stablerep.identity import canonical_json
from stablerep.models import Encoder, build_trunk
from stablerep.probes.bootstrap import paired_difference
from stablerep.probes.data import LabelledImages
from stablerep.probes.features import Embed, augmented, extract, frozen, pixels
from stablerep.probes.lazy import Images
from stablerep.probes.measure import Outcome, confusion_matrix, measure_source, zero_shot_outcome
from stablerep.probes.protocol import SOURCES, ProbeProtocol
from stablerep.probes.result import Difference, ProbeResult, pack_bits, per_class_accuracy
from stablerep.probes.zero_shot import probe_zero_shot
from stablerep.records import Evaluation

OnImages = Callable[[int, str], None]


def evaluate_encoder(
    encoder: Encoder,
    images: LabelledImages,
    protocol: ProbeProtocol,
    *,
    identity: dict[str, Any],
    uri: str,
    batch_size: int,
    tokenizer: CaptionTokenizer | None = None,
    whole: Images | None = None,
    on_images: OnImages = lambda _number, _source: None,
) -> ProbeResult:
    """Measure an encoder.

    Args:
        encoder: the exported encoder.
        images: prepared as its preprocessor says.
        protocol: what to probe.
        identity: of the images (`data.identify`).
        uri: folder that will hold the result.
        batch_size: images a forward pass.
        tokenizer: of the text tower, where zero_shot is among the probes.
        whole: the training images before the centre is cut out, where the protocol augments them.
        on_images: told how many more images went through which source.

    Raises:
        DataError: a class has too few images.
        DivergenceError: features are not finite.
    """
    outcomes: dict[str, list[Outcome]] = {}
    for source, embed, train_NF, test_QF in _features(encoder, images, protocol.seed, batch_size, on_images):
        views = augmented(embed, whole, _augmenter(encoder, protocol), batch_size) if whole is not None and embed else None
        labels, test_labels = images.train_labels, images.test_labels
        outcomes[source] = measure_source(source, train_NF, labels, test_QF, test_labels, images.class_names, protocol, views)
    if tokenizer is not None:
        names, templates = images.class_names, protocol.zero_shot_templates
        predicted_Q = probe_zero_shot(encoder, tokenizer, images.test, names, templates, batch_size)
        outcomes["encoder"].append(zero_shot_outcome(predicted_Q, images.test_labels, protocol))
    number = protocol.headline_labels
    heads = {source: _headline(found, number) for source, found in outcomes.items()}
    correct = {source: head.predicted_DQ == images.test_labels for source, head in heads.items()}
    score, flat = heads["encoder"].score, [outcome for source in SOURCES for outcome in outcomes[source]]
    confusion = confusion_matrix(heads["encoder"].predicted_DQ[0], images.test_labels, len(images.class_names))
    return ProbeResult(
        evaluation=Evaluation(
            encoder.model_id,
            protocol.suite(identity),
            uri,
            score.accuracy,
            score.low,
            score.high,
            tuple(outcome.score for outcome in flat),
        ),
        protocol=json.loads(canonical_json(protocol)) | {"headline_labels": number},
        data=identity,
        licence=images.licence,
        source=images.source,
        class_names=images.class_names,
        num_train=len(images.train),
        num_test=len(images.test),
        base_lrs={f"{o.score.source}/{o.score.probe}/{o.score.num_labels_per_class}": o.base_lrs for o in flat if o.base_lrs},
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
        per_class_accuracy=per_class_accuracy(confusion, images.class_names),
        differences=tuple(
            Difference(other, *paired_difference(correct["encoder"], correct[other], protocol.num_bootstrap, protocol.seed))
            for other in SOURCES[1:]
        ),
        correct={source: tuple(pack_bits(row) for row in bits) for source, bits in correct.items()},
    )


def _features(
    encoder: Encoder, images: LabelledImages, seed: int, batch_size: int, on_images: OnImages
) -> Iterator[tuple[str, Embed | None, Tensor, Tensor]]:
    """Source, what embeds (nothing for pixels), training features and test features, one source after the other."""

    def of(embed: Callable[[Tensor], Tensor], part: Images, source: str) -> Tensor:
        return extract(
            embed, part, mean=encoder.mean, std=encoder.std, batch_size=batch_size, on_batch=lambda number: on_images(number, source)
        )

    yield "encoder", encoder.embed, of(encoder.embed, images.train, "encoder"), of(encoder.embed, images.test, "encoder")
    untrained = frozen(build_trunk(**asdict(encoder.spec.trunk), seed=seed), encoder.device)
    yield "random_init", untrained, of(untrained, images.train, "random_init"), of(untrained, images.test, "random_init")
    yield "raw_pixels", None, pixels(images.train, batch_size), pixels(images.test, batch_size)


def _augmenter(encoder: Encoder, protocol: ProbeProtocol) -> Augmenter:
    """Random crops, and flips where asked for, as the paper trains its linear probe."""
    augment = AugmentConfig(
        crop_scale_min=0.08,
        is_flipped=protocol.augmentation == "crop_flip",
        jitter_probability=0.0,
        grey_probability=0.0,
        blur_probability=0.0,
    )
    return Augmenter(augment, size_px=encoder.size_px, mean=encoder.mean, std=encoder.std, seed=protocol.seed)


def _headline(outcomes: list[Outcome], number: int) -> Outcome:
    return next(o for o in outcomes if o.score.probe == "linear" and o.score.num_labels_per_class == number)
