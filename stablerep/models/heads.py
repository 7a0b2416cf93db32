"""The projection that is dropped after training (SimCLR's head as StableRep and SynCLR use it).

Dimension key: M views (images of a caption), N captions, B = M*N rows in view-major order (all captions' first view, then their second),
F trunk features, D embedding. StableRep: three layers, batch norm and ReLU after the first two, each view its own batch for the norm.
SynCLR: layer norm and GELU, which does not diverge with ViT-L. The norm module is handed in, so this file knows nothing of ranks.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from stablerep.errors import ConfigError, DataError


class ProjectionHead(nn.Module):
    """(Linear, norm, activation) x (num_layers - 1), then Linear; with one layer, CLIP's projection: one Linear without bias.

    Args:
        in_dim: features of a row, F.
        hidden_dim: features between layers.
        out_dim: embedding, D.
        num_layers: number of Linear layers.
        norm: "batch" with ReLU, or "layer" with GELU.
        batch_norm: makes a batch norm of so many channels (over ranks: `distributed.SyncBatchNorm1d`).
        per_view: each of the views is a batch of its own for the batch norm, as in the released code, and moves the running statistics
            once a view; else all rows are one batch.

    Raises:
        ConfigError: a number below 1.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        num_layers: int = 3,
        norm: Literal["batch", "layer"] = "batch",
        batch_norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
        per_view: bool = True,
    ) -> None:
        super().__init__()
        if min(in_dim, hidden_dim, out_dim, num_layers) < 1:
            raise ConfigError(f"head: expected sizes and num_layers of 1 or more, found {in_dim}, {hidden_dim}, {out_dim}, {num_layers}")
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.linears = nn.ModuleList(nn.Linear(a, b, bias=num_layers > 1) for a, b in pairwise(dims))
        self.norms = nn.ModuleList(batch_norm(dim) if norm == "batch" else nn.LayerNorm(dim) for dim in dims[1:-1])
        self.activation = nn.ReLU() if norm == "batch" else nn.GELU()
        self.is_split = per_view and norm == "batch"
        if num_layers == 1:
            nn.init.normal_(self.linears[0].get_parameter("weight"), std=in_dim**-0.5)

    def forward(self, features_BF: Tensor, num_views: int = 1) -> Tensor:
        """Embeddings [B, D] of view-major rows.

        Raises:
            DataError: the rows are not `num_views` equal parts.
        """
        if num_views < 1 or features_BF.shape[0] % num_views:
            raise DataError(f"head: expected rows in {num_views} equal views, found {features_BF.shape[0]} rows")
        hidden = features_BF
        for linear, norm in zip(self.linears, self.norms, strict=False):
            hidden = linear(hidden)
            parts = hidden.chunk(num_views) if self.is_split and num_views > 1 else (hidden,)
            hidden = self.activation(torch.cat([norm(part) for part in parts]))
        return self.linears[-1](hidden)
