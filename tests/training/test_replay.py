"""A step that is not finite is kept whole, and replaying it names the tensor that spoilt it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import tiny_run, train_alone

from stablerep.batches import Batch
from stablerep.errors import DataError, DivergenceError
from stablerep.stages.pretrain_replay import main, replay_step
from stablerep.stages.pretrain_run import CONFIG_KEY, RunConfig
from stablerep.store import Store
from stablerep.training.capture import keep_step, read_step
from stablerep.training.engine import TorchEngine

Step = Any


def _diverge(store: Store, monkeypatch: pytest.MonkeyPatch, spoil: Any, **changes: Any) -> tuple[Store, RunConfig, str]:
    """A run whose step 2 is spoilt; the run's prefix, its plan and the message."""
    plan = tiny_run(store, **changes)
    runs = store.at(plan.prefix)
    runs.write(CONFIG_KEY, plan.to_json())
    step = TorchEngine.step

    def spoilt(self: TorchEngine, batch: Batch, lr: float) -> Step:
        if batch.step == 2:
            spoil(self, batch)
        return step(self, batch, lr)

    monkeypatch.setattr(TorchEngine, "step", spoilt)
    with pytest.raises(DivergenceError) as caught:
        train_alone(store, plan)
    return runs, plan, str(caught.value)


def test_the_message_says_how_to_replay_and_it_names_the_view(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(engine: TorchEngine, batch: Batch) -> None:
        batch.views_MNCHW[1, 7, 0, 3, 3] = float("inf")

    runs, _, message = _diverge(store, monkeypatch, spoil)
    command = re.search(r"python -m stablerep\.stages\.pretrain_replay (\S+) (\d+)$", message)
    assert command is not None
    assert main(list(command.groups())) == 0
    kept = read_step(runs, 2)
    assert not kept.batch.views_MNCHW[1, 7].isfinite().all()
    output = capsys.readouterr().out
    assert f"first not finite: the input: view 1 of caption {kept.batch.caption_ids[7]} (one of 1 such views)" in output
    assert "then: rank 0 loss nan" in output


def test_it_names_weights_modules_and_gradients(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(engine: TorchEngine, batch: Batch) -> None:
        with torch.no_grad():
            engine._objective.towers.text.norm.weight[3] = float("nan")

    def module(engine: TorchEngine, batch: Batch) -> None:
        with torch.no_grad():
            engine._objective.towers.trunk.blocks[0].mlp.fc1.weight.fill_(3e38)

    runs, _, _ = _diverge(store, monkeypatch, weights)
    assert "first not finite: the weights before the step: towers.text.norm.weight, by an" in replay_step(runs, 2)
    monkeypatch.undo()
    runs, _, _ = _diverge(store, monkeypatch, module, temperature=0.2)
    assert "first not finite: the output of towers.trunk.blocks.0.mlp.fc1 (Linear)" in replay_step(runs, 2)


def test_a_gradient_alone_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is finite, but the square root at 0 has no slope: the clipping threshold of the norm cannot be used."""
    from stablerep.models import heads

    runs, _, _ = _diverge(store, monkeypatch, lambda engine, batch: batch.views_MNCHW.fill_(float("nan")))
    kept = read_step(runs, 2)
    kept.batch.views_MNCHW.normal_(generator=torch.Generator().manual_seed(0))
    runs.delete("nonfinite/step-2/rank-0.safetensors")
    assert keep_step(runs, kept.batch, {}, kept.facts[0], 0) == ""
    assert "everything is finite here" in replay_step(runs, 2)
    forward = heads.ProjectionHead.forward

    def rooted(self: Any, *arguments: Any) -> torch.Tensor:
        rows = forward(self, *arguments)
        return rows + (rows * 0).abs().sqrt()

    monkeypatch.setattr(heads.ProjectionHead, "forward", rooted)
    text = replay_step(runs, 2)
    assert re.search(r"losses total [\d.]+, .* gradient norm nan", text)
    assert re.search(r"first not finite: the gradient of towers\.(head|image_projection|text_projection)\.linears\.1\.(weight|bias)", text)


def test_replaying_computes_the_loss_of_the_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is spoilt after the losses: those of the replay are the ones the loop saw, to the last digit."""
    seen: list[Step] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spoil(engine: TorchEngine, batch: Batch) -> None:
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *arguments: seen.append(clip(*arguments)) or torch.tensor(torch.inf))

    runs, _, _ = _diverge(store, monkeypatch, spoil)
    text = replay_step(runs, 2)
    facts = json.loads(runs.read_text("nonfinite/step-2/rank-0.json"))
    assert facts["gradient_norm"] == "inf"
    assert f"losses total {facts['losses']['total']:g}, image {facts['losses']['image']:g}," in text
    assert f"gradient norm {float(seen[-1]):g}\n" in text
    assert "everything is finite here" in text


def test_ranks_are_joined_along_the_captions(store: Store) -> None:
    facts = {"world_size": 2, "random_seed": 5, "losses": {"total": float("nan")}}
    for rank in range(2):
        views = torch.full((3, 2, 1, 4, 4), float(rank))
        batch = Batch(views, torch.full((2, 5), rank), torch.tensor([rank, rank + 10]), 8, (f"a{rank}", f"b{rank}"))
        assert keep_step(store, batch, {"w": torch.ones(2)} if rank == 0 else {}, facts, rank) == ""
    kept = read_step(store, 8)
    assert kept.batch.views_MNCHW[:, :, 0, 0, 0].tolist() == [[0.0, 0.0, 1.0, 1.0]] * 3
    assert kept.batch.labels_N.tolist() == [0, 10, 1, 11]
    assert kept.batch.caption_ids == ("a0", "b0", "a1", "b1")
    assert kept.seed == 5
    store.delete("nonfinite/step-8/rank-1.json")
    with pytest.raises(DataError, match=r"expected a kept step of 2 ranks, found 1; steps kept: step-8"):
        read_step(store, 8)
    with pytest.raises(DataError, match=r"step-9: expected a kept step of 1 ranks, found 0; steps kept: step-8"):
        read_step(store, 9)


def test_a_store_that_does_not_take_it_does_not_hide_the_divergence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Store.put

    def refuse(self: Store, path: Path, key: str) -> None:
        if key.startswith("nonfinite"):
            raise OSError(28, "No space left on device")
        put(self, path, key)

    monkeypatch.setattr(Store, "put", refuse)
    _, _, message = _diverge(store, monkeypatch, lambda engine, batch: batch.views_MNCHW.fill_(float("nan")))
    assert message.startswith("step 2: expected finite losses and gradients")
    assert "the batch is not kept for a replay (rank 0: [Errno 28] No space left on device)" in message
