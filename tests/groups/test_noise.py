"""The noise of an image depends on its caption, its index and the seed, and on nothing else."""

import hashlib
import math

import torch

from stablerep.groups.noise import image_key, latent_noise, step_generator

SHAPE = (4, 8, 8)


def test_key_is_the_hash_as_documented() -> None:
    expected = int(hashlib.sha256(b"0123456789abcdef/7/3").hexdigest()[:16], 16) // 4
    assert image_key("0123456789abcdef", 7, 3) == expected
    assert 2**61 < max(image_key("c", index, 0) for index in range(100)) < 2**62


def test_every_argument_changes_the_noise() -> None:
    keys = [image_key(*arguments) for arguments in (("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1), ("a", 10, 0), ("a/1", 0, 0))]
    noises = [latent_noise(key, SHAPE) for key in keys]
    assert len(set(keys)) == len(keys)
    assert all(not torch.equal(x, y) for i, x in enumerate(noises) for y in noises[:i])


def test_order_and_the_global_generator_do_not_matter() -> None:
    keys = [image_key("a", index, 0) for index in range(8)]
    forwards = [latent_noise(key, SHAPE) for key in keys]
    torch.manual_seed(1)
    torch.randn(77)
    backwards = [latent_noise(key, SHAPE) for key in reversed(keys)]
    assert all(torch.equal(x, y) for x, y in zip(forwards, reversed(backwards), strict=True))


def test_all_bits_of_the_key_count() -> None:
    """torch's CPU generator keeps 32 bits of a seed, so keys that agree in half of their bits, or swap halves, are the ones to try."""
    keys = {low + (high << 31) for low in range(4) for high in range(4)} | {1 << bit for bit in range(62)}
    noises = [latent_noise(key, SHAPE) for key in sorted(keys)]
    assert all(not torch.equal(x, y) for i, x in enumerate(noises) for y in noises[:i])
    assert all(0.8 < float(noise.std()) < 1.2 for noise in noises)
    seeded = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(5 + (high << 32))) for high in range(2)]
    assert torch.equal(*seeded), "if this fails, torch now takes 64 bits and noise.py can become simpler"


def test_noise_is_standard_normal_and_independent() -> None:
    noise_NCHW = torch.stack([latent_noise(image_key("a", index, 0), SHAPE) for index in range(400)])
    flat_NL = noise_NCHW.flatten(1)
    num = flat_NL.numel()
    assert noise_NCHW.dtype == torch.float32
    assert abs(float(flat_NL.mean())) < 5 / math.sqrt(num)
    assert abs(float(flat_NL.var()) - 1) < 5 * math.sqrt(2 / num)
    assert abs(float((flat_NL**4).mean()) - 3) < 5 * math.sqrt(96 / num)
    correlations = torch.corrcoef(flat_NL).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 6.5 / math.sqrt(flat_NL.shape[1])


def test_step_noise_does_not_repeat_the_latents() -> None:
    key = image_key("a", 0, 0)
    first, again = (torch.randn(SHAPE, generator=step_generator(key)) for _ in range(2))
    latents = latent_noise(key, SHAPE)
    assert torch.equal(first, again)
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), latents.flatten()]))[0, 1])) < 0.3
