"""DeepSpeed as an engine: ZeRO stages 0 to 3 on GPUs (nccl) and CPUs (gloo). The only file that imports DeepSpeed.

Stage 1 shards optimiser state over the ranks, 2 gradients too, 3 parameters too. Weights and optimiser state are float32 in every
stage (bf16 is autocast inside the forward pass), so the stages give the same losses and full weights need no conversion. The optimiser is
torch's AdamW: DeepSpeed's own would be compiled at run time. DeepSpeed's checkpoints are pickles; they are written to and read from the
run's own prefix only, digests verified first, and read by torch's restricted unpickler. https://deepspeed.readthedocs.io/
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import logging
import math
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stablerep.batches import Batch
from stablerep.training.average import WeightAverage
from stablerep.training.deepspeed_monitor import DeepspeedMonitor, Report
from stablerep.training.engine import OptimizerSettings, StepResult, build_optimizer, on_cpu, set_rates, towers_state
from stablerep.training.objective import Objective
from stablerep.training.processes import Processes
from stablerep.training.snapshot import copied
from stablerep.training.state import AVERAGE_NAME

_BUCKET_ELEMENTS = 50_000_000
_NEVER = 1 << 40


def deepspeed_config(settings: OptimizerSettings, *, zero_stage: int, captions_per_process: int, is_timed: bool = False) -> dict[str, Any]:
    """DeepSpeed's JSON for these settings.

    Args:
        settings: of the optimiser.
        zero_stage: 0 to 3.
        captions_per_process: captions of a step on one rank.
        is_timed: measure the phases of every step.
    """
    return {
        "train_micro_batch_size_per_gpu": captions_per_process,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.clip_norm,
        "steps_per_print": _NEVER,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": zero_stage,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
        },
        "torch_autocast": {"enabled": settings.precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
        **({"wall_clock_breakdown": True} if is_timed else {}),
    }


class DeepspeedEngine:
    """Several processes under DeepSpeed; the process group must exist. With `report`, rank 0 tells how long the phases of a step take."""

    def __init__(
        self,
        objective: Objective,
        settings: OptimizerSettings,
        processes: Processes,
        *,
        zero_stage: int,
        captions_per_process: int,
        report: Report | None = None,
    ) -> None:
        deepspeed = _import_deepspeed(processes.device)
        self.kind = f"deepspeed-zero-{zero_stage}"
        self._zero_stage, self._rank, self._settings = zero_stage, processes.rank, settings
        self._objective = objective.to(processes.device).train()
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=self._objective,
            optimizer=build_optimizer(self._objective, settings),
            config=deepspeed_config(
                settings, zero_stage=zero_stage, captions_per_process=captions_per_process, is_timed=report is not None
            ),
            dist_init_required=False,
        )
        if report:
            self._engine.monitor = DeepspeedMonitor(report, self._engine.monitor)
        has_average = bool(settings.ema_decay) and self._rank == 0  # every rank has the same weights below stage 3
        self._average = WeightAverage(self._objective.towers, settings.ema_decay) if has_average else None

    def step(self, batch: Batch, lr: float) -> StepResult:
        """One update; DeepSpeed skips it when the gradient is not finite (the loop stops the run)."""
        total, image, text = self._engine(batch.views_MNCHW, batch.tokens_NT, batch.labels_N, **batch.extras())
        self._engine.backward(total)
        set_rates(self._optimizer, lr, self._settings.weight_decay_at(batch.step))
        norm = self._whole_gradient_norm() if self._zero_stage == 0 else None
        if norm is None or math.isfinite(norm):
            self._engine.step()
        norm = float(self._engine.get_global_grad_norm()) if norm is None else norm
        if math.isfinite(norm):
            self._objective.after_step(batch.step)
            if self._average:
                self._average.update(batch.step)
        return StepResult(float(total.detach()), float(image.detach()), float(text.detach()), norm)

    def save(self, folder: Path) -> None:
        """Write this rank's files."""
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
        if self._rank == 0:
            for script in folder.glob("zero_to_*.py"):  # DeepSpeed adds its conversion scripts; code is no part of a checkpoint
                script.unlink()
        if self._average:
            self._average.save(folder)

    def snapshot(self) -> Callable[[Path], None]:
        """Have DeepSpeed save into memory; its own writer waits for every file."""
        writer, recorder = self._engine.checkpoint_engine, _Recorder()
        self._engine.checkpoint_engine = recorder
        try:
            with tempfile.TemporaryDirectory(prefix="stablerep-snapshot-") as name:  # for its conversion scripts
                self._engine.save_checkpoint(name, tag="snapshot", save_latest=False)
        finally:
            self._engine.checkpoint_engine = writer
        average = self._average.state() if self._average else None

        def write(folder: Path) -> None:
            for file, state in recorder.files.items():
                torch.save(state, folder / file)
            if average:
                save_file(average, str(folder / AVERAGE_NAME))

        return write

    def load(self, folder: Path) -> None:
        """Read the model and this rank's part of the optimiser."""
        with _restricted_unpickler():
            self._engine.load_checkpoint(str(folder.parent), tag=folder.name)
        if self._average:
            self._average.load(folder)

    def weights(self) -> dict[str, Tensor]:
        """The towers' state, gathered where parameters are sharded, or its average."""
        return self._average.state() if self._average else towers_state(self.state())

    def state(self) -> dict[str, Tensor]:
        """The objective's state, gathered where parameters are sharded."""
        if self._zero_stage < 3:
            return on_cpu(self._objective.state_dict()) if self._rank == 0 else {}
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self._objective.parameters())):
            return on_cpu(self._objective.state_dict()) if self._rank == 0 else {}

    def _whole_gradient_norm(self) -> float:
        """Without ZeRO every rank holds the averaged gradients, and DeepSpeed reports no norm."""
        gradients = [parameter.grad for parameter in self._objective.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))


class _Recorder:
    """What DeepSpeed calls a checkpoint engine: it copies what it is told to save."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}

    def save(self, state_dict: Any, path: str) -> None:
        self.files[Path(path).name] = copied(state_dict)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing is written."""

    def create(self, info: Any) -> None:
        """The record of what is saved begins with this object."""

    def commit(self, info: Any) -> bool:
        return True

    def is_decoupled(self) -> bool:
        return False

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        return dp_rank == 0

    def preserves_storage_sharing(self) -> bool:
        return False  # every copy has a storage of its own size


def _import_deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":
        # This collective through shared memory would be compiled with ninja and a C++ compiler at the first start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _restricted_unpickler() -> Generator[None]:
    """DeepSpeed reads with `weights_only=False`; this makes torch refuse anything but tensors and the few classes below."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        os.environ.pop(name) if before is None else os.environ.__setitem__(name, before)
