"""How the trunk of a served encoder is run: where, in which precision, compiled or not, in how many threads.

The default is what the probes measured: float32, eager. On a CPU every worker of the batcher runs the model in a thread of its own; small
batches side by side beat one batch over all cores, whose threads wait for each other after every layer. On a GPU one worker feeds it, in
bfloat16 if so told, and CUDA graphs replay a recorded batch without launching kernels one by one; batches are padded to recorded sizes.
`torch.compile` (inductor) needs a C compiler where the server runs, and compiles before the server is ready.

Dimension key: B images, S pixels a side, F embedding.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stablerep.errors import ConfigError

Precision = Literal["fp32", "bf16"]
GRAPH_SIZES = (1, 2, 4, 8, 16, 32, 64)  # batches that are recorded; others are padded to the next
CPU_BATCH = 4  # larger ones gain nothing on a core and keep later callers waiting

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Compute:
    """Settings of one server.

    Attributes:
        device: "auto" takes a GPU where there is one.
        precision: of the trunk's arithmetic; embeddings leave in float32.
        is_compiled: whether torch.compile is used.
        uses_graphs: whether CUDA graphs are recorded.
        num_workers: threads that run the model; 0: one for each core, one for a GPU.
        is_onnx: whether ONNX Runtime runs the trunk, from the encoder.onnx of the folder; on a CPU.
    """

    device: str = "auto"
    precision: Precision = "fp32"
    is_compiled: bool = False
    uses_graphs: bool = False
    num_workers: int = 0
    is_onnx: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision: expected fp32 or bf16, found {self.precision!r}")
        if self.num_workers < 0:
            raise ConfigError(f"model workers: expected 0 (one a core) or more, found {self.num_workers}")
        if self.uses_graphs and not self.is_on_gpu:
            raise ConfigError("CUDA graphs: expected a GPU, found none; leave --cuda-graphs out")
        if self.is_onnx and (self.is_on_gpu or self.is_compiled or self.precision != "fp32"):
            raise ConfigError("ONNX Runtime: expected a CPU and fp32 without torch.compile; leave --onnx, or the other options, out")

    @property
    def chosen_device(self) -> str:
        """The device that is used."""
        return ("cuda" if torch.cuda.is_available() and not self.is_onnx else "cpu") if self.device == "auto" else self.device

    @property
    def is_on_gpu(self) -> bool:
        """Whether the model runs on a GPU."""
        return self.chosen_device.startswith("cuda")

    def claim_workers(self) -> int:
        """Threads that run the model; torch's own threads (OMP_NUM_THREADS, or the cores) are shared out among them, for this process."""
        num_threads = torch.get_num_threads()
        num_workers = self.num_workers or (1 if self.is_on_gpu else num_threads)
        torch.set_num_threads(max(1, num_threads // num_workers))
        return num_workers

    def batch(self, max_batch: int) -> int:
        """Images of one model batch, at most."""
        return max_batch if self.is_on_gpu else min(max_batch, CPU_BATCH)


def accelerated(embed: Embed, compute: Compute, size_px: int) -> Embed:
    """The same function as `compute` wants it run: normalised float32 images [B, 3, S, S] to float32 [B, F] on the CPU.

    Args:
        embed: the encoder.
        compute: how.
        size_px: S, for the batches that are recorded.
    """
    device_type = "cuda" if compute.is_on_gpu else "cpu"

    def run(images_B3SS: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device_type, torch.bfloat16, enabled=compute.precision == "bf16"):
            return embed(images_B3SS)

    chosen: Embed = torch.compile(run, dynamic=True) if compute.is_compiled else run
    if compute.uses_graphs:
        chosen = Graphs(chosen, size_px, compute.chosen_device)
    return lambda images_B3SS: chosen(images_B3SS).float().cpu()


class Graphs:
    """Recorded batches on a GPU, one for each size of `GRAPH_SIZES`, made on first use.

    Args:
        embed: what is recorded.
        size_px: S.
        device: a CUDA device.
    """

    def __init__(self, embed: Embed, size_px: int, device: str) -> None:
        self._embed, self._size_px, self._device = embed, size_px, device
        self._recorded: dict[int, tuple[Any, Tensor, Tensor]] = {}

    def __call__(self, images_B3SS: Tensor) -> Tensor:
        """Embed through the recording of the next size."""
        num_images = len(images_B3SS)
        if num_images > GRAPH_SIZES[-1]:
            return torch.cat([self(chunk) for chunk in images_B3SS.split(GRAPH_SIZES[-1])])
        size = padded_size(num_images)
        if size not in self._recorded:
            self._recorded[size] = self._record(size)
        graph, placed_B3SS, embedding_BF = self._recorded[size]
        placed_B3SS[:num_images].copy_(images_B3SS)
        graph.replay()
        return embedding_BF[:num_images].clone()

    def _record(self, size: int) -> tuple[Any, Tensor, Tensor]:
        placed_B3SS = torch.zeros(size, 3, self._size_px, self._size_px, device=self._device)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries choose their kernels before the recording
            for _ in range(3):
                self._embed(placed_B3SS)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            embedding_BF = self._embed(placed_B3SS)
        return graph, placed_B3SS, embedding_BF


def padded_size(num_images: int) -> int:
    """The recorded size that `num_images` images take."""
    return next(size for size in GRAPH_SIZES if size >= num_images)
