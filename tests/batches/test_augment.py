import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from stablerep.batches.augment import Augmenter, _replace, down_and_up, warp
from stablerep.batches.parameters import ViewParameters, draw_parameters
from stablerep.config.schema import AugmentConfig

PLAIN = AugmentConfig(
    crop_scale_min=1.0, is_flipped=False, jitter=0.0, hue=0.0, jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0
)
EVERYTHING = AugmentConfig(rotation_degrees=8.0, noise=0.1)
HALF = (0.5, 0.5, 0.5)


def pictures(num: int, size_px: int, *, seed: int = 0) -> torch.Tensor:
    """Smooth random colour images, uint8 [num,3,size_px,size_px]."""
    coarse = torch.rand(num, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, (size_px, size_px), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def views(augment: AugmentConfig, images: torch.Tensor, size_px: int, *, seed: int = 0, step: int = 0) -> torch.Tensor:
    """Views in 0..1, keyed by caption 1000 + i and image i % 4."""
    number_B = torch.arange(len(images))
    return Augmenter(augment, size_px=size_px, mean=(0, 0, 0), std=(1, 1, 1), seed=seed)(images, 1000 + number_B, number_B % 4, step)


def placed(**changes: torch.Tensor | float | bool) -> ViewParameters:
    """Parameters of one view that does nothing but the changes."""
    plain = draw_parameters(PLAIN, 0, 0, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 1.0)
    return replace(plain, **{name: torch.tensor([value]) for name, value in changes.items()})


def test_identity_is_the_normalised_image() -> None:
    images = pictures(5, 16)
    augmenter = Augmenter(PLAIN, size_px=16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), seed=0)
    found = augmenter(images, torch.arange(5), torch.zeros(5, dtype=torch.int64), 3)
    expected = V.normalize(images.float() / 255, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("stored", "size_px"), [(16, 32), (32, 28), (256, 224)])
def test_identity_settings_resize_plainly(stored: int, size_px: int) -> None:
    images = pictures(2, stored)
    expected = F.interpolate(images.float() / 255, (size_px, size_px), mode="bilinear", align_corners=False)
    assert torch.allclose(views(PLAIN, images, size_px), expected, atol=1e-4)


def test_the_largest_shrinking_is_close_to_antialiased() -> None:
    """The loader never hands over images larger than 8/7 of the view, where leaving antialiasing out costs little."""
    images = pictures(4, 256)
    expected = F.interpolate(images.float() / 255, (224, 224), mode="bilinear", antialias=True)
    assert float((views(PLAIN, images, 224) - expected).abs().max()) < 0.02


def test_crop_equals_crop_and_resize() -> None:
    image = pictures(1, 64).float() / 255
    found = warp(image, placed(left_B=8 / 64, top_B=16 / 64, width_B=32 / 64, height_B=24 / 64), 48)
    expected = F.interpolate(image[:, :, 16:40, 8:40], (48, 48), mode="bilinear", align_corners=False)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))  # at the border the crop sees its neighbours in the image
    assert torch.allclose(found[inside], expected[inside], atol=1e-4)


def test_flip_is_left_to_right() -> None:
    image = pictures(1, 16).float() / 255
    assert torch.allclose(warp(image, placed(is_flipped_B=True), 16), image.flip(-1), atol=1e-4)


def test_rotation_equals_torchvision_in_the_middle() -> None:
    image = pictures(1, 33).float() / 255
    found = warp(image, placed(angle_B=math.radians(8)), 33)
    expected = V.rotate(image, 8.0, V.InterpolationMode.BILINEAR)
    other = V.rotate(image, -8.0, V.InterpolationMode.BILINEAR)
    middle = (slice(None), slice(None), slice(6, 27), slice(6, 27))
    distances = [float((found[middle] - turned[middle]).abs().max()) for turned in (expected, other)]
    assert min(distances) < 1e-3
    assert max(distances) > 0.02


def test_quarter_turn_of_a_square() -> None:
    image = pictures(1, 16).float() / 255
    found = warp(image, placed(angle_B=math.pi / 2), 16)
    assert min(float((found - torch.rot90(image, turns, (2, 3))).abs().max()) for turns in (1, 3)) < 1e-3


def test_rotation_keeps_shapes_in_images_that_are_not_square() -> None:
    ys, xs = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    disc = (((ys - 19.5) ** 2 + (xs - 39.5) ** 2) < 12**2).float().expand(1, 3, 40, 80)
    upright = warp(disc, placed(left_B=0.25, width_B=0.5), 40)
    turned = warp(disc, placed(left_B=0.25, width_B=0.5, angle_B=math.radians(30)), 40)
    assert float((upright - turned).abs().mean()) < 0.02


@pytest.mark.parametrize("augment", [EVERYTHING, AugmentConfig(), replace(EVERYTHING, jitter_probability=1.0, crop_scale_min=0.75)])
def test_a_view_does_not_depend_on_the_batch(augment: AugmentConfig) -> None:
    """Trap 18: the same image of the same caption at the same step, whatever else is in the batch and wherever it is."""
    images, labels_B, index_B = pictures(200, 32), torch.arange(200) * 13, torch.arange(200) % 6
    augmenter = Augmenter(augment, size_px=32, mean=HALF, std=HALF, seed=4)
    whole = augmenter(images, labels_B, index_B, 9)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augmenter(images, labels_B, index_B, 9), whole)
    assert torch.equal(augmenter(images[order], labels_B[order], index_B[order], 9), whole[order])
    few = torch.tensor([3, 150, 77])
    assert torch.equal(augmenter(images[few], labels_B[few], index_B[few], 9), whole[few])


