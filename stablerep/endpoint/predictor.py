"""Image bytes in, embedding out, with no server around it; scores of texts where the encoder has a text tower.

An image is refused by its header, decoded, resized, cropped and normalised as `preprocessor.json` says, embedded, and on request
compared with labels as in CLIP: every label through every template, text embeddings averaged and normalised, softmax of the scaled
cosines (https://arxiv.org/abs/2103.00020, section 3.1.4). `prepare`, `forward` and `finish` are the three steps that a server runs in
different threads; `predict` is all of them.

Dimension key: N images, H and W pixels, S the encoder's size, F embedding, D the space shared with text, K labels, P templates.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import functools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.preprocess import file_of_pixels, preprocess_image
from stablerep.errors import BadImageError, DivergenceError, RequestError, TooLargeError
from stablerep.models import load_encoder

Array = np.ndarray[Any, np.dtype[Any]]
_NUM_LABEL_SETS_KEPT = 32


@dataclass(frozen=True)
class Question:
    """What is asked about the images of a request: scores of `labels` in `templates`, and unit length of the embedding."""

    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("{}",)
    is_normalised: bool = False


class PreparedImage(NamedTuple):
    """An image as the trunk takes it, and whether its place beside texts is wanted."""

    image_3SS: Tensor
    has_labels: bool


class Answer(NamedTuple):
    """What the model says about one image; the second is None where no labels were given."""

    embedding_F: Tensor
    beside_text_D: Tensor | None


@dataclass(frozen=True)
class Prediction:
    """Float32 embeddings [N, F] and, where labels were given, probabilities [N, K] that sum to 1 over the labels."""

    embedding_NF: Array
    scores_NK: Array | None
    labels: tuple[str, ...]


class Predictor:
    """One exported encoder.

    Args:
        folder: `models/<model_id>` on this machine; its digests are verified.
        limits: what a caller may send.
        device: "auto" takes a GPU where there is one.

    Raises:
        CheckpointError: the folder is incomplete or damaged.
    """

    def __init__(self, folder: Path, limits: Limits, device: str = "auto") -> None:
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._encoder = load_encoder(folder, chosen)
        self._limits = limits
        self._preprocessor = self._encoder.preprocessor
        self._tokenizer = CaptionTokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8")) if self.has_text else None
        self._text_lock = threading.Lock()
        self._text_DK = functools.lru_cache(_NUM_LABEL_SETS_KEPT)(self._embed_labels)

    @property
    def model_id(self) -> str:
        """Id of the model."""
        return self._encoder.model_id

    @property
    def embedding_dim(self) -> int:
        """Numbers in an embedding, F."""
        return self._encoder.embedding_dim

    @property
    def has_text(self) -> bool:
        """Whether labels can be scored."""
        return self._encoder.has_text

    def warm_up(self) -> None:
        """Run everything once on an empty image, so that the first caller does not wait for it.

        Raises:
            DivergenceError: the encoder gives numbers that are not finite.
        """
        size = self._preprocessor.size_px
        question = Question(labels=("warm", "up") if self.has_text else ())
        self.predict(np.zeros((1, size, size, 3), np.uint8), question)

    def predict(self, images: Sequence[bytes] | Array, question: Question | None = None) -> Prediction:
        """Embed images in this thread.

        Args:
            images: encoded images; or uint8 [N, H, W, 3] pixels; or float32 [N, 3, S, S] as the preprocessor makes them.
            question: what is asked.

        Raises:
            RequestError: an image or the question is refused.
        """
        asked = question or Question()
        return self.finish(self.forward(self.prepare(images, asked)), asked)

    def prepare(self, images: Sequence[bytes] | Array, question: Question) -> list[PreparedImage]:
        """Check, decode and normalise; every bad image is named in the error.

        Raises:
            BadImageError: an image cannot be decoded, or an array is not of one of the two kinds.
            TooLargeError: an image or their number is over a limit.
            RequestError: labels for an encoder without text.
        """
        if question.labels and not self.has_text:
            raise RequestError(f"parameters.labels: model {self.model_id} has no text tower; ask for embeddings without labels")
        self._limits.check_batch(len(images))
        prepared: list[PreparedImage] = []
        errors: list[tuple[int, RequestError]] = []
        for position, image in enumerate(self._files_or_tensors(images)):
            try:
                image_3SS = preprocess_image(image, self._preprocessor, self._limits) if isinstance(image, bytes) else image
                prepared.append(PreparedImage(image_3SS, bool(question.labels)))
            except RequestError as error:
                errors.append((position, error))
        if errors:
            kind = BadImageError if any(isinstance(error, BadImageError) for _, error in errors) else TooLargeError
            raise kind("; ".join(f"image {position} of {len(images)}: {error}" for position, error in errors[:8]))
        return prepared

    def forward(self, images: list[PreparedImage]) -> list[Answer]:
        """Run the encoder on images of any requests together; one answer each."""
        images_N3SS = torch.stack([image.image_3SS for image in images])
        asked = [position for position, image in enumerate(images) if image.has_labels]
        embedding_NF = self._encoder.embed(images_N3SS).float().cpu()
        beside_text_D = dict(zip(asked, self._encoder.embed_image_for_text(images_N3SS[asked]).float().cpu(), strict=True)) if asked else {}
        return [Answer(embedding_F, beside_text_D.get(position)) for position, embedding_F in enumerate(embedding_NF)]

    def finish(self, answers: Sequence[Answer], question: Question) -> Prediction:
        """Check, normalise and score the answers of one request.

        Raises:
            DivergenceError: an embedding is not finite.
        """
        embedding_NF = torch.stack([answer.embedding_F for answer in answers])
        if not bool(torch.isfinite(embedding_NF).all()):
            raise DivergenceError(f"model {self.model_id}: expected finite embeddings, found NaN or infinity; the encoder is damaged")
        if question.is_normalised:
            embedding_NF = torch.nn.functional.normalize(embedding_NF, dim=-1)
        scores_NK = None
        if question.labels:
            beside_text_ND = torch.stack([answer.beside_text_D for answer in answers if answer.beside_text_D is not None])
            logits_NK = math.exp(self._encoder.logit_scale) * beside_text_ND @ self._text_DK(question.labels, question.templates)
            scores_NK = torch.softmax(logits_NK, dim=-1).numpy()
        return Prediction(embedding_NF.numpy(), scores_NK, question.labels)

    def _files_or_tensors(self, images: Sequence[bytes] | Array) -> Sequence[bytes] | list[Tensor]:
        if not isinstance(images, np.ndarray):
            return images
        size = self._preprocessor.size_px
        if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3 and min(images.shape) > 0:
            self._limits.check_pixels(images.shape[2], images.shape[1])
            return [file_of_pixels(pixels_HW3) for pixels_HW3 in images]
        if images.dtype != np.float32 or images.shape[1:] != (3, size, size):
            raise BadImageError(
                f"expected image files, uint8 [N, H, W, 3], or float32 [N, 3, {size}, {size}], found {images.dtype} {list(images.shape)}"
            )
        if not np.isfinite(images).all():
            raise BadImageError("expected finite numbers in the float32 tensor, found NaN or infinity")
        return list(torch.from_numpy(np.array(images)))

    def _embed_labels(self, labels: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        """Text embedding of each label: the mean over the templates, of unit length, [D, K]."""
        assert self._tokenizer is not None
        tokens = self._tokenizer.encode([template.replace("{}", label) for label in labels for template in templates])
        with self._text_lock:
            return self._encoder.embed_labels(tokens, len(labels))
