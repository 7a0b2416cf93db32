"""A trunk that ONNX Runtime runs on the CPU; without it, the reference evaluator of the onnx package (slow; for comparing).

Dimension key: B images, S pixels a side, F trunk features.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stablerep.errors import CheckpointError, ConfigError

ONNX_FILE = "encoder.onnx"

Array = np.ndarray[Any, np.dtype[Any]]


class OnnxTrunk(nn.Module):
    """Prepared images [B, 3, S, S] to features [B, F], from any thread.

    Args:
        content: of an ONNX file as `write_onnx` writes it.
        name: of the file, for messages.

    Raises:
        CheckpointError: it is no such file.
        ConfigError: neither onnxruntime nor onnx is installed.
    """

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__()
        try:
            self._run = _runtime(content)
        except ConfigError:
            raise
        except Exception as error:  # of onnxruntime, which has a class for each reason and no common one
            raise CheckpointError(f"{name}: expected an ONNX encoder, found another file: {str(error)[:200]}") from error

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Features of a batch of any size."""
        return torch.from_numpy(self._run(images_B3SS.float().cpu().contiguous().numpy()))


def _runtime(content: bytes) -> Callable[[Array], Array]:
    try:
        import onnxruntime
    except ImportError:
        return _evaluator(content)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["embedding"], {"image": images})[0]


def _evaluator(content: bytes) -> Callable[[Array], Array]:
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise ConfigError("ONNX: expected the package onnxruntime, found none; install stablerep[serve]") from error
    evaluator = ReferenceEvaluator(onnx.load_from_string(content))
    return lambda images: np.asarray(evaluator.run(["embedding"], {"image": images})[0], np.float32)
