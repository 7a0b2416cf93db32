"""A frozen encoder: what probes measure and the endpoint serves.

Dimension key: B images, S pixels a side, F trunk features, N captions, T tokens, D shared image-text space. Always in evaluation mode and
without gradients. Images arrive resized and normalised (`preprocessor`); decoding is not done here.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stablerep.errors import ConfigError, DataError
from stablerep.models.preprocess import Preprocessor
from stablerep.models.two_tower import ModelSpec

_TEXT_BATCH = 256


@dataclass(frozen=True)
class TextParts:
    """What a StableRep+ encoder has beside the trunk."""

    tower: nn.Module
    image_projection: nn.Module
    text_projection: nn.Module
    logit_scale: float


class Encoder:
    """Images, and with a text tower captions, to embeddings.

    Attributes:
        model_id: content id of the exported files.
        spec: shapes of the model.
        preprocessor: how images must be prepared.
        embedding_dim: F.
        training: what the exporter wrote down about the training.
    """

    def __init__(
        self,
        trunk: nn.Module,
        text: TextParts | None,
        *,
        model_id: str,
        spec: ModelSpec,
        preprocessor: Preprocessor,
        embedding_dim: int,
        training: dict[str, Any],
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self._trunk, self._text = _frozen(trunk, self.device), text
        if text is not None:
            for part in (text.tower, text.image_projection, text.text_projection):
                _frozen(part, self.device)
        self.model_id, self.spec, self.preprocessor = model_id, spec, preprocessor
        self.embedding_dim, self.training = embedding_dim, training

    @property
    def has_text(self) -> bool:
        """Whether captions can be embedded."""
        return self._text is not None

    @property
    def trunk(self) -> nn.Module:
        """What `embed` runs, on the device of the encoder."""
        return self._trunk

    @property
    def size_px(self) -> int:
        """Side of the images, S."""
        return self.preprocessor.size_px

    @property
    def num_patches(self) -> int:
        """Tokens that the trunk reads of an image, beside its own."""
        return int(cast("Any", self._trunk).patch_embed.num_patches)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean subtracted from each channel."""
        return self.preprocessor.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation each channel is divided by."""
        return self.preprocessor.std

    @property
    def logit_scale(self) -> float:
        """Logarithm of the scale of image-text cosines, in [0, ln 100].

        Raises:
            ConfigError: the encoder has no text tower.
        """
        return self._text_parts().logit_scale

    def embed(self, images_B3SS: Tensor) -> Tensor:
        """CLS features [B, F], as the trunk gives them (not normalised), on the device of the encoder.

        Raises:
            DataError: not a batch of normalised float images of the encoder's size.
        """
        self._check_images(images_B3SS)
        with torch.no_grad():  # torch.compile does not take inference_mode
            return self._trunk(images_B3SS.to(self.device))

    def embed_image_for_text(self, images_B3SS: Tensor) -> Tensor:
        """Unit rows [B, D] to compare with `embed_text`.

        Raises:
            ConfigError: the encoder has no text tower.
            DataError: as `embed`.
        """
        return self.place_beside_text(self.embed(images_B3SS))

    def place_beside_text(self, features_BF: Tensor) -> Tensor:
        """Unit rows [B, D] of what `embed` gave, to compare with `embed_text`.

        Raises:
            ConfigError: the encoder has no text tower.
        """
        projection = self._text_parts().image_projection
        with torch.inference_mode():
            return functional.normalize(projection(features_BF.to(self.device)), dim=1)

    def embed_text(self, tokens_NT: Tensor) -> Tensor:
        """Unit rows [N, D] of tokenised captions.

        Raises:
            ConfigError: the encoder has no text tower.
            DataError: captions too long or without end-of-text token.
        """
        parts = self._text_parts()
        with torch.inference_mode():
            return functional.normalize(parts.text_projection(parts.tower(tokens_NT.to(self.device))), dim=1)

    def embed_labels(self, tokens_NT: Tensor, num_labels: int) -> Tensor:
        """Text embedding of each label: the mean over its templates, of unit length, [D, K] on the CPU.

        Args:
            tokens_NT: every label in every template, all templates of the first label first.
            num_labels: K.

        Raises:
            ConfigError: the encoder has no text tower.
            DataError: captions too long or without end-of-text token.
        """
        text_ND = torch.cat([self.embed_text(chunk).float().cpu() for chunk in tokens_NT.split(_TEXT_BATCH)])
        return functional.normalize(text_ND.unflatten(0, (num_labels, -1)).mean(dim=1), dim=-1).T

    def _text_parts(self) -> TextParts:
        if self._text is None:
            raise ConfigError(f"encoder {self.model_id}: expected a text tower, found none; train with pretrain.text_weight above 0")
        return self._text

    def _check_images(self, images: Tensor) -> None:
        expected = (3, self.size_px, self.size_px)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected or not images.is_floating_point():
            raise DataError(
                f"encoder {self.model_id}: expected normalised float images [B, {', '.join(map(str, expected))}], "
                f"found shape {tuple(images.shape)} of {images.dtype}"
            )


def _frozen(module: nn.Module, device: torch.device) -> nn.Module:
    return module.to(device).eval().requires_grad_(False)
