"""The moving average of the weights: its formula, what it leaves alone, exact continuation, what is exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from tiny_groups import GENERATOR
from tiny_training import TINY, StopAfter, overrides_of, tiny_run, train_alone
from torch import nn

from stablerep.errors import ConfigError, Preempted
from stablerep.models import load_encoder
from stablerep.stages import export
from stablerep.stages.pretrain_run import RunConfig, checkpoint_ref
from stablerep.store import Store
from stablerep.training.average import WeightAverage
from stablerep.training.engine import TorchEngine
from stablerep.training.history import read_history, series
from stablerep.training.state import METRICS_KEY, WEIGHTS_NAME, CheckpointRecord

DECAY = 0.3


def _read(store: Store, plan: RunConfig, record: CheckpointRecord, name: str) -> bytes:
    file = record.file(name)
    assert file is not None
    return store.read(f"{plan.prefix}/checkpoints/step-{record.step}/{file.name}")


def _losses(store: Store, plan: RunConfig) -> list[Any]:
    return series(read_history(store.at(plan.prefix), METRICS_KEY), "stablerep_training_loss", term="total")


def test_it_is_the_weighted_sum_of_all_weights_so_far(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    values = [1.0, 5.0, -2.0, 8.0, 3.0]
    nn.init.constant_(module[0].weight, values[0])
    average = WeightAverage(module, decay=0.15)
    expected = values[0]
    for step, value in enumerate(values[1:]):
        nn.init.constant_(module[0].weight, value)
        module[1].num_batches_tracked += 1
        average.update(step)
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1, then 0.15
        expected = decay * expected + (1 - decay) * value
    assert float(average.state()["0.weight"]) == pytest.approx(expected, rel=1e-6)
    assert int(average.state()["1.num_batches_tracked"]) == 4
    average.save(tmp_path)
    other = WeightAverage(module, decay=0.15)
    assert float(other.state()["0.weight"]) == values[-1]
    other.load(tmp_path)
    assert torch.equal(other.state()["0.weight"], average.state()["0.weight"])


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunConfig, CheckpointRecord, list[dict[str, torch.Tensor]]]:
    """A run that averages, and the weights before it and after each of its steps."""
    store = Store(str(tmp_path_factory.mktemp("averaged")))
    plan = tiny_run(store, ema_decay=DECAY)
    seen: list[dict[str, torch.Tensor]] = []
    step = TorchEngine.step

    def watched(self: TorchEngine, batch: Any, lr: float) -> Any:
        seen.extend([self.state()] if not seen else [])
        result = step(self, batch, lr)
        seen.append(self.state())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "step", watched)
        record = train_alone(store, plan)
    return store, plan, record, seen


def test_training_does_not_notice(averaged: Any, store: Store) -> None:
    done_store, plan, _, seen = averaged
    plain = tiny_run(store)
    record = train_alone(store, plain)
    assert _losses(store, plain) == _losses(done_store, plan)
    weights = load(_read(store, plain, record, WEIGHTS_NAME))
    assert all(torch.equal(weights[name], seen[-1][f"towers.{name}"]) for name in weights)
    assert record.file("average.safetensors") is None


def test_the_weights_of_the_run_are_the_average_of_what_trained(averaged: Any) -> None:
    done_store, plan, record, seen = averaged
    weights = load(_read(done_store, plan, record, WEIGHTS_NAME))
    for name in ("trunk.blocks.0.attn.qkv.weight", "text.token_embedding.weight", "head.norms.0.running_var", "logit_scale"):
        expected = seen[0][f"towers.{name}"].double()
        for step, state in enumerate(seen[1:]):
            decay = min(DECAY, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * state[f"towers.{name}"].double()
        torch.testing.assert_close(weights[name].double(), expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(weights[name], seen[-1][f"towers.{name}"])


def test_continued_is_never_stopped(averaged: Any, store: Store) -> None:
    done_store, plan, record, _ = averaged
    assert tiny_run(store, ema_decay=DECAY).run_key == plan.run_key != tiny_run(store).run_key
    with pytest.raises(Preempted):
        train_alone(store, plan, is_stop_asked=StopAfter(2))
    again = train_alone(store, plan, attempt="b")
    for name in (WEIGHTS_NAME, "average.safetensors"):
        assert _read(store, plan, again, name) == _read(done_store, plan, record, name)


def test_export_exports_the_average_and_says_so(averaged: Any) -> None:
    done_store, plan, record, _ = averaged
    runs = done_store.at(plan.prefix)
    records = {"dataset": plan.dataset.to_json(), "generator": GENERATOR.to_json(), "checkpoint": checkpoint_ref(record, runs).to_json()}
    model = export.run("smoke", overrides_of(replace(TINY, ema_decay=DECAY)), done_store.uri, **records)
    card = done_store.read_text(f"models/{model.model_id}/MODEL_CARD.md")
    assert "| Weights | exponential moving average, decay 0.3; the losses are of the weights it averages |" in card
    encoder = load_encoder(Path(model.uri.removeprefix("file://")))
    average = load(_read(done_store, plan, record, "average.safetensors"))
    found = dict(encoder._trunk.state_dict())
    assert all(torch.equal(value, average[f"trunk.{name}"]) for name, value in found.items())


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.ema_decay: expected 0 \(off\) to below 1"):
        replace(TINY, ema_decay=decay)


def test_sharded_weights_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"expected whole weights on every process, found zero_stage=3.*; set pretrain\.zero_stage=2"):
        replace(TINY, ema_decay=0.9, zero_stage=3, num_processes=2)
    assert replace(TINY, ema_decay=0.9, zero_stage=3, num_processes=1).ema_decay == 0.9
