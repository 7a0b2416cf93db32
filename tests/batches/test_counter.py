import pytest
import torch

from stablerep.batches.counter import below, fold, mix, uniforms, words


def test_words_are_the_published_splitmix64_sequence() -> None:
    # The first outputs for seed 1234567, as the reference implementation in C gives them.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [word % 2**64 for word in words(torch.tensor([1234567]), 5)[0].tolist()] == expected


@pytest.mark.parametrize("parts", [(0,), (1, 2), (2, 1), (-1, 7), (2**64 - 1, 2**40), (2**70 + 3,)])
def test_integers_and_tensors_fold_alike(parts: tuple[int, ...]) -> None:
    signed = [(part % 2**64 + 2**63) % 2**64 - 2**63 for part in parts]
    assert int(fold(*parts)) == int(fold(*(torch.tensor(part) for part in signed)))
    assert int(fold(*parts)) == int(fold(*signed[:1], *(torch.tensor([part]) for part in signed[1:])))


def test_fold_tells_order_and_length_apart() -> None:
    keys = [int(fold(*parts)) for parts in [(1, 2), (2, 1), (1,), (1, 0), (0, 1), (0,), (0, 0)]]
    assert len(set(keys)) == len(keys)


def test_fold_broadcasts_over_tensors() -> None:
    labels_N = torch.tensor([5, 6, 7])
    assert fold(3, labels_N, 4).tolist() == [int(fold(3, label, 4)) for label in (5, 6, 7)]


def test_mix_has_no_collisions_among_neighbours() -> None:
    assert len(mix(torch.arange(100_000)).unique()) == 100_000


def test_uniforms_are_uniform_and_independent_of_each_other() -> None:
    number_NK = uniforms(torch.arange(20_000), 4)
    assert number_NK.dtype == torch.float32
    assert float(number_NK.min()) >= 0
    assert float(number_NK.max()) < 1
    assert torch.allclose(number_NK.mean(0), torch.full((4,), 0.5), atol=0.01)
    assert torch.allclose(number_NK.var(0), torch.full((4,), 1 / 12), atol=0.003)
    assert float((torch.corrcoef(number_NK.T) - torch.eye(4)).abs().max()) < 0.03
    histogram = torch.histc(number_NK[:, 0], bins=20, min=0, max=1)
    assert float(((histogram - 1000) ** 2 / 1000).sum()) < 43.8  # chi-square with 19 degrees of freedom, p = 0.001


def test_more_words_do_not_change_the_first() -> None:
    key_N = torch.arange(9)
    assert torch.equal(words(key_N, 3), words(key_N, 30)[:, :3])


def test_below_stays_below_also_for_negative_words() -> None:
    word = words(torch.arange(1000), 1)[:, 0]
    assert int((word < 0).sum()) > 300
    found = below(word, 7)
    assert found.unique().tolist() == list(range(7))
