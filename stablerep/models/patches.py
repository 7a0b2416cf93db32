"""The patches of an image, seen and hidden: all tokens of a trunk, with some patches replaced by a learnt token (iBOT, arXiv 2111.07832).

Dimension key: B images, P patches, F trunk features, D dimensions of a prototype, K prototypes. The trunk itself is not changed, so that
what is exported is a plain vision transformer.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_STD = 0.02


def encode_tokens(trunk: nn.Module, images_B3HW: Tensor, mask_BP: Tensor | None = None, token_F: Tensor | None = None) -> Tensor:
    """Class token and patches after the final norm: [B, 1 + P, F]; row 0 is what `trunk(images_B3HW)` returns.

    Args:
        trunk: of `build_trunk`; other sizes than its own need `is_size_free`.
        images_B3HW: images.
        mask_BP: bool, patches that are hidden; None hides none.
        token_F: what stands in their place.
    """
    module = cast("Any", trunk)
    if mask_BP is None or token_F is None:
        return module.forward_features(images_B3HW)

    def hide(_: nn.Module, __: Any, patches: Tensor) -> Tensor:
        is_hidden = mask_BP.view(*patches.shape[:-1], 1)
        return torch.where(is_hidden, token_F.to(patches.dtype), patches)

    handle = module.patch_embed.register_forward_hook(hide)
    try:
        return module.forward_features(images_B3HW)
    finally:
        handle.remove()


class PrototypeHead(nn.Module):
    """Features to the cosines with K learnt prototypes, through an MLP with a narrow last layer; without norm layers.

    Args:
        in_dim: F.
        hidden_dim: between layers.
        out_dim: D.
        num_prototypes: K.
        num_layers: of the MLP.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_prototypes: int, num_layers: int = 3) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))
        self.prototype_KD = nn.Parameter(torch.randn(num_prototypes, out_dim))
        for linear in self.linears:
            nn.init.trunc_normal_(linear.get_parameter("weight"), std=_STD)
            nn.init.zeros_(linear.get_parameter("bias"))

    def forward(self, features_PF: Tensor) -> Tensor:
        """Cosines [P, K]."""
        hidden = features_PF
        for number, linear in enumerate(self.linears):
            hidden = linear(hidden if number == 0 else functional.gelu(hidden))
        return functional.normalize(hidden, dim=-1) @ functional.normalize(self.prototype_KD, dim=-1).T.to(hidden.dtype)
