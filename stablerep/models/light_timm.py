"""Import timm without torch's compiler, in a process that only runs encoders.

timm and torchvision each touch `torch._dynamo` once while they are imported (to mark two functions that are not to be compiled), which
loads sympy, inductor and FSDP: two thirds of the time that `import timm` takes. A placeholder answers them instead and is gone afterwards;
`torch.compile` still works later and imports the real one.
"""

import sys
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"


def import_timm_without_compiler() -> None:
    """Import timm; does nothing special where the compiler or timm is loaded already."""
    if _COMPILER in sys.modules or "timm" in sys.modules:
        return
    import torch

    compiler, parts = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
    compiler.__path__ = []
    compiler.utils = parts  # type: ignore[attr-defined]
    compiler.disable = _unchanged  # type: ignore[attr-defined]
    parts.is_compile_supported = lambda device: False  # type: ignore[attr-defined]
    placeholders = {_COMPILER: compiler, f"{_COMPILER}.utils": parts}
    sys.modules.update(placeholders)
    try:
        import timm  # noqa: F401  # pyright: ignore[reportUnusedImport]
    finally:
        for name, placeholder in placeholders.items():
            if sys.modules.get(name) is placeholder:
                del sys.modules[name]
        if vars(torch).get("_dynamo") is compiler:
            delattr(torch, "_dynamo")


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    """`torch._dynamo.disable`, where nothing is compiled."""
    return function if function is not None else _unchanged
