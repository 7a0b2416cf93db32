"""`stablerep run`: everything a recipe is for, on this machine: the pipeline, or the study of a recipe that is one.

Pipelines and studies compose the stages, so they lie beside this package, in the checkout, and are programs of their own: this process
becomes one of them. An installation without a checkout has the stages only.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from stablerep.config import load_recipe
from stablerep.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]
STUDIES = {"paper_trends": "benchmarks/paper_trends.py"}
"""Recipe -> the program that runs the study it is made for."""

_PIPELINE = "pipelines/run_local.py"


def run_here(recipe: str, overrides: Sequence[str], store: str, words: Sequence[str]) -> NoReturn:
    """Become the program that runs a recipe.

    Args:
        recipe: name.
        overrides: `KEY=VALUE` words, for a pipeline.
        store: folder or URI of all results; empty for the program's own.
        words: further arguments of the program.

    Raises:
        ConfigError: the recipe is not known, a study is to be changed, or there is no checkout.
    """
    command = command_of(recipe, overrides, store, words)
    sys.stdout.flush()
    os.execv(command[0], command)


def command_of(recipe: str, overrides: Sequence[str], store: str, words: Sequence[str], project: Path = PROJECT) -> list[str]:
    """The command line that runs a recipe; arguments as for `run_here`."""
    load_recipe(recipe)
    program = project / STUDIES.get(recipe, _PIPELINE)
    if not program.is_file():
        raise ConfigError(
            f"expected {program}, found no such file: `stablerep run` needs a checkout of the project and `make setup` in it; an "
            "installed package has the stages only (`stablerep --help`)"
        )
    if recipe not in STUDIES:
        pairs = [word for pair in overrides for word in ("--set", pair)]
        return [sys.executable, str(program), "--recipe", recipe, *pairs, *(["--store", store] if store else []), *words]
    if overrides:
        raise ConfigError(
            f"recipe {recipe} is a study, whose plan is fixed, so that its figures mean the same everywhere: expected no --set, found "
            f"{' '.join(overrides)}; one pipeline run of it is `python -m pipelines.run_local --recipe {recipe} --set ...`"
        )
    return [sys.executable, str(program), *(["--work", store] if store else []), *words]
