"""Fixtures for every test: a clean environment, a store in a temporary folder, one thread."""

import logging
import os
import sys
from pathlib import Path

import pytest

from stablerep.store import Store

sys.path.insert(0, str(Path(__file__).parent / "plugins"))
pytest_plugins = ["s3_server", "fake_cluster", "fake_kserve", "fake_prometheus", "real_postgres", "cluster_rollout", "compiled_pods"]

os.environ.update(  # Triton decides at its first import whether kernels are interpreted (on the CPU)
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    DS_ACCELERATOR="cpu",
    MPLBACKEND="Agg",
    CUDA_VISIBLE_DEVICES="",
    TRITON_INTERPRET="1",
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("STABLEREP_", "AWS_", "KUBE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _clean_logging() -> None:
    """As in a new process: a stage that ran in an earlier test has set the product's logger up, and pytest would see each line twice."""
    logger = logging.getLogger("stablerep")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())
