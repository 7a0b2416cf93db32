"""An exported encoder with random weights, and images to send to it."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

SIZE_PX = 32
CAPTIONS = ("a handwritten zero", "a tilted thick one", "a small seven", "a handwritten two", "three", "four")


def write_encoder(folder: Path, seed: int, *, has_text: bool = True, size_px: int = SIZE_PX, depth: int = 2) -> str:
    """Write `models/<model_id>`-like files to `folder`; equal seeds give equal models. Returns the model id."""
    from stablerep.batches.tokenize import build_tokenizer
    from stablerep.models import HeadSpec, ModelSpec, TextSpec, TrunkSpec, build_two_tower, default_preprocessor, save_encoder

    tokenizer = build_tokenizer(CAPTIONS, vocabulary="captions", vocabulary_size=300, context_length=12)
    spec = ModelSpec(
        TrunkSpec("vit_tiny_patch16_224", size_px=size_px, patch_px=8, width=48, depth=depth, num_heads=2, mlp_ratio=2.0),
        HeadSpec(num_layers=2, hidden_dim=32, out_dim=16),
        TextSpec(tokenizer.vocabulary_size, tokenizer.eot_id, 12, width=32, depth=1, num_heads=2, out_dim=16) if has_text else None,
    )
    saved = save_encoder(
        folder,
        build_two_tower(spec, seed=seed),
        config={"seed": seed},
        preprocessor=default_preprocessor(size_px),
        tokenizer_json=tokenizer.to_json() if has_text else "",
    )
    return saved.model_id


def picture(seed: int, *, size: tuple[int, int] = (SIZE_PX, SIZE_PX), image_format: str = "PNG") -> bytes:
    """A random image file, width x height; smooth, so that lossy formats keep it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(content, image_format)
    return content.getvalue()
