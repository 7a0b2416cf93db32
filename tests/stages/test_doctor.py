"""doctor in processes of its own: green with nothing but a role's lock, and what it says when something is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stablerep.errors import ConfigError
from stablerep.stages.doctor import examine, require_green
from stablerep.stages.preflight_table import judged
from stablerep.stages.roles import ROLES

PROJECT = Path(__file__).resolve().parents[2]

RUN = """
import importlib.machinery, os, re, sys
from importlib import metadata

def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()

hidden, kept = {hidden!r}, {kept!r}
distributions = metadata.packages_distributions()
if kept:
    hidden = hidden | {{name for name, found in distributions.items() if not {{normal(each) for each in found}} & kept}}

class Finder:
    '''The path finder of a machine on which the hidden packages are not installed.'''
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else importlib.machinery.PathFinder.find_spec(name, path, target)

    find_distributions = staticmethod(importlib.machinery.PathFinder.find_distributions)

sys.meta_path[:] = [Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
if {user!r} is not None:
    os.getuid = lambda: {user!r}
from stablerep.cli import main
sys.exit(main({arguments!r}))
"""


def _doctor(
    *arguments: str,
    hidden: frozenset[str] | set[str] = frozenset(),
    kept: set[str] | None = None,
    user: int | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    code = RUN.format(hidden=hidden or set(), kept=kept or set(), user=user, arguments=["doctor", *arguments])
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False, env=plain | {"COLUMNS": "200"} | environment
    )


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_green_with_the_packages_of_the_image_and_no_others(role: str) -> None:
    lock = (PROJECT / "images" / f"{role}.lock").read_text(encoding="utf-8")
    kept = {*re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE), "stablerep"}
    done = _doctor("--role", role, kept=kept)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^ok +role +{role}$", done.stdout, re.MULTILINE)
    assert re.search(rf"^ok +{role} self-test +\w", done.stdout, re.MULTILINE)
    assert [package for package in ROLES[role].packages if not re.search(rf"^ok +{package} +\S", done.stdout, re.MULTILINE)] == []


def test_a_missing_package_and_a_missing_folder_are_named_and_the_other_checks_run() -> None:
    done = _doctor(hidden={"torchx"}, STABLEREP_ROLE="launch", TMPDIR="/nowhere")
    assert done.returncode == 2
    assert "No module named 'torchx'" in done.stdout
    assert re.search(r"^FAILED +torchx ", done.stdout, re.MULTILINE)
    assert re.search(r"^FAILED +writable folders ", done.stdout, re.MULTILINE)
    assert re.search(r"^FAILED +launch self-test ", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +kfp +kfp \d", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +store +written, read and deleted", done.stdout, re.MULTILINE)
    assert re.fullmatch(r"ConfigError: doctor: \d failed: (user, )?writable folders, torchx, launch self-test\n", done.stderr)
    assert "-> use the image of this role, or run `make setup`" in done.stdout
    assert "mount an emptyDir" in done.stdout


def test_an_image_that_runs_as_root_is_not_green() -> None:
    for user, state in ((0, "FAILED"), (65532, "ok")):
        done = _doctor(user=user, hidden={"kfp"}, STABLEREP_ROLE="launch")
        assert re.search(rf"^{state} +user +uid {user}, ", done.stdout, re.MULTILINE)
        assert ("runAsNonRoot" in done.stdout) == (state == "FAILED")
    assert re.search(r"^ok +user +uid 0, ", _doctor("--role", "launch", user=0, hidden={"kfp"}).stdout, re.MULTILINE), "a laptop, no image"


def test_a_gpu_that_is_demanded_must_be_there() -> None:
    others = {"accelerate", "diffusers", "kfp", "mlxtend", "sklearn", "transformers"}  # not there, so that it takes a moment only
    done = _doctor("--role", "generate", hidden=others, STABLEREP_REQUIRE_GPU="1")
    assert done.returncode == 2
    assert re.search(r"^FAILED +CUDA +torch .*no GPU visible, and STABLEREP_REQUIRE_GPU=1", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +torch computes +64 x 64 product on cpu", done.stdout, re.MULTILINE)


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a role among runtime, generate, train, launch, serve, features or all, found 'trian'"):
        examine("trian")


def test_green_is_silence_and_red_names_every_failure() -> None:
    require_green([judged("one", True, "fine", "")])
    with pytest.raises(ConfigError, match=r"^doctor: 2 failed: two, three$"):
        require_green([judged("one", True, "", ""), judged("two", False, "gone", "fetch it"), judged("three", False, "torn", "mend it")])
