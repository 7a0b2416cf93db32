"""ONNX Runtime in a module of its own: only the serving image installs it.

Dimension key: B images, S pixels a side, F trunk features.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch

Array = np.ndarray[Any, np.dtype[Any]]


def run_of(content: bytes) -> Callable[[Array], Array]:
    """What runs an ONNX encoder on the CPU, in as many threads as torch has now: images [B, 3, S, S] to features [B, F].

    Args:
        content: of the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images_B3SS: session.run(["embedding"], {"image": images_B3SS})[0]
