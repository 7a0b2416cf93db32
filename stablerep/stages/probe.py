"""probe: measure a frozen encoder on real images beside an untrained trunk and raw pixels (paper, section 4.1).

A finished evaluation is found by model and suite and returned without torch; `result.json` is written last, so what lies there is whole.
The evaluation is registered in the Parquet catalogue; Feast's online store takes it over when the gate opens it, so that the image
that measures needs no Feast.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablerep.config.schema import ProbeConfig
from stablerep.endpoint.folder import local_folder
from stablerep.errors import CheckpointError, ConfigError
from stablerep.records import Evaluation, ModelRef
from stablerep.stages.context import Stage, open_stage
from stablerep.stages.lineage import refresh
from stablerep.stages.probe_reference import register_reference
from stablerep.store import Store

if TYPE_CHECKING:
    from stablerep.batches.tokenize import CaptionTokenizer
    from stablerep.models import Encoder
    from stablerep.probes.protocol import ProbeProtocol
    from stablerep.probes.result import ProbeResult

_SMALLEST_PHOTOGRAPH_PX = 64


def run(recipe: str, overrides: str, store: str, *, model: str, report_path: str = "") -> Evaluation:
    """Measure a model.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        model: record of `export`.
        report_path: where to copy the page to, or empty.

    Raises:
        DataError: the images cannot be read, or a class has too few of them.
        CheckpointError: the exported model is damaged.
        DivergenceError: features are not finite.
    """
    from stablerep.catalogue import ParquetCatalogue
    from stablerep.probes.data import identify
    from stablerep.probes.report import report_html
    from stablerep.probes.result import find_result, report_key, write_result

    with open_stage("probe", recipe, overrides, store) as stage:
        reference, protocol = ModelRef.from_json(model), protocol_of(stage.recipe.probe)
        identity = identify(stage.recipe.probe.dataset)
        suite = protocol.suite(identity)
        stage.reporter.report("stablerep_run_info", 1, stage="probe", id=reference.model_id)
        result = find_result(stage.store, reference.model_id, suite)
        if result is None:
            result = _measure(stage, reference, protocol, identity)
            stage.store.write(report_key(reference.model_id, suite), report_html(result))
            write_result(stage.store, result)
        _report_scores(stage, result)
        catalogue = ParquetCatalogue(stage.store)
        if not catalogue.has_evaluation(result.evaluation):
            catalogue.register_evaluation(result.evaluation, datetime.now(UTC).isoformat(timespec="seconds"))
        register_reference(stage, reference)
        refresh(stage.store, reference.model_id)
        if report_path:
            Path(report_path).write_bytes(stage.store.read(report_key(reference.model_id, suite)))
        return result.evaluation


def kubeflow_metrics(store: str, evaluation: str) -> tuple[dict[str, float], list[str], list[list[int]]]:
    """What Kubeflow shows of an evaluation: accuracies in per cent by name, names of the classes, confusion matrix.

    Args:
        store: URI of the store.
        evaluation: record of `probe`.

    Raises:
        DataError: the evaluation is not in the store.
    """
    from stablerep.probes.result import read_result

    result = read_result(Store(store), Evaluation.from_json(evaluation))
    metrics = {f"{s.source}_{s.probe}_{_labels(s.num_labels_per_class)}": round(100 * s.accuracy, 2) for s in result.evaluation.scores}
    return metrics, list(result.class_names), [list(row) for row in result.confusion]


def protocol_of(config: ProbeConfig) -> "ProbeProtocol":
    """The protocol a recipe asks for; with the data it makes the suite under which `gate` and `verify` know a champion."""
    from stablerep.probes.protocol import ProbeProtocol

    settings = {field.name: getattr(config, field.name) for field in fields(ProbeProtocol)}
    if "zero_shot" not in config.probes:
        del settings["zero_shot_templates"]
    return ProbeProtocol(**settings)


def _measure(stage: Stage, reference: ModelRef, protocol: "ProbeProtocol", identity: dict[str, Any]) -> "ProbeResult":
    import torch

    from stablerep.models import load_encoder
    from stablerep.probes.data import load_labelled
    from stablerep.probes.evaluate import evaluate_encoder

    device, config = "cuda" if torch.cuda.is_available() else "cpu", stage.recipe.probe
    with local_folder(reference.uri) as folder:
        encoder = load_encoder(folder, device)
        tokenizer = _tokenizer(folder, encoder, protocol)
    if encoder.model_id != reference.model_id:
        raise CheckpointError(f"{reference.uri}: expected {reference.model_id}, found {encoder.model_id}; export the model again")
    images = load_labelled(config.dataset, encoder.preprocessor.crop, encoder.preprocessor.resize)
    whole = load_labelled(config.dataset, encoder.preprocessor.resize).train if protocol.augmentation != "none" else None
    num_images = 2 * (len(images.train) + len(images.test))
    with _few_threads(encoder.size_px), stage.reporter.progress(num_images, "images") as progress:
        return evaluate_encoder(
            encoder,
            images,
            protocol,
            identity=identity,
            uri=stage.store.uri_of(f"evals/{encoder.model_id}/{protocol.suite(identity)}"),
            batch_size=config.feature_batch_size,
            tokenizer=tokenizer,
            whole=whole,
            on_images=progress.advance,
        )


def _tokenizer(folder: Path, encoder: "Encoder", protocol: "ProbeProtocol") -> "CaptionTokenizer | None":
    """The tokenizer of the text tower where a probe reads words."""
    if "zero_shot" not in protocol.probes:
        return None
    if not encoder.has_text:
        raise ConfigError(
            f"probe.probes: expected an encoder with a text tower for zero_shot, found {encoder.model_id} without; take zero_shot out, "
            "or train with pretrain.text_weight above 0"
        )
    from stablerep.batches.tokenize import CaptionTokenizer

    return CaptionTokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))


@contextmanager
def _few_threads(size_px: int) -> Generator[None]:
    """One thread for small images: on a busy machine threads of small products wait for each other (7 times the CPU time in one run)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if size_px < _SMALLEST_PHOTOGRAPH_PX else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report_scores(stage: Stage, result: "ProbeResult") -> None:
    for score in result.evaluation.scores:
        labels = _labels(score.num_labels_per_class)
        stage.reporter.report("stablerep_probe_accuracy_ratio", score.accuracy, source=score.source, probe=score.probe, labels=labels)


def _labels(number: int) -> str:
    return {-1: "all", 0: "none"}.get(number, str(number))
