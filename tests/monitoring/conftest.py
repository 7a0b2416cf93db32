"""Programs of Prometheus, and the rules as it reads them."""

import shutil
from pathlib import Path

import pytest

from manifests.monitoring.rules import write_rules


def program(name: str) -> str:
    """A program that `tests/tools/install.py` has put on the PATH."""
    found = shutil.which(name)
    assert found, f"{name} is not on the PATH; python tests/tools/install.py installs it, as make test does"
    return found


@pytest.fixture(scope="session")
def rules_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rules(tmp_path_factory.mktemp("rules") / "rules.yml")


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return program("prometheus")
