"""What can be configured: one frozen dataclass per stage, validated where it is made.

Defaults are the paper's where the paper has one (docs/paper.md); the recipes of `recipes.py` are differences from them. Values are
plain JSON. Units are in the names; `num_processes` counts training processes over all nodes. What `pretrain` takes is in
`schema_pretrain`, what judges images and groups in `schema_quality`.
"""

from dataclasses import dataclass, field
from typing import Literal

from stablerep.config.checks import check
from stablerep.config.schema_pretrain import AugmentConfig, HeadConfig, PretrainConfig, TextConfig, TrunkConfig
from stablerep.config.schema_quality import QualityConfig
from stablerep.config.schema_synclr import SynClrConfig

__all__ = [
    "AugmentConfig",
    "CaptionsConfig",
    "DeployConfig",
    "GateConfig",
    "GenerateConfig",
    "GeneratorConfig",
    "HeadConfig",
    "LaunchConfig",
    "PretrainConfig",
    "ProbeConfig",
    "QualityConfig",
    "Recipe",
    "SynClrConfig",
    "TextConfig",
    "TrunkConfig",
]


@dataclass(frozen=True)
class CaptionsConfig:
    """prepare: where captions come from and how they are cut into work."""

    # packaged:<name>, the URI of a .txt .csv .tsv .jsonl .parquet file, concepts:<URI of a list>, or catalogue:[store URI]
    source: str = "packaged:mnist"
    column: str = "caption"
    label_column: str = ""  # the class of each caption, where a table names one; packaged captions have theirs
    num_captions: int = 0  # 0: all
    max_words: int = 60
    min_words: int = 1  # shorter captions are left out
    blocklist: str = ""  # URI of a list of words and phrases, one a line; captions with one of them are left out
    captions_per_concept: int = 10  # concepts: of each, where num_captions is 0
    templates: tuple[str, ...] = ()  # concepts: texts with {concept}, {background}, {relation}; none: those of captions.synthesis
    backgrounds: str = ""  # concepts: URI of a list; none: those of captions.synthesis
    relations: str = ""
    language_model: str = ""  # concepts: folder of a causal language model of transformers; none: templates write
    temperature: float = 0.9
    max_new_tokens: int = 40
    captions_per_shard: int = 64
    num_lanes: int = 2
    seed: int = 0
    as_of: str = ""  # with catalogue: only: the moment whose captions are meant, ISO 8601 with an offset
    tags: tuple[str, ...] = ()  # with catalogue: only captions with all of these; !tag for none of it
    balance: Literal["none", "class"] = "none"  # with catalogue: equally many captions of each class

    def __post_init__(self) -> None:
        """Check ranges."""
        is_catalogue = self.source.startswith("catalogue:")
        check(
            is_catalogue or not (self.as_of or self.tags or self.balance != "none"),
            f"captions.as_of, captions.tags, captions.balance: expected captions.source=catalogue:, found {self.source}",
        )
        check(
            not is_catalogue or bool(self.as_of),
            "captions.as_of: expected a moment such as 2026-11-23T05:40:00+00:00 with captions.source=catalogue:, found none; "
            "the same moment is the same prompt set, however many captions are added later",
        )
        check(bool(self.source), "captions.source: expected packaged:<name> or a URI, found an empty string")
        check(self.num_captions >= 0, f"captions.num_captions: expected 0 (all) or more, found {self.num_captions}")
        check(self.captions_per_shard >= 1, f"captions.captions_per_shard: expected 1 or more, found {self.captions_per_shard}")
        check(1 <= self.num_lanes <= 16, f"captions.num_lanes: expected 1 to 16, found {self.num_lanes}")
        check(
            1 <= self.min_words <= self.max_words,
            f"captions.max_words: expected 1 or more, and min_words from 1 to max_words, found {self.max_words} and {self.min_words}",
        )
        check(self.captions_per_concept >= 1, f"captions.captions_per_concept: expected 1 or more, found {self.captions_per_concept}")
        check(self.temperature > 0, f"captions.temperature: expected above 0, found {self.temperature}")
        check(self.max_new_tokens >= 1, f"captions.max_new_tokens: expected 1 or more, found {self.max_new_tokens}")
        for template in self.templates:
            check("{concept}" in template, f"captions.templates: expected {{concept}} in every template, found {template!r}")


