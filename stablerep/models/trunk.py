"""The vision transformer that is kept: a timm architecture by name, with its shape adjusted.

Dimension key: B images, H x W pixels, F trunk features. The features of an image are its CLS token after the final norm, what
`trunk(images_B3HW)` returns. Weights are always random at first: nothing is downloaded.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import difflib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from stablerep.errors import ConfigError


def build_trunk(
    architecture: str,
    *,
    size_px: int = 224,
    patch_px: int = 0,
    width: int = 0,
    depth: int = 0,
    num_heads: int = 0,
    mlp_ratio: float = 0.0,
    seed: int | None = None,
    is_checkpointed: bool = False,
    is_filled_later: bool = False,
    is_size_free: bool = False,
) -> nn.Module:
    """A timm vision transformer without classifier; zeros mean: as the architecture says.

    Args:
        architecture: timm's name, for example vit_base_patch16_224.
        size_px: side of the square images.
        patch_px: side of a patch.
        width: features of a token, F.
        depth: number of blocks.
        num_heads: attention heads per block.
        mlp_ratio: hidden features of a block's MLP over its width.
        seed: makes the initial weights a function of the arguments, whatever was drawn before, and leaves the global generator alone.
        is_checkpointed: recompute activations in backward (less memory, a third more time).
        is_filled_later: spare the time that timm's own initial weights take; every weight must be loaded before use.
        is_size_free: take images of other sizes too, with positions interpolated; weights and what is done with `size_px` are the same.

    Returns:
        A module with `.num_features`; `trunk(images_B3HW)` is [B, F].

    Raises:
        ConfigError: unknown architecture, one without a class token, or a shape that does not fit together.
    """
    numbers = {"size_px": size_px, "patch_px": patch_px, "width": width, "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
    for name, number in numbers.items():
        if number < 0 or (name == "size_px" and number < 1):
            raise ConfigError(
                f"trunk.{name}: expected {'1 or more' if name == 'size_px' else '0 (as the architecture) or more'}, found {number}"
            )
    overrides = {"patch_size": patch_px, "embed_dim": width, "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        numbers = {"img_size": size_px} | {name: value for name, value in overrides.items() if value}
        options: dict[str, Any] = {"weight_init": "skip"} if is_filled_later else {}
        trunk = _create(architecture, numbers, options | ({"dynamic_img_size": True} if is_size_free else {}))
    _check_shape(trunk, architecture, size_px)
    if is_checkpointed:
        trunk.set_grad_checkpointing(True)
    return cast("nn.Module", trunk)


def compile_trunk(trunk: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have torch compile the trunk at its first call, in place; names of weights stay.

    The text tower and the heads stay as they are: they are small, and their checks and collectives would break the graph. The last digits
    differ from those of the trunk as it was.

    Args:
        trunk: what `build_trunk` made.
        backend: of torch.compile; inductor needs a C++ compiler (on a GPU, Triton) and about a minute at the first call.
    """
    trunk.compile(backend=backend)


def _create(architecture: str, arguments: dict[str, Any], options: dict[str, Any]) -> Any:
    import timm  # 4 s: paid by those who build a trunk

    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models("*vit*"), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models('vit_*')"
        raise ConfigError(f"trunk.architecture: timm {timm.__version__} has no {architecture!r}; {hint}")
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="token", **arguments, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"trunk: {architecture} cannot be built with {arguments}: {error or type(error).__name__}") from error


def _check_shape(trunk: Any, architecture: str, size_px: int) -> None:
    from timm.models.vision_transformer import VisionTransformer

    is_pooled = isinstance(trunk, VisionTransformer) and trunk.cls_token is not None and not hasattr(trunk, "dist_token")
    if not is_pooled:
        found = f"{architecture} ({type(trunk).__name__})"
        raise ConfigError(f"trunk.architecture: expected a vision transformer whose feature is its class token, found {found}")
    patch_px = trunk.patch_embed.patch_size[0]
    if size_px % patch_px:
        fits = ", ".join(str(size) for size in (size_px - size_px % patch_px, size_px - size_px % patch_px + patch_px) if size)
        raise ConfigError(f"trunk.size_px: expected a multiple of the patch side {patch_px}, found {size_px}; {fits} would fit")
