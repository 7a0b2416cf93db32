"""Three libraries behind one interface: images and a caption to rows of length 1.

Each class takes the images of one group at a time, so what an image gets does not depend on other groups. Image-only models (DINO, or an
encoder of this project without text) can judge groups but not score agreement.

Dimension key: M images of a caption, H and W pixels, S side the model wants, D embedding, T tokens.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stablerep.errors import ConfigError
from stablerep.groups.inspection import FloatArray
from stablerep.groups.sampler import ImageHW3


class _Towers(ABC):
    """What the three share: device, identity, and the way from tensors to rows."""

    def __init__(self, folder: Path, identity: str, device: str) -> None:
        self.identity, self._folder = identity, folder
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(chosen if device == "auto" else device)
        if self._device.type == "cpu":
            torch.set_num_threads(1)  # as the sampler does: lanes are processes, and digits stay equal between machines

    def embed_images(self, images: Sequence[ImageHW3]) -> FloatArray:
        """Rows of length 1: [M,D]."""
        with torch.inference_mode():
            return _rows(self._images(images))

    def embed_text(self, text: str) -> FloatArray:
        """A row of length 1: [D].

        Raises:
            ConfigError: the model has no text tower.
        """
        with torch.inference_mode():
            return _rows(self._text(text))[0]

    @abstractmethod
    def _images(self, images: Sequence[ImageHW3]) -> Tensor:
        """Features of images, of any length."""

    @abstractmethod
    def _text(self, text: str) -> Tensor:
        """Features of a caption, of any length: one row."""

    def _refuse_text(self) -> ConfigError:
        return ConfigError(
            f"quality.scorer {self._folder}: expected a model with a text tower, found images only; name a CLIP-style model, or "
            "use this one as quality.judge"
        )


class OwnTowers(_Towers):
    """An encoder folder that this project exported."""

    def __init__(self, folder: Path, identity: str, device: str) -> None:
        super().__init__(folder, identity, device)
        from stablerep.batches.tokenize import CaptionTokenizer
        from stablerep.models import load_encoder

        self._encoder = load_encoder(folder, self._device)
        tokenizer = folder / "tokenizer.json"
        self._tokenizer = CaptionTokenizer.from_json(tokenizer.read_text(encoding="utf-8")) if self._encoder.has_text else None

    def _images(self, images: Sequence[ImageHW3]) -> Tensor:
        prepared_M3SS = _prepared(images, self._encoder.preprocessor).to(self._device)
        return self._encoder.embed_image_for_text(prepared_M3SS) if self._encoder.has_text else self._encoder.embed(prepared_M3SS)

    def _text(self, text: str) -> Tensor:
        if self._tokenizer is None:
            raise self._refuse_text()
        return self._encoder.embed_text(self._tokenizer.encode([text]))


class OpenClipTowers(_Towers):
    """A folder with open_clip_config.json (https://github.com/mlfoundations/open_clip, `local-dir:`)."""

    def __init__(self, folder: Path, identity: str, device: str) -> None:
        super().__init__(folder, identity, device)
        import open_clip

        loaded: Any = open_clip.create_model_from_pretrained(f"local-dir:{folder}", device=self._device)
        self._model, self._transform = loaded[0].eval(), loaded[1]
        self._tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{folder}")

    def _images(self, images: Sequence[ImageHW3]) -> Tensor:
        return self._model.encode_image(torch.stack([self._transform(Image.fromarray(image)) for image in images]).to(self._device))

    def _text(self, text: str) -> Tensor:
        return self._model.encode_text(self._tokenizer([text]).to(self._device))


class TransformersTowers(_Towers):
    """A folder of transformers: CLIP, SigLIP and the like; or an image model such as DINOv2, for judging."""

    def __init__(self, folder: Path, identity: str, device: str) -> None:
        super().__init__(folder, identity, device)
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        model: Any = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True, trust_remote_code=False)
        self._model = model.to(self._device).eval()
        self._processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self._has_text = hasattr(model, "get_text_features")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True) if self._has_text else None

    def _images(self, images: Sequence[ImageHW3]) -> Tensor:
        pixels = self._processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"].to(self._device)
        return _pooled(self._model.get_image_features(pixel_values=pixels) if self._has_text else self._model(pixel_values=pixels))

    def _text(self, text: str) -> Tensor:
        if not self._has_text:
            raise self._refuse_text()
        length = int(self._model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer([text], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return _pooled(self._model.get_text_features(**{name: value.to(self._device) for name, value in tokens.items()}))


def _pooled(output: Any) -> Tensor:
    """The pooled features, whether a library hands them over alone or with others."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if pooled is None else pooled


def _rows(features_MD: Tensor) -> FloatArray:
    return functional.normalize(features_MD.double().cpu(), dim=1).numpy()


def _prepared(images: Sequence[ImageHW3], preprocessor: Any) -> Tensor:
    """Resized, cut and normalised as an exported encoder says: float32 [M,3,S,S]."""
    pixel_M3HW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(torch.float32) / 255
    height, width = pixel_M3HW.shape[2:]
    scale = preprocessor.resize / min(height, width)
    if scale != 1:
        size = (round(height * scale), round(width * scale))
        pixel_M3HW = functional.interpolate(pixel_M3HW, size=size, mode=preprocessor.interpolation, antialias=True).clamp(0, 1)
    top, left = ((side - preprocessor.crop) // 2 for side in pixel_M3HW.shape[2:])
    cut_M3SS = pixel_M3HW[:, :, top : top + preprocessor.crop, left : left + preprocessor.crop]
    mean_311, std_311 = (torch.tensor(values)[:, None, None] for values in (preprocessor.mean, preprocessor.std))
    return (cut_M3SS - mean_311) / std_311
