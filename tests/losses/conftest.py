"""Backends of the losses, each where it can run on a CPU: Triton in its interpreter (TRITON_INTERPRET=1 in `tests/conftest.py`)."""

import importlib
import sys

import pytest
import triton


@pytest.fixture(params=["tiled", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that must equal the plain one."""
    return request.param


@pytest.fixture
def compiled_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels as they are defined without TRITON_INTERPRET, for a GPU; the interpreted ones come back afterwards."""
    importlib.import_module("stablerep.losses.kernels")
    for name in ("kernels", "programs"):
        monkeypatch.delitem(sys.modules, f"stablerep.losses.{name}")
        monkeypatch.delattr(f"stablerep.losses.{name}")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
