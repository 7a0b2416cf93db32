"""What can be configured of `pretrain`: model, augmentation, objective, schedule, optimiser, engine (paper, section 4 and appendix).

Defaults are the paper's; read through `config.schema`, which holds the other stages.
"""

from dataclasses import dataclass, field
from typing import Literal

from stablerep.config.checks import check
from stablerep.config.schema_synclr import SynClrConfig


@dataclass(frozen=True)
class TrunkConfig:
    """The timm vision transformer that is kept. Zeros mean: as the architecture says."""

    architecture: str = "vit_base_patch16_224"
    size_px: int = 224
    patch_px: int = 0
    width: int = 0
    depth: int = 0
    num_heads: int = 0
    mlp_ratio: float = 0.0


@dataclass(frozen=True)
class HeadConfig:
    """The projection that is dropped after training (paper: 4096-4096-256, batch norm per view)."""

    num_layers: int = 3
    hidden_dim: int = 4096
    out_dim: int = 256
    norm: Literal["batch", "layer"] = "batch"
    per_view: bool = True


@dataclass(frozen=True)
class TextConfig:
    """The text tower of StableRep+ (CLIP's: width 512, 12 layers, context 77)."""

    vocabulary: Literal["captions", "clip"] = "clip"
    vocabulary_size: int = 49408
    context_length: int = 77
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    out_dim: int = 512
    projection: Literal["linear", "mlp"] = "linear"


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of an image into a view (paper: crop, jitter, grey, blur, flip)."""

    crop_scale_min: float = 0.08
    crop_scale_max: float = 1.0
    is_flipped: bool = True
    jitter: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    downsample_probability: float = 0.0  # first down to 64 or 128 px and up again (the paper's "+down": 0.05)
    rotation_degrees: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class PretrainConfig:
    """pretrain: objective, schedule, optimiser and engine (paper, section 4 and appendix)."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    text: TextConfig = field(default_factory=TextConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    objective: Literal["multi_positive", "simclr", "clip", "supervised", "synclr"] = "multi_positive"
    synclr: SynClrConfig = field(default_factory=SynClrConfig)
    image_weight: float = 1.0  # of multi_positive only, as text_weight
    text_weight: float = 1.0  # 0: StableRep; 1: StableRep+
    temperature: float = 0.1  # of multi_positive, simclr and synclr
    captions_per_batch: int = 1376  # over all processes
    images_per_caption: int = 6  # drawn from the stored group
    num_steps: int = 109_000
    warmup_steps: int = 3_600
    base_lr: float = 2e-4
    lr: float = 0.0  # above 0: used as it is; else base_lr x images in the batch / 512 (the released code, one crop)
    weight_decay: float = 0.1
    weight_decay_end: float = 0.0  # above 0: the decay moves there as half a cosine
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 0.0  # 0: off
    precision: Literal["fp32", "bf16"] = "bf16"
    ema_decay: float = 0.0  # above 0: what is exported is the exponential moving average of the weights
    accumulation_steps: int = 1  # parts of a process's batch that go through the towers one after the other; negatives stay those of all
    candidates: Literal["gathered", "ring"] = "gathered"  # of all processes at once, or of one after another (memory; multi_positive)
    is_activation_checkpointed: bool = False  # the trunk forgets activations and computes them again: less memory, a third more time
    is_compiled: bool = False  # torch.compile of the trunk: a minute at the start, then faster
    zero_stage: int = 1
    num_processes: int = 2
    num_nodes: int = 1
    num_workers: int = 0
    augment_in: Literal["auto", "workers", "device"] = "auto"  # views are made by the loader, or whole batches by the device; auto: GPUs do
    checkpoint_every_steps: int = 1000
    num_checkpoints_kept: int = 2
    is_checkpoint_async: bool = False  # written while training goes on; takes memory for a copy of weights and optimiser state
    seed: int = 0
    launch_timeout_seconds: int = 604_800

    def __post_init__(self) -> None:
        """Check ranges and what must agree."""
        images, objective = self.images_per_caption, self.objective
        check(
            images >= 2 or objective not in ("multi_positive", "synclr"),
            f"pretrain.images_per_caption: expected 2 or more (a single image has no positive), found {images}",
        )
        check(
            images == 1 or (images >= 1 and objective != "clip"),
            f"pretrain.images_per_caption: expected 1{'' if objective == 'clip' else ' or more'} with pretrain.objective={objective}, "
            f"found {images}",
        )
        check(self.captions_per_batch >= 2, f"pretrain.captions_per_batch: expected 2 or more, found {self.captions_per_batch}")
        check(
            self.captions_per_batch % self.num_processes == 0,
            f"pretrain.captions_per_batch: expected a multiple of num_processes={self.num_processes}, found {self.captions_per_batch}",
        )
        check(
            self.num_processes % self.num_nodes == 0,
            f"pretrain.num_processes: expected a multiple of num_nodes={self.num_nodes}, found {self.num_processes}",
        )
        check(
            self.candidates == "gathered" or objective == "multi_positive",
            f"pretrain.candidates={self.candidates}: expected gathered with pretrain.objective={objective}",
        )
        check(self.temperature > 0, f"pretrain.temperature: expected above 0, found {self.temperature}")
        check(self.num_steps >= 1, f"pretrain.num_steps: expected 1 or more, found {self.num_steps}")
        check(0 <= self.ema_decay < 1, f"pretrain.ema_decay: expected 0 (off) to below 1, found {self.ema_decay:g}")
        check(
            not self.ema_decay or self.zero_stage < 3 or self.num_processes == 1,
            "pretrain.ema_decay: expected whole weights on every process, found zero_stage=3, which cuts them; set pretrain.zero_stage=2",
        )
        check(
            not self.is_compiled or self.zero_stage < 3 or self.num_processes == 1,
            "pretrain.is_compiled: expected whole weights on every process, found zero_stage=3, which fetches them in between; "
            "set pretrain.zero_stage=2",
        )
        self._check_synclr()
        most = self.captions_per_batch // self.num_processes
        check(
            1 <= self.accumulation_steps <= most,
            f"pretrain.accumulation_steps: expected 1 to {most} (captions of a process), found {self.accumulation_steps}",
        )
        check(0 <= self.zero_stage <= 3, f"pretrain.zero_stage: expected 0 to 3, found {self.zero_stage}")
        check(self.image_weight > 0 or self.text_weight > 0, "pretrain.image_weight and text_weight are both 0: nothing to learn")
        check(self.checkpoint_every_steps >= 1, "pretrain.checkpoint_every_steps: expected 1 or more")

    def _check_synclr(self) -> None:
        if self.objective != "synclr":
            return
        check(self.head.norm == "layer", f"pretrain.head.norm: expected layer with pretrain.objective=synclr, found {self.head.norm}")
        whole = "expected whole weights on every process with pretrain.objective=synclr, whose teacher follows them"
        check(self.zero_stage < 3 or self.num_processes == 1, f"pretrain.zero_stage: {whole}, found 3; set pretrain.zero_stage=2")
        check(
            not self.is_compiled, "pretrain.is_compiled: expected false with pretrain.objective=synclr, which looks at patches, found true"
        )
        check(
            self.accumulation_steps == 1,
            f"pretrain.accumulation_steps: expected 1 with pretrain.objective=synclr, found {self.accumulation_steps}; "
            "set pretrain.is_activation_checkpointed=true to save memory",
        )

    @property
    def has_text(self) -> bool:
        """Whether the objective looks at the words of captions."""
        return self.objective == "clip" or (self.objective == "multi_positive" and self.text_weight > 0)

    @property
    def views_per_image(self) -> int:
        """How many augmented views of an image a batch holds."""
        return 2 if self.objective == "simclr" else 1

    @property
    def views_per_batch(self) -> int:
        """Passes through the trunk in a step, over all processes: the budget by which objectives are compared."""
        return self.captions_per_batch * self.images_per_caption * self.views_per_image
