"""The model that is trained: a trunk with its head and, for StableRep+, a text tower with the two projections to a shared space.

Dimension key: M views, N captions, B = M*N images in view-major order (image m*N + n is view m of caption n, so labels repeat, they do not
interleave), T tokens, F trunk features, D embedding. One text pass per caption. The specs are plain data: they travel in an exported
encoder's config.json, from which the model is built again.
"""

# pyright: reportUnknownMemberType=false
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from stablerep.errors import ConfigError, DataError
from stablerep.losses import LOG_SCALE_START, bounded_log_scale
from stablerep.models.chunks import in_chunks
from stablerep.models.heads import ProjectionHead
from stablerep.models.text import TextTower
from stablerep.models.trunk import build_trunk


@dataclass(frozen=True)
class TrunkSpec:
    """Arguments of `build_trunk`."""

    architecture: str = "vit_base_patch16_224"
    size_px: int = 224
    patch_px: int = 0
    width: int = 0
    depth: int = 0
    num_heads: int = 0
    mlp_ratio: float = 0.0


@dataclass(frozen=True)
class HeadSpec:
    """Arguments of `ProjectionHead` beside its input."""

    num_layers: int = 3
    hidden_dim: int = 4096
    out_dim: int = 256
    norm: Literal["batch", "layer"] = "batch"
    per_view: bool = True


@dataclass(frozen=True)
class TextSpec:
    """Arguments of `TextTower`, and the projections: "mlp" has the layers, hidden size and norm of the head."""

    vocabulary_size: int
    eot_id: int
    context_length: int = 77
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    out_dim: int = 512
    projection: Literal["linear", "mlp"] = "linear"


@dataclass(frozen=True)
class ModelSpec:
    """The whole model; without `text` it is StableRep, with it StableRep+.

    `has_head` is false where nothing looks at the head (CLIP, supervised); `head` is then the shape of the text projections only.
    """

    trunk: TrunkSpec
    head: HeadSpec
    text: TextSpec | None = None
    has_head: bool = True


class TwoTowerOutput(NamedTuple):
    """Embeddings of a batch, not normalised; the text parts are None without a text tower, `image_BD` without a head.

    `logit_scale` is the logarithm of the scale, already in [0, ln 100].
    """

    image_BD: Tensor | None
    image_text_BD: Tensor | None
    text_ND: Tensor | None
    logit_scale: Tensor | None


class TwoTower(nn.Module):
    """Views and captions to embeddings; see `build_two_tower`.

    Raises:
        ConfigError: some but not all of the text parts are given.
    """

    def __init__(
        self,
        trunk: nn.Module,
        head: nn.Module | None,
        text: TextTower | None,
        image_projection: nn.Module | None,
        text_projection: nn.Module | None,
        *,
        spec: ModelSpec,
        num_chunks: int = 1,
    ) -> None:
        super().__init__()
        if len({part is None for part in (text, image_projection, text_projection, spec.text)}) > 1:
            raise ConfigError("two-tower model: expected a text tower, its spec and both projections, or none of them")
        self.spec, self.num_chunks = spec, num_chunks
        self.trunk, self.head, self.text = trunk, head, text
        self.image_projection, self.text_projection = image_projection, text_projection
        # One element, not a scalar: DeepSpeed broadcasts parameters as bytes, which torch refuses for tensors without dimensions.
        self.logit_scale = nn.Parameter(torch.tensor([LOG_SCALE_START])) if text is not None else None

    def forward(self, views_MNCHW: Tensor, tokens_NT: Tensor | None = None) -> TwoTowerOutput:
        """Embeddings of the views (view-major, B = M*N) and of the captions.

        Raises:
            DataError: views that are not [M, N, C, H, W], or tokens missing where there is a text tower.
        """
        if views_MNCHW.ndim != 5:
            raise DataError(f"two-tower model: expected views [M, N, C, H, W], found shape {tuple(views_MNCHW.shape)}")
        num_views, num_captions = views_MNCHW.shape[:2]
        features_BF = self.embed_images(views_MNCHW.flatten(0, 1))
        image_BD = None if self.head is None else self.head(features_BF, num_views)
        if self.text is None or self.image_projection is None or self.text_projection is None or self.logit_scale is None:
            return TwoTowerOutput(image_BD, None, None, None)
        if tokens_NT is None or tokens_NT.shape[0] != num_captions:
            found = "none" if tokens_NT is None else f"shape {tuple(tokens_NT.shape)}"
            raise DataError(f"two-tower model: expected tokens of {num_captions} captions, found {found}")
        image_text_BD = self.image_projection(features_BF, num_views)
        text_ND = self.text_projection(in_chunks(self.text, tokens_NT, self.num_chunks))
        return TwoTowerOutput(image_BD, image_text_BD, text_ND, bounded_log_scale(self.logit_scale[0]))

    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """Features of the trunk, [B, F]; in chunks where the model has them."""
        return in_chunks(self.trunk, images_BCHW, self.num_chunks)


def build_two_tower(
    spec: ModelSpec,
    *,
    batch_norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
    seed: int | None = None,
    is_checkpointed: bool = False,
    is_size_free: bool = False,
    num_chunks: int = 1,
) -> TwoTower:
    """Build the model with random weights.

    Args:
        spec: shapes.
        batch_norm: makes the heads' batch norms (over ranks: `distributed.SyncBatchNorm1d`).
        seed: makes all weights a function of spec and seed and leaves the global generator alone.
        is_checkpointed: recompute the trunk's activations in backward.
        is_size_free: the trunk takes images of other sizes too.
        num_chunks: parts in which trunk and text tower take their rows in training; the heads, and so the batch norms, get all rows.

    Raises:
        ConfigError: shapes that do not fit together.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        trunk = build_trunk(**asdict(spec.trunk), is_checkpointed=is_checkpointed, is_size_free=is_size_free)
        features = num_features(trunk)
        head = _head(features, spec.head, batch_norm) if spec.has_head else None
        text, image_projection, text_projection = build_text_parts(spec, features, batch_norm)
        return TwoTower(trunk, head, text, image_projection, text_projection, spec=spec, num_chunks=num_chunks)


def build_text_parts(
    spec: ModelSpec, num_trunk_features: int, batch_norm: Callable[[int], nn.Module]
) -> tuple[TextTower | None, ProjectionHead | None, ProjectionHead | None]:
    """The text tower, the image projection and the text projection; three None without a text spec."""
    text = spec.text
    if text is None:
        return None, None, None
    tower = TextTower(text.vocabulary_size, text.context_length, text.width, text.depth, text.num_heads, text.eot_id)
    shape = replace(spec.head, out_dim=text.out_dim, num_layers=1 if text.projection == "linear" else spec.head.num_layers)
    return tower, _head(num_trunk_features, shape, batch_norm), _head(text.width, shape, batch_norm)


def num_features(trunk: nn.Module) -> int:
    """Features per image of a trunk, F."""
    return cast("int", trunk.num_features)


def _head(in_dim: int, spec: HeadSpec, batch_norm: Callable[[int], nn.Module]) -> ProjectionHead:
    return ProjectionHead(in_dim, spec.hidden_dim, spec.out_dim, spec.num_layers, spec.norm, batch_norm, spec.per_view)