@dataclass(frozen=True)
class GeneratorConfig:
    """generator: which diffusers text-to-image model, and how the embedded one is fitted anew."""

    model: str = "embedded:mnist"  # embedded:<name>, a local folder, a URI, a hub id, or real:<name or folder of images>
    revision: str = ""
    licence: str = ""  # what the user accepts; empty: as the model's folder says
    lora: str = ""  # a .safetensors file or its URI: a low-rank change of the model, a few-step student for one
    fit: bool = False
    fit_data: str = "mnist"
    fit_num_vae_steps: int = 1200
    fit_num_steps: int = 1400
    fit_seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        check(bool(self.model), "generator.model: expected a path, a URI, a hub id or embedded:<name>, found an empty string")
        check(not (self.fit and self.model.startswith("real:")), f"generator.fit=true: expected a model to fit, found {self.model}")
        check(self.fit_num_steps >= 1 and self.fit_num_vae_steps >= 1, "generator.fit_num_steps: expected 1 or more")


@dataclass(frozen=True)
class GenerateConfig:
    """generate: the sampler and what is stored (paper, section 3: guidance 2, DDIM 50 steps, 10 images a caption)."""

    images_per_caption: int = 10
    scheduler: Literal["ddim", "dpm++", "unipc", "euler", "lcm"] = "ddim"
    num_inference_steps: int = 50
    num_base_steps: int = 0  # so many first steps without generator.lora, with guidance; the others with it, without. 0: all with both
    guidance: float = 2.0
    negative_prompt: str = ""
    noise_seed: int = 0
    batch_size: int = 8
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    device: str = "auto"
    is_compiled: bool = False  # torch.compile of denoiser and decoder, for shapes that never change
    is_vae_sliced: bool = False  # decode image by image: less memory
    stored_size_px: int = 256
    image_format: Literal["jpeg", "webp", "png"] = "jpeg"
    image_quality: int = 90
    max_retries_per_image: int = 2

    def __post_init__(self) -> None:
        """Check ranges."""
        check(self.images_per_caption >= 1, f"generate.images_per_caption: expected 1 or more, found {self.images_per_caption}")
        check(self.num_inference_steps >= 1, "generate.num_inference_steps: expected 1 or more")
        check(
            0 <= self.num_base_steps < self.num_inference_steps,
            f"generate.num_base_steps: expected 0 to {self.num_inference_steps - 1}, found {self.num_base_steps}",
        )
        check(self.guidance >= 0, f"generate.guidance: expected 0 or more, found {self.guidance}")
        check(self.batch_size >= 1, f"generate.batch_size: expected 1 or more, found {self.batch_size}")
        check(1 <= self.image_quality <= 100, f"generate.image_quality: expected 1 to 100, found {self.image_quality}")
        check(self.stored_size_px >= 8, f"generate.stored_size_px: expected 8 or more, found {self.stored_size_px}")


@dataclass(frozen=True)
class ProbeConfig:
    """probe: frozen features under linear heads (ten learning rates, 90 epochs), k-NN, and what else is asked for."""

    dataset: str = "packaged:mnist"  # packaged:<name>, imagefolder:, webdataset: or torchvision: (stablerep.probes.data)
    probes: tuple[Literal["linear", "linear_bn", "knn", "logistic", "few_shot", "zero_shot"], ...] = ("linear", "linear_bn", "knn")
    labels_per_class: tuple[int, ...] = (5, 20, -1)
    num_draws: int = 5  # label draws averaged where labels are few
    num_epochs: int = 90
    batch_size: int = 1024
    base_lrs: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    num_neighbours: int = 20
    neighbour_temperature: float = 0.07
    zero_shot_templates: tuple[str, ...] = ("a photo of a {}",)  # {} is the name of a class
    augmentation: Literal["none", "crop", "crop_flip"] = "none"  # of linear heads with all labels: features anew in every epoch
    num_bootstrap: int = 1000
    feature_batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        check("linear" in self.probes, "probe.probes: expected linear among them, it is what the gate looks at")
        check(bool(self.labels_per_class), "probe.labels_per_class: expected at least one number")
        check(all(n == -1 or n >= 2 for n in self.labels_per_class), "probe.labels_per_class: expected -1 (all) or 2 and more")
        check(bool(self.base_lrs), "probe.base_lrs: expected at least one learning rate")
        check(
            bool(self.zero_shot_templates) and all("{}" in template for template in self.zero_shot_templates),
            f"probe.zero_shot_templates: expected texts with {{}} where the class goes, found {list(self.zero_shot_templates)}",
        )


