"""A trunk that ONNX Runtime runs on the CPU, and how it is compared with the encoder that it was made from.

Dimension key: B images, S pixels a side, F trunk features.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stablerep.errors import CheckpointError, ConfigError
from stablerep.models.digests import SUMS, read_sums, verified_bytes
from stablerep.models.encoder import Encoder

ONNX_FILE = "encoder.onnx"
MAX_DIFFERENCE = 1e-4
_NUM_COMPARED = 5  # images; not a number that was traced

Array = np.ndarray[Any, np.dtype[Any]]


class OnnxTrunk(nn.Module):
    """Prepared images [B, 3, S, S] to features [B, F], from any thread.

    Args:
        content: of an ONNX file as `write_onnx` writes it.
        name: of the file, for messages.

    Raises:
        CheckpointError: it is no such file.
        ConfigError: onnxruntime is not installed.
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


def load_onnx_trunk(folder: Path, encoder: Encoder) -> OnnxTrunk:
    """`encoder.onnx` of an exported folder, compared with the encoder.

    Args:
        folder: of the encoder, with encoder.onnx in its digests.
        encoder: loaded from there.

    Raises:
        CheckpointError: the file is missing, damaged, of another encoder, or answers differently.
        ConfigError: onnxruntime is not installed.
    """
    sums = read_sums(folder)
    if ONNX_FILE not in sums:
        raise CheckpointError(f"{folder}: expected {ONNX_FILE} in {SUMS}, found none; export with deploy.runtime_engine=onnx")
    trunk = OnnxTrunk(verified_bytes(folder / ONNX_FILE, sums[ONNX_FILE]), str(folder / ONNX_FILE))
    difference_of(encoder, trunk, str(folder / ONNX_FILE))
    return trunk


def difference_of(encoder: Encoder, trunk: Callable[[Tensor], Tensor], what: str) -> float:
    """Largest difference to the encoder's embeddings, over batches of one and several images.

    Raises:
        CheckpointError: it is over `MAX_DIFFERENCE`, or the shapes differ.
    """
    found = 0.0
    for num_images in (1, _NUM_COMPARED):
        images_B3SS = random_images(encoder.size_px, num_images)
        with torch.inference_mode():
            theirs_BF, ours_BF = trunk(images_B3SS).cpu(), encoder.embed(images_B3SS).cpu()
        if theirs_BF.shape != ours_BF.shape:
            raise CheckpointError(f"{what}: expected embeddings {tuple(ours_BF.shape)}, found {tuple(theirs_BF.shape)}; convert it again")
        found = max(found, float((theirs_BF - ours_BF).abs().max()))
    if not found <= MAX_DIFFERENCE:
        raise CheckpointError(f"{what}: expected the embeddings of {encoder.model_id} within {MAX_DIFFERENCE:g}, found {found:g} off")
    return found


def random_images(size_px: int, num_images: int) -> Tensor:
    """Normally distributed pixels [num_images, 3, size_px, size_px]; equal arguments give equal images."""
    return torch.randn(num_images, 3, size_px, size_px, generator=torch.Generator().manual_seed(num_images))


def _runtime(content: bytes) -> Callable[[Array], Array]:
    try:
        from stablerep.models.onnx_runtime import run_of
    except ImportError as error:
        raise ConfigError("ONNX: expected the package onnxruntime, found none; install stablerep[serve]") from error
    return run_of(content)
