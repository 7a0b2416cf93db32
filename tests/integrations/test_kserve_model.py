"""What the model does with time: a request that takes too long is given up, its place is free again."""

import asyncio
import base64
import threading
from pathlib import Path

import pytest
from tiny_encoder import picture, write_encoder

from stablerep.endpoint.batcher import Batcher
from stablerep.endpoint.compute import Compute, padded_size
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.meter import NORM_WINDOW_IMAGES, Meter
from stablerep.endpoint.predictor import Predictor, Question
from stablerep.errors import ConfigError, NotReadyError, TimeLimitError
from stablerep.integrations.kserve_model import EncoderModel
from stablerep.telemetry import MemorySink, Reporter

BODY = {"instances": [{"b64": base64.b64encode(picture(0)).decode()}]}


def test_a_request_over_its_time_is_503_and_costs_the_model_nothing(tmp_path: Path) -> None:
    write_encoder(tmp_path, seed=1)
    model = EncoderModel("stablerep", Limits(max_request_seconds=1, max_queue=1), Meter(Reporter("serve")))
    with pytest.raises(NotReadyError, match="is loading"):
        asyncio.run(model(BODY))
    model._predictor = Predictor(tmp_path, Limits())
    gate, seen = threading.Event(), []

    def blocked(images: list) -> list:
        assert gate.wait(60)
        seen.append(len(images))
        return model._predictor.forward(images)  # type: ignore[union-attr]

    model._batcher = Batcher(blocked, max_batch=1, max_queue=1)
    blocker = model._batcher.submit(model._predictor.prepare([picture(0)], model_question()))
    with pytest.raises(TimeLimitError, match=r"not answered within 1 s; send it again in a moment"):
        asyncio.run(model(BODY))
    gate.set()
    assert len(blocker.result(60)) == 1
    answer, _ = asyncio.run(model(BODY))  # the one place of the queue is free again
    assert len(answer["predictions"]) == 1
    assert seen == [1, 1]  # not three
    model.close()


def test_what_is_over_its_time_while_it_is_decoded_costs_the_model_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(tmp_path, seed=1)
    model = EncoderModel("stablerep", Limits(max_request_seconds=1), Meter(Reporter("serve")))
    predictor, gate, seen = Predictor(tmp_path, Limits()), threading.Event(), []
    prepare = predictor.prepare

    def slow(images: list, question: Question) -> list:
        assert gate.wait(60)
        return prepare(images, question)

    monkeypatch.setattr(predictor, "prepare", slow)
    model._predictor = predictor
    model._batcher = Batcher(lambda images: seen.append(len(images)) or predictor.forward(images), max_batch=1, max_queue=1)
    with pytest.raises(TimeLimitError):
        asyncio.run(model(BODY))
    gate.set()
    answer, _ = asyncio.run(model(BODY))
    model._decoders.shutdown()  # both have been decoded
    model.close()
    assert len(answer["predictions"]) == 1
    assert seen == [1]


def model_question():
    return Question()


def test_bfloat16_is_near_and_leaves_as_float32(tmp_path: Path) -> None:
    write_encoder(tmp_path, seed=1)
    exact = Predictor(tmp_path, Limits()).predict([picture(0)]).embedding_NF
    near = Predictor(tmp_path, Limits(), Compute("cpu", "bf16")).predict([picture(0)]).embedding_NF
    assert near.dtype == exact.dtype
    assert 0 < abs(near - exact).max() < 0.05 * abs(exact).max()


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="CUDA graphs: expected a GPU"):
        Compute("cpu", uses_graphs=True)
    with pytest.raises(ConfigError, match="precision: expected fp32 or bf16, found 'int8'"):
        Compute(precision="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="model workers: expected 0"):
        Compute(num_workers=-1)


def test_batches_are_padded_to_recorded_sizes() -> None:
    assert [padded_size(number) for number in (1, 2, 3, 5, 33, 64)] == [1, 2, 4, 8, 64, 64]


def test_drift_is_the_mean_length_in_sigmas_of_the_export() -> None:
    sink = MemorySink()
    meter = Meter(Reporter("serve", (sink,)))
    meter.serving("model-1", (10.0, 2.0))
    meter.embedded([10.0] * 3)
    meter.embedded([14.0] * (4 * NORM_WINDOW_IMAGES))
    drifts = [value for name, value, _ in sink.reports if name == "stablerep_endpoint_embedding_norm_drift_sigmas"]
    assert drifts[0] == 0.0
    assert drifts[1] == pytest.approx(2.0, abs=0.05)  # (14 - 10) / 2, but for e ** -4
