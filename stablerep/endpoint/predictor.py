"""Image bytes in, embedding out, with no server around it; scores of texts where the encoder has a text tower.

An image is refused by its header, decoded, resized, cropped and normalised as `preprocessor.json` says, embedded, and on request
compared with labels as in CLIP: every label through every template, text embeddings averaged and normalised, softmax of the scaled
cosines (https://arxiv.org/abs/2103.00020, section 3.1.4). `prepare`, `forward` and `finish` are the three steps that a server runs in
different threads; `predict` is all of them. `embed_texts` is the other tower alone.

Dimension key: N images, H and W pixels, S the encoder's size, F embedding, D the space shared with text, K labels, P templates.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import functools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from stablerep.batches.tokenize import PAD_ID, CaptionTokenizer
from stablerep.endpoint.compute import Compute, accelerated
from stablerep.endpoint.facts import facts_of
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.preprocess import file_of_pixels, preprocess_image
from stablerep.endpoint.reference import REFERENCE_FILE, Neighbours, load_references
from stablerep.errors import BadImageError, CannotAnswerError, DivergenceError, RequestError
from stablerep.models import load_encoder
from stablerep.models.onnx_trunk import load_onnx_trunk

Array = np.ndarray[Any, np.dtype[Any]]
_NUM_LABEL_SETS_KEPT = 32
_TEXT_BATCH = 256
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Question:
    """What is asked about the images of a request.

    Attributes:
        labels: to be scored, in `templates`.
        templates: texts with `{}` where the label goes.
        is_normalised: whether embeddings are to have unit length.
        is_beside_text: whether embeddings are wanted in the space shared with text, [D], instead of features, [F].
        is_half: whether embeddings leave as float16.
        num_neighbours: references to find for each image.
    """

    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("{}",)
    is_normalised: bool = False
    is_beside_text: bool = False
    is_half: bool = False
    num_neighbours: int = 0

    @property
    def needs_text(self) -> bool:
        """Whether only an encoder with a text tower can answer."""
        return bool(self.labels) or self.is_beside_text


class PreparedImage(NamedTuple):
    """An image as the trunk takes it, and whether its place beside texts is wanted."""

    image_3SS: Tensor
    needs_text: bool


class Answer(NamedTuple):
    """What the model says about one image; the second is None where nothing was asked about texts."""

    embedding_F: Tensor
    beside_text_D: Tensor | None


@dataclass(frozen=True)
class Prediction:
    """Embeddings [N, F] (or [N, D]) and, where labels were given, probabilities [N, K] that sum to 1 over the labels."""

    embedding_NF: Array
    scores_NK: Array | None
    labels: tuple[str, ...]
    neighbours: Neighbours | None = None


class Predictor:
    """One exported encoder.

    Args:
        folder: `models/<model_id>` on this machine; its digests are verified.
        limits: what a caller may send.
        compute: how the trunk is run.

    Raises:
        CheckpointError: the folder is incomplete or damaged.
    """

    def __init__(self, folder: Path, limits: Limits, compute: Compute | None = None) -> None:
        self.compute = compute or Compute()
        self._encoder = load_encoder(folder, self.compute.chosen_device)
        embed = load_onnx_trunk(folder, self._encoder) if self.compute.is_onnx else self._encoder.embed
        self._embed = accelerated(embed, self.compute, self._encoder.size_px)
        self._limits = limits
        self._preprocessor = self._encoder.preprocessor
        self._tokenizer = CaptionTokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8")) if self.has_text else None
        self._references = load_references(folder, self.model_id, self.embedding_dim)
        self._text_lock = threading.Lock()
        self._text_DK = functools.lru_cache(_NUM_LABEL_SETS_KEPT)(self._embed_labels)
        self.facts = facts_of(folder, self._encoder, len(self._references) if self._references else 0)

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

    @property
    def num_patches(self) -> int:
        """Tokens that the trunk reads of an image."""
        return self._encoder.num_patches

    def dimensions(self, question: Question) -> int:
        """Numbers in an embedding that answers `question`: F, or D beside text (0 where there is none)."""
        return int(self.facts.metadata["text_dim"] or 0) if question.is_beside_text else self.embedding_dim

    def warm_up(self) -> None:
        """Run everything once on an empty image, so that the first caller does not wait for it.

        A compiled trunk runs on two images as well: torch.compile makes one program for a lone image and one for any number above.

        Raises:
            DivergenceError: the encoder gives numbers that are not finite.
        """
        size = self._preprocessor.size_px
        question = Question(labels=("warm", "up") if self.has_text else ())
        for num_images in (1, 2) if self.compute.is_compiled else (1,):
            self.predict(np.zeros((num_images, size, size, 3), np.uint8), question)

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
            UnsupportedFormatError: an image of another format.
            CannotAnswerError: texts for an encoder without text, or neighbours without references.
        """
        self._check_possible(question)
        self._limits.check_batch(len(images))
        prepared: list[PreparedImage] = []
        errors: list[tuple[int, RequestError]] = []
        for position, image in enumerate(self._files_or_tensors(images)):
            try:
                image_3SS = preprocess_image(image, self._preprocessor, self._limits) if isinstance(image, bytes) else image
                prepared.append(PreparedImage(image_3SS, question.needs_text))
            except RequestError as error:
                errors.append((position, error))
        if errors:
            kinds = {type(error) for _, error in errors}
            kind = kinds.pop() if len(kinds) == 1 else BadImageError
            raise kind("; ".join(f"image {position} of {len(images)}: {error}" for position, error in errors[:8]))
        return prepared

    def forward(self, images: list[PreparedImage]) -> list[Answer]:
        """Run the encoder on images of any requests together; one answer each."""
        images_N3SS = torch.stack([image.image_3SS for image in images])
        asked = [position for position, image in enumerate(images) if image.needs_text]
        embedding_NF = self._embed(images_N3SS)
        beside_text_D = dict(zip(asked, self._encoder.place_beside_text(embedding_NF[asked]).float().cpu(), strict=True)) if asked else {}
        return [Answer(embedding_F, beside_text_D.get(position)) for position, embedding_F in enumerate(embedding_NF)]

    def finish(self, answers: Sequence[Answer], question: Question) -> Prediction:
        """Check, normalise and score the answers of one request.

        Raises:
            DivergenceError: an embedding is not finite.
        """
        embedding_NF = torch.stack([answer.embedding_F for answer in answers])
        if not bool(torch.isfinite(embedding_NF).all()):
            raise DivergenceError(f"model {self.model_id}: expected finite embeddings, found NaN or infinity; the encoder is damaged")
        neighbours = None
        if question.num_neighbours and self._references:
            neighbours = self._references.search(embedding_NF.numpy(), question.num_neighbours)
        beside_text_ND = torch.stack([cast("Tensor", answer.beside_text_D) for answer in answers]) if question.needs_text else embedding_NF
        scores_NK = None
        if question.labels:
            logits_NK = math.exp(self._encoder.logit_scale) * beside_text_ND @ self._text_DK(question.labels, question.templates)
            scores_NK = torch.softmax(logits_NK, dim=-1).numpy()
        wanted = beside_text_ND if question.is_beside_text else embedding_NF
        if question.is_normalised:
            wanted = torch.nn.functional.normalize(wanted, dim=-1)
        return Prediction(_as_asked(wanted.numpy(), question), scores_NK, question.labels, neighbours)

    @staticmethod
    def norms(answers: Sequence[Answer]) -> list[float]:
        """Lengths of the embeddings, before anything that was asked is done to them."""
        return torch.stack([answer.embedding_F for answer in answers]).norm(dim=1).tolist()

    def embed_texts(self, texts: Sequence[str], question: Question) -> tuple[Array, int]:
        """Unit embeddings [N, D] of texts, to compare with images that were asked for beside texts; and the number of tokens read.

        Raises:
            CannotAnswerError: the encoder has no text tower.
        """
        self._check_possible(Question(is_beside_text=True))
        assert self._tokenizer is not None
        tokens_NT = self._tokenizer.encode(texts)
        return _as_asked(self._embed_tokens(tokens_NT).numpy(), question), int((tokens_NT != PAD_ID).sum())

    def _check_possible(self, question: Question) -> None:
        if question.needs_text and not self.has_text:
            raise CannotAnswerError(f"model {self.model_id} has no text tower; ask for embeddings of images without labels")
        if question.num_neighbours and self._references is None:
            raise RequestError(f"neighbours: {REFERENCE_FILE} is not beside {self.model_id}; put it there, or ask without neighbours")

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

    def _embed_tokens(self, tokens_NT: Tensor) -> Tensor:
        with self._text_lock:
            return torch.cat([self._encoder.embed_text(chunk).float().cpu() for chunk in tokens_NT.split(_TEXT_BATCH)])


def _as_asked(embedding_NF: Array, question: Question) -> Array:
    if not question.is_half:
        return embedding_NF
    if float(np.abs(embedding_NF).max(initial=0.0)) > _LARGEST_HALF:
        raise CannotAnswerError(f"an embedding has numbers over {_LARGEST_HALF:g}, which float16 cannot hold; ask for fp32, or normalise")
    return embedding_NF.astype(np.float16)
