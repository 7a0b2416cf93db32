"""compare-presets for real on a tiny plan: two settings, the same captions, one verdict; run again, nothing is made again."""

import json
import re
from pathlib import Path

import pytest

from stablerep.cli import main
from stablerep.stages.compare_presets import compare_presets, words_of

DDIM, DPM = "generate.scheduler=ddim,generate.num_inference_steps=2", "generate.scheduler=dpm++,generate.num_inference_steps=2"
SIZE = ["--captions", "4", "--steps", "2"]


@pytest.mark.slow
def test_two_settings_are_compared_and_a_second_run_finds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert main(["compare-presets", DDIM, DPM, *SIZE, "--json", "--store", str(store)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"]["setting"], found["b"]["setting"]) == (DDIM, DPM)
    assert found["a"]["dataset_id"] != found["b"]["dataset_id"]
    assert found["knn_drop_points"]["value"] == pytest.approx(100 * (found["a"]["knn"] - found["b"]["knn"]))
    assert found["diversity_ratio"]["value"] == pytest.approx(found["b"]["distance"] / found["a"]["distance"])
    assert found["verdict"] in ("equal", "not equal", "not known")
    shards = {path: path.stat().st_mtime_ns for path in store.rglob("*.tar")}
    assert main(["compare-presets", DDIM, DPM, *SIZE, "--store", str(store)]) == 0
    table = capsys.readouterr().out
    assert f"{found['diversity_ratio']['value']:.3f}" in table
    assert f"B is {found['verdict']}" in table
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.tar")} == shards


@pytest.mark.slow
def test_a_setting_is_equal_to_itself(tmp_path: Path) -> None:
    found = compare_presets("paper_trends", "", str(tmp_path), first=DDIM, second=DDIM, captions=4, steps=2, seeds=2)
    assert found["verdict"] == "equal"
    assert found["knn_drop_points"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["diversity_ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_a_preset_and_words() -> None:
    assert words_of("sd15_dpm20") == "generate.preset=sd15_dpm20"
    assert words_of(DDIM) == DDIM.replace(",", " ")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sd15_dpm2", "did you mean 'sd15_dpm20'|sd15_dpm20"),
        ("generate.guidance=3,pretrain.lr=1", "found pretrain.lr=1; what is to be the same"),
        ("generate.noise_seed=1", "change how images are sampled"),
    ],
)
def test_wrong_settings_end_before_anything_is_made(setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare-presets", DDIM, setting, *SIZE, "--store", str(tmp_path / "store")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("size", [["--captions", "1"], ["--steps", "0"], ["--seeds", "0"]])
def test_sizes_that_cannot_be(size: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare-presets", DDIM, DPM, *size, "--store", str(tmp_path)]) == 2
    assert "2 captions or more, 1 step and 1 seed or more" in capsys.readouterr().err
