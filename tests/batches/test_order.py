import itertools
from collections import Counter

import pytest
import torch

from stablerep.batches.order import GroupOrder, permute
from stablerep.errors import ConfigError


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 7, 10, 16, 17, 63, 64, 65, 400, 1000])
def test_permute_is_a_permutation(num: int) -> None:
    for key in (0, 1, -5, 2**62):
        assert permute(torch.arange(num), num, key).sort().values.tolist() == list(range(num))


def test_permute_does_not_depend_on_which_positions_are_asked_for() -> None:
    whole = permute(torch.arange(100), 100, 7)
    assert torch.equal(permute(torch.tensor([93, 4, 50]), 100, 7), whole[[93, 4, 50]])


@pytest.mark.parametrize("num", [6, 11])
def test_every_group_is_equally_likely_at_every_position(num: int) -> None:
    num_keys = 100 * num
    found = torch.stack([permute(torch.arange(num), num, key) for key in range(num_keys)])
    expected = num_keys / num
    for position in range(num):
        counts = torch.bincount(found[:, position], minlength=num)
        assert float(((counts - expected) ** 2 / expected).sum()) < 3.5 * num + 10  # about p = 1e-4 for so many degrees of freedom


def test_neighbours_are_equally_likely() -> None:
    pairs: Counter[tuple[int, int]] = Counter()
    for key in range(800):
        pairs.update(itertools.pairwise(permute(torch.arange(5), 5, key).tolist()))
    assert len(pairs) == 20
    expected = 800 * 4 / 20
    assert all(abs(count - expected) < 5 * expected**0.5 for count in pairs.values())


def test_an_epoch_has_every_group_once_and_epochs_differ() -> None:
    order = GroupOrder(24, 6, seed=3)
    epochs = [torch.cat([order.groups(step) for step in range(4 * epoch, 4 * epoch + 4)]).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(range(24))


def test_the_incomplete_last_batch_of_an_epoch_is_dropped_and_nothing_repeats_in_a_batch() -> None:
    order = GroupOrder(26, 8, seed=0)
    assert order.steps_per_epoch == 3
    left_out: set[int] = set()
    for epoch in range(40):
        seen = [group for step in range(3 * epoch, 3 * epoch + 3) for group in order.groups(step).tolist()]
        assert len(set(seen)) == 24
        assert {order.epoch(step) for step in range(3 * epoch, 3 * epoch + 3)} == {epoch}
        left_out |= set(range(26)) - set(seen)
    assert len(left_out) > 20  # other groups are left over in other epochs


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_one_global_order(world_size: int) -> None:
    order = GroupOrder(50, 16, seed=1)
    for step in (0, 1, 2, 3, 100):
        parts = [order.groups(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat(parts), order.groups(step))


def test_another_seed_is_another_order() -> None:
    assert not torch.equal(GroupOrder(50, 50, seed=1).groups(0), GroupOrder(50, 50, seed=2).groups(0))


def test_a_huge_data_set_needs_no_more_memory_or_time() -> None:
    order = GroupOrder(3_000_000_017, 8192, seed=0)
    groups = order.groups(10**9)
    assert len(groups.unique()) == 8192
    assert 0 <= int(groups.min()) < int(groups.max()) < 3_000_000_017


def test_more_captions_than_groups_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"captions_per_batch: expected at most the 63 usable groups of the data set, found 64"):
        GroupOrder(63, 64, seed=0)


def test_images_are_drawn_without_replacement_and_evenly() -> None:
    order = GroupOrder(10, 10, seed=0)
    labels_N, num_images_N = torch.arange(500), torch.full((500,), 6)
    index_NM = order.draw(0, labels_N, num_images_N, 4)
    assert index_NM.shape == (500, 4)
    assert all(len(set(row)) == 4 for row in index_NM.tolist())
    for view in range(4):
        counts = torch.bincount(index_NM[:, view], minlength=6)
        assert float(((counts - 500 / 6) ** 2 / (500 / 6)).sum()) < 25.7  # 5 degrees of freedom, p = 1e-4


def test_a_draw_depends_on_seed_epoch_and_caption_only() -> None:
    order = GroupOrder(10, 5, seed=0)  # two steps an epoch
    labels_N = torch.arange(100, 140)
    eight_N = torch.full((40,), 8)
    draw = order.draw(0, labels_N, eight_N, 3)
    assert torch.equal(draw, order.draw(1, labels_N, eight_N, 3))
    assert not torch.equal(draw, order.draw(2, labels_N, eight_N, 3))
    assert not torch.equal(draw, GroupOrder(10, 5, seed=1).draw(0, labels_N, eight_N, 3))
    back = torch.arange(39, -1, -1)
    assert torch.equal(draw[back], order.draw(0, labels_N[back], eight_N, 3))
    beside_larger = torch.cat([eight_N[:1], torch.full((39,), 50)])
    assert torch.equal(draw[0], order.draw(0, labels_N, beside_larger, 3)[0])


def test_a_draw_stays_inside_small_groups() -> None:
    num_images_N = torch.tensor([2, 3, 9] * 30)
    index_NM = GroupOrder(10, 5, seed=0).draw(0, torch.arange(90), num_images_N, 2)
    assert bool((index_NM < num_images_N[:, None]).all())
    assert int(index_NM[2::3].max()) == 8
