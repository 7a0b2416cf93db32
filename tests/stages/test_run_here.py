"""`stablerep run`: which program runs a recipe, and that it does."""

import subprocess
import sys
from pathlib import Path

import pytest

from stablerep.cli import main
from stablerep.config import RECIPES
from stablerep.errors import ConfigError
from stablerep.stages.run_here import PROJECT, STUDIES, command_of


def test_a_recipe_runs_the_pipeline_and_a_study_its_own_program() -> None:
    assert command_of("smoke", ["a.b=1", "c.d=x y"], "/s", ["--no-cache"]) == [
        sys.executable,
        str(PROJECT / "pipelines" / "run_local.py"),
        *("--recipe", "smoke", "--set", "a.b=1", "--set", "c.d=x y", "--store", "/s", "--no-cache"),
    ]
    study = str(PROJECT / "benchmarks" / "paper_trends.py")
    assert command_of("paper_trends", [], "", ["--tiny"]) == [sys.executable, study, "--tiny"]
    assert command_of("paper_trends", [], "/s", []) == [sys.executable, study, "--work", "/s"]
    assert set(STUDIES) <= set(RECIPES)


def test_the_study_writes_its_page(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    words = ["--recipe", "paper_trends", "--", "--only-page", "--page", str(page)]
    done = subprocess.run([sys.executable, "-m", "stablerep.cli", "run", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"written to {page}\n"
    assert page.read_text() == (PROJECT / "docs" / "results.md").read_text()


def test_the_pipeline_takes_words_after_two_dashes(tmp_path: Path) -> None:
    words = ["--recipe", "smoke", "--", "--help"]
    done = subprocess.run([sys.executable, "-m", "stablerep.cli", "run", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--no-cache" in done.stdout


def test_what_cannot_run_is_refused_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"run_local.py, found no such file: .* needs a checkout"):
        command_of("smoke", [], "", [], tmp_path)
    assert main(["run", "--recipe", "paper_trends", "--set", "pretrain.lr=1"]) == 2
    assert "a study, whose plan is fixed" in capsys.readouterr().err
    assert main(["run", "--recipe", "paper_trend"]) == 2
    assert "unknown recipe 'paper_trend'" in capsys.readouterr().err
