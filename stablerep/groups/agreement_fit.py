"""The small two-tower model that says whether a picture shows its caption, trained on the real pairs of packaged captions.

It is CLIP (arXiv 2103.00020) at the scale of the embedded generator: this project's own towers and image-text loss, no head. What ships
under `groups/embedded/agreement_mnist` was made by `python -m stablerep.groups.agreement_fit mnist FOLDER`. Only the train part of the data
is read, and every random number comes from (seed, purpose, step), so equal fits give equal weights on one kind of machine.

Dimension key: B pairs of a batch, S image side, T tokens, D embedding.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from stablerep.batches.augment import Augmenter
from stablerep.batches.batch import caption_label
from stablerep.batches.tokenize import build_tokenizer
from stablerep.captions.clean import caption_id
from stablerep.captions.packaged import PackagedImages, load_packaged
from stablerep.config.schema import AugmentConfig
from stablerep.errors import DivergenceError
from stablerep.groups.fit_training import batch_indices, learning_rate
from stablerep.losses import image_text
from stablerep.models import (
    HeadSpec,
    ModelSpec,
    TextSpec,
    TrunkSpec,
    TwoTower,
    add_files,
    build_two_tower,
    default_preprocessor,
    normalisation,
    save_encoder,
    weight_decay_groups,
)
from stablerep.models.folder import SavedEncoder

CARD = "README.md"

_AUGMENT = AugmentConfig(
    crop_scale_min=0.8,
    is_flipped=False,
    jitter=0.2,
    jitter_probability=1.0,
    hue=0.0,
    grey_probability=0.0,
    blur_probability=0.2,
    rotation_degrees=3.0,
    noise=0.05,
)  # weaker than in training: slant, width and weight are part of what captions say


@dataclass(frozen=True)
class AgreementSettings:
    """Everything besides data, seed and number of steps that decides the weights."""

    batch_size: int = 192
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    vocabulary_size: int = 320
    context_length: int = 20
    width: int = 64
    depth: int = 4
    patch_px: int = 8
    out_dim: int = 48
    augment: AugmentConfig = field(default_factory=lambda: _AUGMENT)


def fit_agreement(
    data: PackagedImages,
    folder: Path,
    *,
    num_steps: int,
    seed: int,
    settings: AgreementSettings | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> SavedEncoder:
    """Train the model on pairs of image and caption and write it as an encoder folder with its card.

    Args:
        data: the train part of packaged data.
        folder: made when missing; see `models.save_encoder`.
        num_steps: of the optimiser.
        seed: of weights, order and augmentation.
        settings: of model and optimiser.
        on_step: called with each step and its loss.

    Raises:
        DivergenceError: the loss is not finite.
    """
    settings = settings or AgreementSettings()
    tokenizer = build_tokenizer(
        data.captions, vocabulary="captions", vocabulary_size=settings.vocabulary_size, context_length=settings.context_length
    )
    size_px = data.images.shape[1]
    model = build_two_tower(_spec(settings, size_px, tokenizer.vocabulary_size, tokenizer.eot_id), seed=seed)
    _train(model, data, tokenizer.encode(data.captions), settings, num_steps, seed, on_step)
    model.eval()
    config = {"data": data.name, "num_pairs": len(data.captions), "num_steps": num_steps, "seed": seed, "objective": "image_text"}
    saved = save_encoder(folder, model, config=config, preprocessor=default_preprocessor(size_px), tokenizer_json=tokenizer.to_json())
    add_files(folder, {CARD: _card(data, num_steps, seed)})
    return saved


def _spec(settings: AgreementSettings, size_px: int, vocabulary_size: int, eot_id: int) -> ModelSpec:
    width, heads = settings.width, max(1, settings.width // 16)
    return ModelSpec(
        TrunkSpec("vit_tiny_patch16_224", size_px, settings.patch_px, width, settings.depth, heads, 3.0),
        HeadSpec(num_layers=2, hidden_dim=2 * width, out_dim=settings.out_dim, per_view=False),
        TextSpec(vocabulary_size, eot_id, settings.context_length, width, 2, heads, settings.out_dim, "mlp"),
        has_head=False,
    )


def _train(
    model: TwoTower,
    data: PackagedImages,
    tokens_NT: torch.Tensor,
    settings: AgreementSettings,
    num_steps: int,
    seed: int,
    on_step: Callable[[int, float], None] | None,
) -> None:
    size_px = data.images.shape[1]
    mean, std = normalisation(size_px)
    augmenter = Augmenter(settings.augment, size_px=size_px, mean=mean, std=std, seed=seed)
    images_N3SS = torch.tensor(data.images)[:, None].expand(-1, 3, -1, -1)
    labels_N = torch.tensor([caption_label(caption_id(caption)) for caption in data.captions], dtype=torch.int64)
    optimizer = _optimizer(model, settings)
    model.train()
    for step in range(num_steps):
        rows_B = batch_indices(len(images_N3SS), settings.batch_size, seed, "agreement", step)
        labels_B = labels_N[rows_B]
        view_B3SS = augmenter(images_N3SS[rows_B], labels_B, rows_B, step)
        output = model(view_B3SS[None], tokens_NT[rows_B])
        loss = image_text(output.image_text_BD, output.text_ND, labels_B, labels_B, output.logit_scale)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings.lr, step, num_steps, settings.warmup_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = float(loss.detach())
        if value != value or value == float("inf"):
            raise DivergenceError(f"agreement model: expected a finite loss, found {value} at step {step}; lower its learning rate")
        if on_step:
            on_step(step, value)


def _optimizer(model: TwoTower, settings: AgreementSettings) -> torch.optim.Optimizer:
    parameters = dict(model.named_parameters())
    decayed, others = weight_decay_groups(model)
    groups = [
        {"params": [parameters[name] for name in names], "weight_decay": decay}
        for names, decay in ((decayed, settings.weight_decay), (others, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98))


def _card(data: PackagedImages, num_steps: int, seed: int) -> str:
    libraries = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("torch", "timm", "tokenizers", "numpy"))
    return f"""---
license: {data.licence.lower().replace(" ", "-")}
---

# Prompt agreement on `{data.name}`

A two-tower model of 32x32 pictures and captions such as *a photo of a wide right leaning seven in bold pen*. The cosine of a picture
and its caption is the agreement that `quality.*` compares with a threshold. It knows the words of its captions and nothing else.

- Fitted to {len(data.captions)} images and their derived captions, the train part only. Source: {data.source}.
- Licence of the data: {data.licence}. The weights are distributed under the same terms: keep this attribution when you pass them on.
- `python -m stablerep.groups.agreement_fit {data.name} FOLDER`: {num_steps} steps, seed {seed}, CLIP's loss; {libraries}.
- Measured by `benchmarks/quality.py`; see `benchmarks/results/`.
"""


def main() -> None:
    """`python -m stablerep.groups.agreement_fit DATA FOLDER`: fit what ships, in some minutes of one core."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    name, folder = sys.argv[1:3]

    def tell(step: int, loss: float) -> None:
        if step % 50 == 0:
            logging.info("step %d loss %.4f", step, loss)

    saved = fit_agreement(load_packaged(name), Path(folder), num_steps=600, seed=0, on_step=tell)
    logging.info("%s in %s", saved.model_id, folder)


if __name__ == "__main__":
    main()