@dataclass(frozen=True)
class GateConfig:
    """gate: what an encoder must reach before it is deployed."""

    min_accuracy: float = 0.0
    min_over_random_init: float = 0.05
    max_below_champion: float = 0.02  # of the interval's upper end
    has_catalogue: bool = True


@dataclass(frozen=True)
class LaunchConfig:
    """pretrain: where the training job runs. Facts of a cluster, most often set by its platform team (STABLEREP_CLUSTER)."""

    backend: Literal["local", "trainjob", "volcano"] = "local"
    namespace: str = ""  # empty: the launcher's own
    image: str = ""  # of the training processes, by digest; empty: STABLEREP_TRAIN_IMAGE, which the compiled pipeline sets
    runtime: str = "stablerep-deepspeed"  # TrainingRuntime, for trainjob
    queue: str = ""  # Kueue LocalQueue (trainjob) or Volcano queue
    priority_class: str = ""
    service_account: str = "stablerep-train"
    store_secret: str = "stablerep-store"  # Secret and ConfigMap of this name become the environment of every process, where they exist
    gpus_per_process: int = 1  # 0: train on CPUs
    gpu_resource: str = "nvidia.com/gpu"
    cpus_per_process: int = 0  # 0: one and one a loader worker
    memory_gib_per_process: int = 0  # 0: 32 with a GPU, else 4
    shared_memory_gib: int = 16  # /dev/shm of a node
    node_selector: tuple[str, ...] = ()  # key=value
    tolerations: tuple[str, ...] = ()  # key[=value]:effect, as kubectl taint writes them
    queue_timeout_seconds: int = 604_800  # Suspended or without a place
    start_timeout_seconds: int = 1_800  # placed, images pulled, containers started
    heartbeat_timeout_seconds: int = 1_800  # running without a step
    max_preemptions: int = 20  # ends by eviction or exit 75 that are followed by another attempt
    grace_seconds: int = 120  # to save in, when asked to stop

    def __post_init__(self) -> None:
        """Check ranges and what must agree."""
        check(self.gpus_per_process in (0, 1), f"launch.gpus_per_process: expected 0 or 1, found {self.gpus_per_process}")
        for name in ("cpus_per_process", "memory_gib_per_process", "shared_memory_gib", "max_preemptions"):
            check(getattr(self, name) >= 0, f"launch.{name}: expected 0 or more, found {getattr(self, name)}")
        for name in ("queue_timeout_seconds", "start_timeout_seconds", "heartbeat_timeout_seconds", "grace_seconds"):
            check(getattr(self, name) >= 1, f"launch.{name}: expected 1 or more, found {getattr(self, name)}")
        for word in self.node_selector:
            check(word.find("=") > 0, f"launch.node_selector: expected key=value, found {word!r}")
        for word in self.tolerations:
            is_known = word.partition(":")[2] in ("NoSchedule", "PreferNoSchedule", "NoExecute") and not word.startswith((":", "="))
            check(is_known, f"launch.tolerations: expected key[=value]:effect, as in nvidia.com/gpu:NoSchedule, found {word!r}")


