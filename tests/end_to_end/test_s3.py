"""The whole pipeline with its store on a real S3 server: nothing but the URI changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stablerep.config import load_recipe
from stablerep.stages.ledger import Ledger
from stablerep.store import Store

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.dist]


def test_a_run_on_s3(s3_store_uri: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.run_local", "--recipe", "smoke", "--root", str(tmp_path), "--store", s3_store_uri]
    environment = dict(os.environ)  # with the endpoint and the keys of the server
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600, check=False, env=environment)
    try:
        assert result.returncode == 0, result.stdout + result.stderr
        store = Store(s3_store_uri)
        records = {entry.name: json.loads(entry.output) for entry in Ledger(store, load_recipe("smoke")).entries()}
        assert records["commit"]["uri"].startswith("s3://")
        assert store.exists(f"models/{records['export']['model_id']}/encoder.safetensors")
        assert records["verify"]["checks"]
        assert all(records["verify"]["checks"].values())
        assert "smoke: succeeded" in store.read_text(next(key for key in store.list("reports") if key.endswith("summary.md")))
        assert not list(tmp_path.glob("store"))
    finally:
        stop = [sys.executable, "-m", "stablerep.cli", "stop", "--recipe", "smoke", "--store", s3_store_uri]
        subprocess.run(stop, timeout=120, check=True, env=environment)
