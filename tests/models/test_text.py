"""The text tower: CLIP's arithmetic, pooling at the end-of-text token, refusals."""

import pytest
import torch
from torch import Tensor, nn

from stablerep.errors import ConfigError, DataError
from stablerep.models import TextTower

EOT, PAD, LENGTH = 19, 0, 10


def tower(**changes: int) -> TextTower:
    torch.manual_seed(0)
    return TextTower(
        **({"vocabulary_size": 20, "context_length": LENGTH, "width": 16, "depth": 2, "num_heads": 4, "eot_id": EOT} | changes)
    )


def captions(*words: list[int], length: int = LENGTH, end: int = EOT) -> Tensor:
    return torch.tensor([[*row, end, *[PAD] * (length - 1 - len(row))] for row in words])


def as_clip(text: TextTower, tokens: Tensor) -> Tensor:
    """CLIP's text transformer from nn.MultiheadAttention, a mask of -inf and masked pooling by argmax of the ids."""
    width, num_tokens = text.width, tokens.shape[1]
    hidden = text.token_embedding(tokens) + text.positions[:num_tokens]
    mask = torch.full((num_tokens, num_tokens), float("-inf")).triu(1)
    for block in text.blocks:
        attention = nn.MultiheadAttention(width, block.num_heads, batch_first=True)
        attention.load_state_dict(
            {
                "in_proj_weight": block.qkv.weight,
                "in_proj_bias": block.qkv.bias,
                "out_proj.weight": block.out.weight,
                "out_proj.bias": block.out.bias,
            }
        )
        normed = block.norm_1(hidden)
        hidden = hidden + attention(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        inner = block.fc_1(block.norm_2(hidden))
        hidden = hidden + block.fc_2(inner * torch.sigmoid(1.702 * inner))
    return text.norm(hidden)[torch.arange(len(tokens)), tokens.argmax(1)]


def test_equals_the_text_transformer_of_clip():
    text = tower()
    for parameter in text.parameters():  # biases and norms away from their first values
        nn.init.normal_(parameter, std=0.3)
    tokens = captions([3, 4, 5], [1], [2, 2, 7, 8, 9, 1, 2, 3, 4])
    torch.testing.assert_close(text(tokens), as_clip(text, tokens), rtol=1e-4, atol=1e-5)


def test_padding_does_not_matter():
    """Trap 14."""
    text = tower()
    short, long = captions([3, 4, 5], [1, 2], length=5), captions([3, 4, 5], [1, 2])
    torch.testing.assert_close(text(short), text(long))
    other = long.clone()
    other[0, 5:], other[1, 4:] = 7, EOT  # whatever follows the first end-of-text token
    torch.testing.assert_close(text(other), text(long))


def test_every_word_and_its_place_matter():
    text = tower()
    with torch.no_grad():
        base, *others = text(captions([3, 4, 5], [3, 4, 6], [9, 4, 5], [4, 3, 5], [3, 4], [3, 4, 5, 5]))
    assert all((base - other).abs().max() > 1e-3 for other in others)


def test_the_end_of_text_token_need_not_be_the_highest_id():
    """Trap 14: the reference pools at argmax of the ids, which is a word when the end-of-text id is small."""
    text = tower(eot_id=2)
    tokens = captions([3, 19, 5], end=2)
    hidden = []
    handle = text.norm.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    text(tokens)
    longer = tokens.clone()
    longer[0, 4:] = 11
    text(longer)
    handle.remove()
    torch.testing.assert_close(hidden[0], hidden[1])  # pooled at position 3 = first id 2, so what follows is unseen
    assert not torch.allclose(text(captions([3, 19, 6], end=2)), text(tokens))


def test_a_caption_without_end_is_refused():
    """Trap 14: truncation that drops the token would pool a random word for ever."""
    tokens = captions([1, 2], [3], [4])
    tokens[1] = 5
    with pytest.raises(DataError, match="expected the end-of-text token 19 in every caption, found none in row 1"):
        tower()(tokens)


def test_initialisation_is_that_of_clip():
    torch.manual_seed(0)
    text = TextTower(500, 100, 256, 4, 4, 499)
    block = text.blocks[1]
    expected = {
        text.token_embedding.weight: 0.02,
        text.positions: 0.01,
        block.qkv.weight: 256**-0.5,
        block.out.weight: 256**-0.5 * 8**-0.5,
        block.fc_1.weight: 512**-0.5,
        block.fc_2.weight: 256**-0.5 * 8**-0.5,
    }
    for weight, std in expected.items():
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert not block.qkv.bias.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "a width that 3 heads divide"),
        ({"eot_id": 20}, "expected eot_id from 0 to 19, found 20"),
        ({"depth": 0}, "expected sizes of 1 or more"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        tower(**changes)


def test_captions_over_the_context_are_refused():
    with pytest.raises(DataError, match=r"at most 10 tokens, found shape \(1, 11\)"):
        tower()(captions([1], length=11))
