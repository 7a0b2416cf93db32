"""The projection head: layers, norm per view, refusals."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from stablerep.errors import ConfigError, DataError
from stablerep.models import ProjectionHead


def test_the_head_of_the_paper():
    """Three Linear layers, batch norm and ReLU after the first two."""
    torch.manual_seed(0)
    head, rows = ProjectionHead(6, 8, 4), torch.randn(10, 6)
    assert [tuple(linear.weight.shape) for linear in head.linears] == [(8, 6), (8, 8), (4, 8)]
    assert [type(norm) for norm in head.norms] == [nn.BatchNorm1d] * 2
    hidden = rows
    for linear in head.linears[:2]:
        hidden = functional.linear(hidden, linear.weight, linear.bias)
        hidden = ((hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()).relu()
    torch.testing.assert_close(head(rows), head.linears[2](hidden))


def test_each_view_is_a_batch_of_its_own():
    torch.manual_seed(0)
    head, joint = ProjectionHead(6, 8, 4), ProjectionHead(6, 8, 4, per_view=False)
    joint.load_state_dict(head.state_dict())
    views = [torch.randn(5, 6) + shift for shift in (0, 3, -3)]
    apart = ProjectionHead(6, 8, 4)
    apart.load_state_dict(head.state_dict())
    together = head(torch.cat(views), 3)
    torch.testing.assert_close(together, torch.cat([apart(view) for view in views]))
    assert not torch.allclose(together, joint(torch.cat(views), 3), atol=0.1)
    for name, value in apart.state_dict().items():  # trap 11: the running statistics move once a view
        torch.testing.assert_close(head.state_dict()[name], value)
    assert head.norms[0].num_batches_tracked == 3
    assert joint.norms[0].num_batches_tracked == 1


def test_two_captions_are_enough_for_a_view():
    """Trap 11: a norm per view needs two captions a view, and says so with one."""
    head = ProjectionHead(6, 8, 4)
    assert head(torch.randn(4, 6), 2).shape == (4, 4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        head(torch.randn(2, 6), 2)


def test_evaluation_does_not_look_at_views():
    head = ProjectionHead(6, 8, 4).eval()
    rows = torch.randn(6, 6)
    torch.testing.assert_close(head(rows, 3), head(rows))


def test_the_head_of_synclr_knows_no_batch():
    head, rows = ProjectionHead(6, 8, 4, norm="layer"), torch.randn(6, 6)
    assert [type(norm) for norm in head.norms] == [nn.LayerNorm] * 2
    assert isinstance(head.activation, nn.GELU)
    torch.testing.assert_close(head(rows, 3), torch.cat([head(row[None]) for row in rows]))


def test_one_layer_is_the_projection_of_clip():
    torch.manual_seed(0)
    head = ProjectionHead(400, 8, 300, num_layers=1)
    assert [name for name, _ in head.named_parameters()] == ["linears.0.weight"]
    assert head.linears[0].weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    rows = torch.randn(3, 400)
    torch.testing.assert_close(head(rows), rows @ head.linears[0].weight.T)


def test_the_norm_is_handed_in():
    made = []
    ProjectionHead(6, 8, 4, batch_norm=lambda channels: made.append(channels) or nn.BatchNorm1d(channels))
    assert made == [8, 8]


def test_refusals():
    with pytest.raises(DataError, match="expected rows in 3 equal views, found 7 rows"):
        ProjectionHead(6, 8, 4)(torch.randn(7, 6), 3)
    with pytest.raises(ConfigError, match="expected sizes and num_layers of 1 or more, found 6, 8, 4, 0"):
        ProjectionHead(6, 8, 4, num_layers=0)
