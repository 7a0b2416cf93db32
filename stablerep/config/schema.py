"""What can be configured: one frozen dataclass per stage, validated where it is made.

Defaults are the paper's where the paper has one (docs/paper.md); the recipes of `recipes.py` are differences from them. Values are
plain JSON. Units are in the names; `num_processes` counts training processes over all nodes.
"""

from dataclasses import dataclass, field
from typing import Literal

from stablerep.errors import ConfigError


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class CaptionsConfig:
    """prepare: where captions come from and how they are cut into work."""

    source: str = "packaged:mnist"  # packaged:<name>, or the URI of a .txt .csv .tsv .jsonl .parquet file
    column: str = "caption"
    num_captions: int = 0  # 0: all
    max_words: int = 60
    captions_per_shard: int = 64
    num_lanes: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(bool(self.source), "captions.source: expected packaged:<name> or a URI, found an empty string")
        _check(self.num_captions >= 0, f"captions.num_captions: expected 0 (all) or more, found {self.num_captions}")
        _check(self.captions_per_shard >= 1, f"captions.captions_per_shard: expected 1 or more, found {self.captions_per_shard}")
        _check(1 <= self.num_lanes <= 16, f"captions.num_lanes: expected 1 to 16, found {self.num_lanes}")
        _check(self.max_words >= 1, f"captions.max_words: expected 1 or more, found {self.max_words}")


@dataclass(frozen=True)
class GeneratorConfig:
    """generator: which diffusers text-to-image model, and how the embedded one is fitted anew."""

    model: str = "embedded:mnist"  # embedded:<name>, a local folder, a URI, or a hub id
    revision: str = ""
    licence: str = ""  # what the user accepts; empty: as the model's folder says
    fit: bool = False
    fit_data: str = "mnist"
    fit_num_vae_steps: int = 1200
    fit_num_steps: int = 1400
    fit_seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(bool(self.model), "generator.model: expected a path, a URI, a hub id or embedded:<name>, found an empty string")
        _check(self.fit_num_steps >= 1 and self.fit_num_vae_steps >= 1, "generator.fit_num_steps: expected 1 or more")


