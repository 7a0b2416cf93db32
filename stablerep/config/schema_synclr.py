"""What can be configured of `pretrain.objective=synclr`, the successor of StableRep (arXiv 2312.17742).

Defaults are the paper's where docs/paper.md says so; the rest is the released training code's.
"""

from dataclasses import dataclass

from stablerep.config.checks import check


@dataclass(frozen=True)
class SynClrConfig:
    """Small crops, the teacher, and masked patches; the global crop is made as pretrain.augment says."""

    num_local_crops: int = 4  # of each image
    local_size_px: int = 96
    local_scale_min: float = 0.08  # share of the image that a small crop covers
    local_scale_max: float = 0.32
    teacher_momentum: float = 0.994  # rises to 1 as half a cosine
    predictor_layers: int = 2  # of the student alone, behind its head
    patch_weight: float = 1.0  # of the masked-patch loss; 0 leaves it out
    num_prototypes: int = 65_536
    prototype_hidden_dim: int = 2048
    prototype_dim: int = 256
    masked_images: float = 0.5  # share of the images of which patches are hidden
    masked_patches: float = 0.5  # share of their patches
    student_temperature: float = 0.1
    teacher_temperature_start: float = 0.04
    teacher_temperature: float = 0.07
    teacher_warmup_steps: int = 0  # from one temperature to the other

    def __post_init__(self) -> None:
        """Check ranges."""
        name = "pretrain.synclr"
        check(self.num_local_crops >= 0, f"{name}.num_local_crops: expected 0 or more, found {self.num_local_crops}")
        check(0 < self.local_scale_min <= self.local_scale_max <= 1, f"{name}.local_scale_min and _max: expected 0 < min <= max <= 1")
        check(0 <= self.teacher_momentum <= 1, f"{name}.teacher_momentum: expected 0 to 1, found {self.teacher_momentum:g}")
        check(0 < self.masked_images <= 1, f"{name}.masked_images: expected above 0 to 1, found {self.masked_images:g}")
        check(0 < self.masked_patches < 1, f"{name}.masked_patches: expected between 0 and 1, found {self.masked_patches:g}")
        check(self.num_prototypes >= 2, f"{name}.num_prototypes: expected 2 or more, found {self.num_prototypes}")
        check(
            min(self.student_temperature, self.teacher_temperature_start, self.teacher_temperature) > 0,
            f"{name}: expected temperatures above 0",
        )
