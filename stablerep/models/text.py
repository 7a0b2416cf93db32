"""The text tower of StableRep+: CLIP's causal transformer (arXiv 2103.00020), pooled at the end-of-text token.

Dimension key: N captions, T tokens, W width, h heads. Pre-norm blocks, QuickGELU, learned positions, CLIP's initialisation. The pooled
row is the one at the first `eot_id` of each caption - looked up, not taken for the highest token id - and because attention is causal, what
follows it (padding) never enters. The projection to the shared space belongs to the two-tower model.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stablerep.errors import ConfigError, DataError


class TextTower(nn.Module):
    """Caption tokens to one feature row each.

    Args:
        vocabulary_size: number of token ids.
        context_length: longest caption in tokens, end-of-text included.
        width: features of a token, W.
        depth: number of blocks.
        num_heads: attention heads per block.
        eot_id: the end-of-text token.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    def __init__(self, vocabulary_size: int, context_length: int, width: int, depth: int, num_heads: int, eot_id: int) -> None:
        super().__init__()
        if min(vocabulary_size, context_length, width, depth, num_heads) < 1 or width % num_heads:
            raise ConfigError(
                f"text tower: expected sizes of 1 or more and a width that {num_heads} heads divide, found "
                f"vocabulary_size={vocabulary_size}, context_length={context_length}, width={width}, depth={depth}"
            )
        if not 0 <= eot_id < vocabulary_size:
            raise ConfigError(f"text tower: expected eot_id from 0 to {vocabulary_size - 1}, found {eot_id}")
        self.context_length, self.width, self.eot_id = context_length, width, eot_id
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.blocks = nn.ModuleList(_Block(width, num_heads, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)

    def forward(self, tokens_NT: Tensor) -> Tensor:
        """Features [N, W] of captions; T may be anything up to the context length.

        Raises:
            DataError: captions longer than the context, or a caption without the end-of-text token.
        """
        if tokens_NT.ndim != 2 or tokens_NT.shape[1] > self.context_length:
            raise DataError(f"text tower: expected captions of at most {self.context_length} tokens, found shape {tuple(tokens_NT.shape)}")
        is_eot_NT = tokens_NT == self.eot_id
        if not bool(is_eot_NT.any(1).all()):
            row = int((~is_eot_NT.any(1)).nonzero()[0, 0])
            raise DataError(
                f"text tower: expected the end-of-text token {self.eot_id} in every caption, found none in row {row}; keep it on truncation"
            )
        hidden_NTW = self.token_embedding(tokens_NT) + self.positions[: tokens_NT.shape[1]]
        for block in self.blocks:
            hidden_NTW = block(hidden_NTW)
        eot_N = is_eot_NT.int().argmax(1)
        return self.norm(hidden_NTW[torch.arange(len(eot_N), device=eot_N.device), eot_N])


class _Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, num_heads: int, depth: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc_1, self.fc_2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        residual_std = width**-0.5 * (2 * depth) ** -0.5
        for linear, std in ((self.qkv, width**-0.5), (self.out, residual_std), (self.fc_1, (2 * width) ** -0.5), (self.fc_2, residual_std)):
            nn.init.normal_(linear.weight, std=std)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden_NTW: Tensor) -> Tensor:
        hidden_NTW = hidden_NTW + self._attend(self.norm_1(hidden_NTW))
        inner = self.fc_1(self.norm_2(hidden_NTW))
        return hidden_NTW + self.fc_2(inner * torch.sigmoid(1.702 * inner))

    def _attend(self, hidden_NTW: Tensor) -> Tensor:
        num_rows, num_tokens, width = hidden_NTW.shape
        qkv = self.qkv(hidden_NTW).view(num_rows, num_tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = cast("tuple[Tensor, Tensor, Tensor]", qkv.permute(2, 0, 3, 1, 4).unbind(0))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(num_rows, num_tokens, width))
