"""A module over more rows than fit in memory, a chunk at a time, as if all at once: gradient accumulation that keeps every negative.

Each chunk is embedded without keeping what backward needs, the losses see the rows of all chunks together, and backward embeds a chunk
again when its gradient is due: GradCache's two passes (arXiv 2101.06983), left to autograd so that every engine sees one backward pass
and one gradient. The price is one more forward pass. Equal in value and gradient to all rows at once for what treats rows one by one:
trunk, text tower, layer norm. Batch norm looks at other rows and must get them all.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def in_chunks(module: nn.Module, rows: Tensor, num_chunks: int) -> Tensor:
    """`module(rows)` with the memory of one of `num_chunks` parts; random numbers of backward are those of forward.

    Args:
        module: treats rows one by one.
        rows: [B, ...].
        num_chunks: 1 is the plain call; never more than B.
    """
    if min(num_chunks, len(rows)) <= 1:
        return module(rows)
    parts = rows.tensor_split(min(num_chunks, len(rows)))
    if not torch.is_grad_enabled():
        return torch.cat([module(part) for part in parts])
    return torch.cat([cast("Tensor", checkpoint(module, part, use_reentrant=False)) for part in parts])
