"""The manifests, rendered once for all contracts about them."""

from pathlib import Path

import pytest
import yaml

from manifests.pods import Document
from manifests.render import render_all


@pytest.fixture(scope="session")
def manifests_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<name>.yaml of every overlay, cluster-scoped folder and component, as `make manifests` writes them."""
    folder = tmp_path_factory.mktemp("manifests") / "build"
    render_all(folder)
    return folder


@pytest.fixture(scope="session")
def rendered(manifests_folder: Path) -> dict[str, list[Document]]:
    """Name -> documents."""
    paths = sorted(manifests_folder.glob("*.yaml"))
    return {path.stem: list(yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader)) for path in paths}
