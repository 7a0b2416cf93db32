"""The scripts for a GPU, in small on this machine: they run to their rows, and say so where there is no GPU to measure."""

import argparse
from pathlib import Path

import gpu_generation
import gpu_train
import pytest
import torch

TRAIN = argparse.Namespace(tiny=True, images=32, steps=1, tflops=790.0, processes=1)


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for script in (gpu_train, gpu_generation):
        monkeypatch.setattr(script, "DEVICE", torch.device("cpu"))
        monkeypatch.setattr("sys.argv", ["script", "--results", str(tmp_path)])
        assert script.main() == 2
        assert "expected a GPU, found none; not measured" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
def test_training_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_train, "DEVICE", torch.device("cpu"))
    rows = [*gpu_train.step_rows(TRAIN), *gpu_train.decode_rows(TRAIN)]
    assert [row.target for row in rows] == [45, 3370, 6000, 6000]
    assert all(row.found > 0 for row in rows)


@pytest.mark.slow
def test_every_preset_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_generation, "DEVICE", torch.device("cpu"))
    folder = gpu_generation.write_pipeline(tmp_path / "sd15", is_tiny=True)
    options = argparse.Namespace(batch_size=1, batches=1)
    work = {preset: gpu_generation.preset_rate(folder, preset, options)[1] for preset in ("sd15_dpm20", "sd15_lcm4")}
    assert work["sd15_dpm20"] > 2 * work["sd15_lcm4"] > 0