@dataclass(frozen=True)
class GenerateConfig:
    """generate: the sampler and what is stored (paper, section 3: guidance 2, DDIM 50 steps, 10 images a caption)."""

    images_per_caption: int = 10
    scheduler: Literal["ddim", "dpm++", "unipc", "euler", "lcm"] = "ddim"
    num_inference_steps: int = 50
    guidance: float = 2.0
    negative_prompt: str = ""
    noise_seed: int = 0
    batch_size: int = 8
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    device: str = "auto"
    stored_size_px: int = 256
    image_format: Literal["jpeg", "webp", "png"] = "jpeg"
    image_quality: int = 90
    max_retries_per_image: int = 2

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(
            self.images_per_caption >= 2,
            f"generate.images_per_caption: expected 2 or more (images of a caption are each other's positives), "
            f"found {self.images_per_caption}",
        )
        _check(self.num_inference_steps >= 1, "generate.num_inference_steps: expected 1 or more")
        _check(self.guidance >= 0, f"generate.guidance: expected 0 or more, found {self.guidance}")
        _check(self.batch_size >= 1, f"generate.batch_size: expected 1 or more, found {self.batch_size}")
        _check(1 <= self.image_quality <= 100, f"generate.image_quality: expected 1 to 100, found {self.image_quality}")
        _check(self.stored_size_px >= 8, f"generate.stored_size_px: expected 8 or more, found {self.stored_size_px}")


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
    is_flipped: bool = True
    jitter: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    rotation_degrees: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class PretrainConfig:
    """pretrain: objective, schedule, optimiser and engine (paper, section 4 and appendix)."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    text: TextConfig = field(default_factory=TextConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    image_weight: float = 1.0
    text_weight: float = 1.0  # 0: StableRep; 1: StableRep+
    temperature: float = 0.1
    captions_per_batch: int = 1376  # over all processes
    images_per_caption: int = 6  # drawn from the stored group
    num_steps: int = 109_000
    warmup_steps: int = 3_600
    base_lr: float = 2e-4
    lr: float = 0.0  # above 0: used as it is; else base_lr x images in the batch / 512 (the released code, one crop)
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 0.0  # 0: off
    precision: Literal["fp32", "bf16"] = "bf16"
    zero_stage: int = 1
    num_processes: int = 2
    num_nodes: int = 1
    num_workers: int = 0
    checkpoint_every_steps: int = 1000
    num_checkpoints_kept: int = 2
    seed: int = 0
    launch_timeout_seconds: int = 604_800

    def __post_init__(self) -> None:
        """Check ranges and what must agree."""
        _check(
            self.images_per_caption >= 2,
            f"pretrain.images_per_caption: expected 2 or more (a single image has no positive), found {self.images_per_caption}",
        )
        _check(self.captions_per_batch >= 2, f"pretrain.captions_per_batch: expected 2 or more, found {self.captions_per_batch}")
        _check(
            self.captions_per_batch % self.num_processes == 0,
            f"pretrain.captions_per_batch: expected a multiple of num_processes={self.num_processes}, found {self.captions_per_batch}",
        )
        _check(
            self.num_processes % self.num_nodes == 0,
            f"pretrain.num_processes: expected a multiple of num_nodes={self.num_nodes}, found {self.num_processes}",
        )
        _check(self.temperature > 0, f"pretrain.temperature: expected above 0, found {self.temperature}")
        _check(self.num_steps >= 1, f"pretrain.num_steps: expected 1 or more, found {self.num_steps}")
        _check(0 <= self.zero_stage <= 3, f"pretrain.zero_stage: expected 0 to 3, found {self.zero_stage}")
        _check(self.image_weight > 0 or self.text_weight > 0, "pretrain.image_weight and text_weight are both 0: nothing to learn")
        _check(self.checkpoint_every_steps >= 1, "pretrain.checkpoint_every_steps: expected 1 or more")


@dataclass(frozen=True)
class ProbeConfig:
    """probe: frozen features under a linear head (ten learning rates, 90 epochs) and k-NN."""

    dataset: str = "packaged:mnist"  # packaged:<name> or an ImageFolder with train/ and test/
    labels_per_class: tuple[int, ...] = (5, 20, -1)
    num_draws: int = 5  # label draws averaged where labels are few
    num_epochs: int = 90
    batch_size: int = 1024
    base_lrs: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    num_neighbours: int = 20
    neighbour_temperature: float = 0.07
    num_bootstrap: int = 1000
    feature_batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(bool(self.labels_per_class), "probe.labels_per_class: expected at least one number")
        _check(all(n == -1 or n >= 2 for n in self.labels_per_class), "probe.labels_per_class: expected -1 (all) or 2 and more")
        _check(bool(self.base_lrs), "probe.base_lrs: expected at least one learning rate")


@dataclass(frozen=True)
class GateConfig:
    """gate: what an encoder must reach before it is deployed."""

    min_accuracy: float = 0.0
    min_over_random_init: float = 0.05
    max_below_champion: float = 0.02  # of the interval's upper end
    has_catalogue: bool = True


@dataclass(frozen=True)
class DeployConfig:
    """deploy and verify: the endpoint."""

    name: str = "stablerep"
    port: int = 8080
    grpc_port: int = 8081
    ready_timeout_seconds: float = 90.0
    num_golden: int = 8
    max_difference: float = 1e-4
    max_image_bytes: int = 8_388_608
    max_image_pixels: int = 25_000_000
    max_batch: int = 64

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, port in (("port", self.port), ("grpc_port", self.grpc_port)):
            _check(0 <= port <= 65535, f"deploy.{name}: expected 0 (any free) to 65535, found {port}")


@dataclass(frozen=True)
class Recipe:
    """A named run: every stage's configuration."""

    name: str
    description: str
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    deploy: DeployConfig = field(default_factory=DeployConfig)

    def __post_init__(self) -> None:
        """Check what must agree between stages."""
        _check(
            self.pretrain.images_per_caption <= self.generate.images_per_caption,
            f"pretrain.images_per_caption: expected at most generate.images_per_caption={self.generate.images_per_caption}, "
            f"found {self.pretrain.images_per_caption}",
        )