def test_views_of_one_image_differ_between_steps_seeds_captions_and_places() -> None:
    image = pictures(1, 32).expand(4, -1, -1, -1)
    labels_B, index_B = torch.tensor([1, 1, 2, 2]), torch.tensor([0, 1, 0, 1])
    found = []
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        found.extend(Augmenter(EVERYTHING, size_px=32, mean=HALF, std=HALF, seed=seed)(image, labels_B, index_B, step))
    for i, one in enumerate(found):
        assert all(float((one - other).abs().mean()) > 0.01 for other in found[:i])


def test_grey_views_have_equal_channels_as_often_as_asked() -> None:
    found = views(replace(PLAIN, grey_probability=0.2), pictures(3000, 8), 8)
    is_grey_B = ((found - found[:, :1]).abs().amax(dim=(1, 2, 3)) < 1e-4).float()
    assert float(is_grey_B.mean()) == pytest.approx(0.2, abs=0.03)


def test_jitter_touches_as_many_views_as_asked_and_stays_in_range() -> None:
    images = pictures(2000, 8)
    found = views(replace(PLAIN, jitter=0.4, hue=0.1, jitter_probability=0.8), images, 8)
    is_changed_B = ((found - images / 255).abs().amax(dim=(1, 2, 3)) > 1e-3).float()
    assert float(is_changed_B.mean()) == pytest.approx(0.8, abs=0.035)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_brightness_alone_scales_as_drawn() -> None:
    constant = torch.full((400, 3, 8, 8), 100, dtype=torch.uint8)
    found = views(replace(PLAIN, jitter=0.4, jitter_probability=1.0), constant, 8)  # contrast and saturation leave a constant grey alone
    parameters = draw_parameters(replace(PLAIN, jitter=0.4), 0, 0, 1000 + torch.arange(400), torch.arange(400) % 4, 1.0)
    assert torch.allclose(found[:, 0, 4, 4], parameters.brightness_B * 100 / 255, atol=1e-4)


def test_blur_touches_half_of_the_views_and_keeps_their_mean() -> None:
    images = torch.randint(0, 256, (600, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = views(replace(PLAIN, blur_probability=0.5), images, 16)
    is_changed_B = ((found - images / 255).abs().amax(dim=(1, 2, 3)) > 1e-3).float()
    assert float(is_changed_B.mean()) == pytest.approx(0.49, abs=0.06)  # sigmas near 0.1 change nothing
    assert torch.allclose(found.mean(), (images / 255).mean(), atol=3e-3)


def test_noise_has_the_strength_asked_for_and_is_new_for_every_view() -> None:
    images = pictures(300, 16)
    noise = views(replace(PLAIN, noise=0.1), images, 16) - images / 255
    assert float(noise.mean()) == pytest.approx(0, abs=1e-3)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.01)
    flat = noise.flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(300)
    assert float(correlation.abs().max()) < 0.2  # 768 independent numbers: a standard deviation of 0.036
    assert not torch.equal(noise, views(replace(PLAIN, noise=0.1), images, 16, step=1) - images / 255)


def test_whole_pipeline_keeps_views_finite_and_different_from_each_other() -> None:
    found = views(EVERYTHING, pictures(1, 32).expand(64, -1, -1, -1), 32)
    assert bool(torch.isfinite(found).all())
    flat = found.flatten(1)
    assert float((torch.cdist(flat, flat) + 1e9 * torch.eye(64)).min()) > 1


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    views(EVERYTHING, pictures(8, 32), 32)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_down_and_up_leaves_what_a_small_image_shows() -> None:
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    found = down_and_up(images, 64)
    small = V.resize(images, [64], V.InterpolationMode.BILINEAR, antialias=True)
    assert torch.allclose(found, V.resize(small, [256], V.InterpolationMode.BILINEAR, antialias=True), atol=1e-3)
    assert torch.equal(down_and_up(small, 64), small)
    assert float(found.std()) < 0.6 * float(images.std())


def test_only_the_images_drawn_are_brought_down() -> None:
    images = torch.randint(0, 256, (60, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain, some = (views(replace(PLAIN, downsample_probability=p), images, 160) for p in (0.0, 0.3))
    number_B = torch.arange(60)
    drawn = draw_parameters(replace(PLAIN, downsample_probability=0.3), 0, 0, 1000 + number_B, number_B % 4, 1.0).down_px_B
    assert {0, 64, 128} == set(drawn.tolist())
    assert (plain - some).abs().amax((1, 2, 3)).gt(0.1).equal(drawn > 0)
    for px in (64, 128):
        expected = down_and_up(images[drawn == px].float() / 255, px)
        assert torch.allclose(some[drawn == px], expected, atol=1e-4)


def test_work_in_place_and_in_copies_gives_the_same_views() -> None:
    """Few images are changed where they are, in stretches; scattered ones of many in a copy."""
    view_n3SS = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    factor_n = torch.arange(9.0)
    for chosen in ([], [0], [3, 4, 5], [0, 1, 7, 8], [0, 2, 4, 5, 8], list(range(9))):
        is_chosen_n = torch.zeros(9, dtype=torch.bool)
        is_chosen_n[chosen] = True
        expected = torch.where(is_chosen_n[:, None, None, None], view_n3SS * factor_n[:, None, None, None], view_n3SS)
        for change in (
            lambda some, where: some * factor_n[where, None, None, None],
            lambda some, where: some.mul_(factor_n[where, None, None, None]),
        ):
            found = view_n3SS.clone()
            _replace(found, is_chosen_n, change)
            assert torch.equal(found, expected)
