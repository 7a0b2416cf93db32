"""What can be configured of quality: what is measured of images and groups, what becomes of those that fail, what stops a run.

Read through `config.schema`, which holds the other stages. `scorer` judges images while they are made and may send them back; `judge` is
another model, which measures the groups that were kept before any training is paid for. `auto` is what ships with the data of the recipe.
"""

from dataclasses import dataclass
from typing import Literal

from stablerep.config.checks import check

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class QualityConfig:
    """generate and commit: scores of images, the policy for those that fail, purity and diversity of groups."""

    scorer: str = AUTO  # auto, none, embedded:<name>, or a folder or URI: open_clip, a CLIP of transformers, an encoder of this project
    policy: Literal["keep", "drop", "down_weight", "regenerate"] = "keep"
    min_agreement: float = -1.0  # cosine of an image and its caption; -1: off
    min_group_agreement: float = -1.0  # mean over a group; below, all its images fail
    max_centroid_distance: float = 2.0  # 1 - cosine of an image and the mean of the others of its group; 2: off
    down_weight: float = 0.25  # weight in the loss of an image that fails, with policy down_weight
    judge: str = AUTO  # auto, none, packaged:<name> (a classifier of its training images), or a folder or URI of an embedding model
    num_judged_groups: int = 400
    warn_purity: float = 0.95
    min_purity: float = 0.8
    allow_low_purity: bool = False

    def __post_init__(self) -> None:
        """Check ranges and what must agree."""
        for name in ("min_agreement", "min_group_agreement"):
            check(-1 <= getattr(self, name) <= 1, f"quality.{name}: expected a cosine from -1 (off) to 1, found {getattr(self, name)}")
        check(
            0 <= self.max_centroid_distance <= 2,
            f"quality.max_centroid_distance: expected 0 to 2 (off), found {self.max_centroid_distance}",
        )
        check(0 <= self.down_weight < 1, f"quality.down_weight: expected 0 to below 1, found {self.down_weight}")
        check(self.num_judged_groups >= 2, f"quality.num_judged_groups: expected 2 or more, found {self.num_judged_groups}")
        check(
            0 <= self.min_purity <= self.warn_purity <= 1,
            f"quality.min_purity: expected 0 <= min_purity <= warn_purity <= 1, found {self.min_purity} and {self.warn_purity}",
        )
        check(
            self.policy == "keep" or self.scorer != NONE,
            f"quality.policy={self.policy}: expected a scorer to judge by, found quality.scorer=none; name one, or set quality.policy=keep",
        )
        check(
            self.policy == "keep" or self.has_threshold,
            f"quality.policy={self.policy}: expected a threshold that an image can fail, found min_agreement, min_group_agreement and "
            "max_centroid_distance all off; set one of them",
        )
        check(
            self.judge in (AUTO, NONE) or self.judge != self.scorer,
            f"quality.judge: expected another model than the scorer, which cannot judge itself, found {self.judge} in both",
        )

    @property
    def has_threshold(self) -> bool:
        """Whether an image can fail at all."""
        return self.min_agreement > -1 or self.min_group_agreement > -1 or self.max_centroid_distance < 2