@dataclass(frozen=True)
class DeployConfig:
    """deploy and verify: the endpoint, and on a cluster how traffic moves to a new encoder."""

    name: str = "stablerep"
    backend: Literal["local", "standard_canary", "knative_canary", "blue_green"] = "local"
    namespace: str = ""  # empty: the namespace of the stage
    runtime: str = "stablerep-encoder"  # ServingRuntime
    service_account: str = "stablerep-serve"
    autoscaler: Literal["none", "hpa", "keda", "knative"] = "none"
    min_replicas: int = 1
    max_replicas: int = 1
    gpus: int = 0
    runtime_engine: Literal["torch", "torch_compile", "onnx"] = "torch"  # what runs the trunk; onnx: on CPUs, from a file that export adds
    gateway: str = ""  # namespace/name of the Gateway whose HTTPRoute splits traffic, for standard_canary
    canary_percents: tuple[int, ...] = (5, 25, 50)
    step_seconds: float = 120.0  # how long every step is watched
    prometheus_url: str = ""  # what judges a step; required where there are steps
    max_error_ratio: float = 0.01
    max_p99_seconds: float = 1.0
    port: int = 8080
    grpc_port: int = 8081
    ready_timeout_seconds: float = 90.0
    num_golden: int = 8
    max_difference: float = 1e-4
    max_image_bytes: int = 8_388_608
    max_image_pixels: int = 25_000_000
    max_batch: int = 64

    def __post_init__(self) -> None:
        """Check ranges and refuse combinations that KServe cannot serve."""
        is_knative = self.backend == "knative_canary"
        check(
            self.runtime_engine != "onnx" or self.gpus == 0,
            f"deploy.runtime_engine=onnx: expected deploy.gpus=0, found {self.gpus}; ONNX Runtime is used on CPUs, torch on GPUs",
        )
        check(
            self.autoscaler == "none" or is_knative == (self.autoscaler == "knative"),
            f"deploy.autoscaler={self.autoscaler}: expected knative with knative_canary, hpa or keda with standard_canary "
            f"or blue_green, found deploy.backend={self.backend}",
        )
        check(
            self.backend != "local" or self.autoscaler == "none",
            f"deploy.autoscaler={self.autoscaler}: expected none with deploy.backend=local; an endpoint on this machine does not scale",
        )
        check(
            self.min_replicas >= 1 or is_knative,
            f"deploy.min_replicas: expected 1 or more, found {self.min_replicas}; only deploy.backend=knative_canary scales to zero",
        )
        check(
            self.max_replicas >= max(self.min_replicas, 1), f"deploy.max_replicas: expected min_replicas or more, found {self.max_replicas}"
        )
        check(
            self.backend != "standard_canary" or self.gateway.count("/") == 1,
            f"deploy.gateway: expected namespace/name of a Gateway with deploy.backend=standard_canary, found {self.gateway!r}",
        )
        check(
            not self.has_steps or self.prometheus_url.startswith(("http://", "https://")),
            f"deploy.prometheus_url: expected the URL of the Prometheus that judges the canary, found {self.prometheus_url!r}",
        )
        percents = self.canary_percents
        check(
            all(0 < percent < 100 for percent in percents) and list(percents) == sorted(set(percents)),
            f"deploy.canary_percents: expected rising numbers from 1 to 99, found {list(percents)}",
        )
        for name, port in (("port", self.port), ("grpc_port", self.grpc_port)):
            check(0 <= port <= 65535, f"deploy.{name}: expected 0 (any free) to 65535, found {port}")

    @property
    def has_steps(self) -> bool:
        """Whether traffic moves in steps that Prometheus judges."""
        return self.backend in ("standard_canary", "knative_canary") and bool(self.canary_percents)


@dataclass(frozen=True)
class Recipe:
    """A named run: every stage's configuration."""

    name: str
    description: str
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    deploy: DeployConfig = field(default_factory=DeployConfig)

    def __post_init__(self) -> None:
        """Check what must agree between stages."""
        check(
            bool(self.generator.lora) or not self.generate.num_base_steps,
            f"generate.num_base_steps={self.generate.num_base_steps}: expected generator.lora=<file.safetensors>, the student that makes "
            "the steps after them, found none",
        )
        check(
            self.generate.images_per_caption >= 2 or self.pretrain.objective != "multi_positive",
            "generate.images_per_caption: expected 2 or more (images of a caption are each other's positives), found 1",
        )
        check(
            self.pretrain.images_per_caption <= self.generate.images_per_caption,
            f"pretrain.images_per_caption: expected at most generate.images_per_caption={self.generate.images_per_caption}, "
            f"found {self.pretrain.images_per_caption}",
        )
        check(
            "zero_shot" not in self.probe.probes or self.pretrain.has_text,
            f"probe.probes: expected a text tower for zero_shot, found pretrain.objective={self.pretrain.objective} without one; take "
            "zero_shot out or set pretrain.text_weight=1",
        )
