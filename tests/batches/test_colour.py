import pytest
import torch
from torchvision.transforms.v2 import functional as V

from stablerep.batches import colour


@pytest.fixture
def images() -> torch.Tensor:
    """Random images with greys, black, white, saturated colours and ties of the largest channel among their pixels."""
    image_n3HW = torch.rand(4, 3, 18, 23, generator=torch.Generator().manual_seed(0))
    image_n3HW[0, :, 0] = 0.5
    image_n3HW[0, :, 1], image_n3HW[0, :, 2] = 0, 1
    image_n3HW[1, 0, 0], image_n3HW[1, 1:, 0] = 1, 0
    for low, one, other in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        image_n3HW[1, [one, other], 3 + low], image_n3HW[1, low, 3 + low] = 0.8, 0.1
    return image_n3HW


FACTORS = torch.tensor([0.0, 0.6, 1.0, 1.4])


@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_factors_equal_torchvision(images: torch.Tensor, name: str) -> None:
    expected = torch.stack([getattr(V, name)(image, float(factor)) for image, factor in zip(images, FACTORS, strict=True)])
    assert torch.allclose(getattr(colour, f"{name}_")(images.clone(), FACTORS), expected, atol=2e-6)


@pytest.mark.parametrize("shift", [-0.5, -0.31, -0.1, 0.0, 0.04, 1 / 6, 1 / 3, 0.5])
def test_hue_equals_torchvision(images: torch.Tensor, shift: float) -> None:
    shifts = torch.tensor([shift, shift, 0.07, -shift])
    expected = torch.stack([V.adjust_hue(image, float(s)) for image, s in zip(images, shifts, strict=True)])
    assert torch.allclose(colour.adjust_hue_(images.clone(), shifts), expected, atol=5e-6)


def test_hue_turns_red_to_green_and_leaves_grey() -> None:
    image = torch.zeros(1, 3, 1, 2)
    image[0, 0, 0, 0] = 1
    image[0, :, 0, 1] = 0.3
    turned = colour.adjust_hue_(image, torch.tensor([1 / 3]))
    assert torch.allclose(turned[0, :, 0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    assert torch.allclose(turned[0, :, 0, 1], torch.full((3,), 0.3), atol=1e-6)


def test_luma_equals_torchvision(images: torch.Tensor) -> None:
    assert torch.allclose(colour.luma(images), V.rgb_to_grayscale(images), atol=1e-6)


def test_blur_equals_torchvision(images: torch.Tensor) -> None:
    sigmas = [0.1, 0.7, 1.3, 2.0]
    expected = []
    for image, sigma in zip(images, sigmas, strict=True):
        size = 2 * int(torch.tensor(3 * sigma).ceil()) + 1
        expected.append(V.gaussian_blur(image, [size, size], [sigma, sigma]))
    assert torch.allclose(colour.blur(images, torch.tensor(sigmas)), torch.stack(expected), atol=2e-6)


def test_blur_of_an_image_does_not_depend_on_the_others(images: torch.Tensor) -> None:
    sigma_n = torch.tensor([0.2, 0.7, 1.3, 2.0])
    together = colour.blur(images, sigma_n)
    for number in range(4):
        assert torch.allclose(colour.blur(images[number : number + 1], sigma_n[number : number + 1])[0], together[number], atol=1e-6)


def test_blur_of_a_tiny_image_stays_inside_it() -> None:
    constant = torch.full((1, 3, 3, 3), 0.7)
    assert torch.allclose(colour.blur(constant, torch.tensor([2.0])), constant, atol=1e-6)
