"""The lists of `make mutants` still fit the code, and its runner can tell a fault that is noticed from one that is not."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def _runner() -> ModuleType:
    import sys

    specification = importlib.util.spec_from_file_location("mutants_run", PROJECT / "tests" / "mutants" / "run.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules["mutants_run"] = module
    specification.loader.exec_module(module)
    return module


RUNNER = _runner()


@pytest.mark.parametrize("name", RUNNER.names())
def test_every_fault_fits_its_file_and_names_tests_that_exist(name: str) -> None:
    for mutant in RUNNER.read(name):
        text = (PROJECT / mutant.file).read_text(encoding="utf-8")
        compile(mutant.broken(text), mutant.file, "exec")
        for test in mutant.tests:
            path, _, function = test.partition("::")
            assert f"def {function.partition('[')[0]}" in (PROJECT / path).read_text(encoding="utf-8"), test


def test_the_runner_tells_killed_from_alive(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def double(x):\n    return 2 * x\n\n\ndef triple(x):\n    return 3 * x\n")
    (tmp_path / "test_code.py").write_text("from code_under_test import double\n\n\ndef test_double():\n    assert double(2) == 4\n")
    (tmp_path / "code.py").rename(tmp_path / "code_under_test.py")
    killed = RUNNER.Mutant("code_under_test.py", "2 * x", "3 * x", ("test_code.py",))
    alive = RUNNER.Mutant("code_under_test.py", "return 3", "return 4", ("test_code.py",))
    assert RUNNER.is_killed(killed, tmp_path)
    assert not RUNNER.is_killed(alive, tmp_path)
    assert "return 2 * x" in (tmp_path / "code_under_test.py").read_text()
    with pytest.raises(ValueError, match="expected 'return' once, found it 2 times"):
        RUNNER.Mutant("code_under_test.py", "return", "yield", ("test_code.py",)).broken((tmp_path / "code_under_test.py").read_text())
