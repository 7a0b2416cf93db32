import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2

from stablerep.batches.parameters import ViewParameters, colour_order, draw_parameters
from stablerep.config.schema import AugmentConfig

PAPER = AugmentConfig(rotation_degrees=8.0, noise=0.1, downsample_probability=0.05)
NUM = 20_000


def drawn(augment: AugmentConfig = PAPER, *, seed: int = 0, step: int = 5, num: int = NUM, aspect: float = 1.0) -> ViewParameters:
    return draw_parameters(augment, seed, step, torch.arange(num) * 7919, torch.arange(num) % 6, aspect)


@pytest.fixture(scope="module")
def parameters() -> ViewParameters:
    return drawn()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("brightness_B", 0.6, 1.4),
        ("contrast_B", 0.6, 1.4),
        ("saturation_B", 0.6, 1.4),
        ("hue_B", -0.1, 0.1),
        ("angle_B", -math.radians(8), math.radians(8)),
        ("sigma_B", 0.1, 2.0),
    ],
)
def test_ranges_are_uniform(parameters: ViewParameters, name: str, low: float, high: float) -> None:
    value_B = getattr(parameters, name)
    width = high - low
    assert float(value_B.min()) >= low - 1e-6
    assert float(value_B.max()) <= high + 1e-6
    assert float(value_B.mean()) == pytest.approx((low + high) / 2, abs=0.012 * width)
    assert float(value_B.var()) == pytest.approx(width**2 / 12, rel=0.03)
    histogram = torch.histc(value_B, bins=10, min=low, max=high)
    assert float(((histogram - NUM / 10) ** 2 / (NUM / 10)).sum()) < 27.9  # 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    ("name", "probability"), [("is_flipped_B", 0.5), ("is_jittered_B", 0.8), ("is_grey_B", 0.2), ("is_blurred_B", 0.5)]
)
def test_frequencies(parameters: ViewParameters, name: str, probability: float) -> None:
    assert float(getattr(parameters, name).float().mean()) == pytest.approx(probability, abs=0.013)


def test_parameters_are_independent_of_each_other(parameters: ViewParameters) -> None:
    values = torch.stack([value_B.double() for name, value_B in vars(parameters).items() if name not in ("noise_key_B",)])
    names = [name for name in vars(parameters) if name != "noise_key_B"]
    correlation = torch.corrcoef(values).abs()
    crop = {"left_B", "top_B", "width_B", "height_B"}  # an area or a margin ties these together
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i < j and not (first in crop and second in crop):
                assert float(correlation[i, j]) < 0.035, (first, second)


@pytest.mark.parametrize("scale_min", [0.08, 0.5, 0.75])
def test_crops_are_distributed_as_torchvisions(scale_min: float) -> None:
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(224, scale=(scale_min, 1))
    image = torch.zeros(3, 1000, 1000)
    found = [crop.make_params([image]) for _ in range(4000)]
    theirs = torch.tensor([[p["left"], p["top"], p["width"], p["height"]] for p in found]) / 1000
    p = drawn(replace(PAPER, crop_scale_min=scale_min))
    ours = torch.stack([p.left_B, p.top_B, p.width_B, p.height_B], dim=1)
    deviation = theirs.std(dim=0) / 4000**0.5
    assert bool(((ours.mean(0) - theirs.mean(0)).abs() < 4 * deviation + 5e-4).all())
    assert torch.allclose(ours.std(dim=0), theirs.std(dim=0), rtol=0.06)
    their_area, our_area = theirs[:, 2] * theirs[:, 3], ours[:, 2] * ours[:, 3]
    assert float(our_area.mean()) == pytest.approx(float(their_area.mean()), abs=4 * float(their_area.std()) / 4000**0.5 + 1e-3)
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    assert torch.allclose(our_area.quantile(quantiles), their_area.quantile(quantiles), atol=0.03)


@pytest.mark.parametrize("aspect", [1.0, 1.5, 0.5])
def test_crops_lie_inside_and_keep_the_ranges(aspect: float) -> None:
    p = drawn(aspect=aspect)
    for start_B, side_B in ((p.left_B, p.width_B), (p.top_B, p.height_B)):
        assert float(start_B.min()) >= 0
        assert float((start_B + side_B).max()) <= 1 + 1e-6
    area_B, ratio_B = p.width_B * p.height_B, p.width_B / p.height_B * aspect
    is_whole_B = area_B == 1
    assert float(area_B.min()) >= 0.08 - 1e-6
    assert float(ratio_B[~is_whole_B].min()) >= 3 / 4 - 1e-5
    assert float(ratio_B[~is_whole_B].max()) <= 4 / 3 + 1e-5
    assert float(is_whole_B.float().mean()) < 0.01


def test_full_scale_is_the_whole_image() -> None:
    p = drawn(replace(PAPER, crop_scale_min=1.0))
    assert p.width_B.unique().tolist() == p.height_B.unique().tolist() == [1.0]
    assert p.left_B.unique().tolist() == p.top_B.unique().tolist() == [0.0]


def test_flips_can_be_turned_off() -> None:
    assert not drawn(replace(PAPER, is_flipped=False)).is_flipped_B.any()


def test_parameters_depend_on_seed_step_caption_and_image_and_on_nothing_else() -> None:
    labels_B, index_B = torch.tensor([11, 22, 33, 11]), torch.tensor([0, 1, 2, 1])
    whole = draw_parameters(PAPER, 0, 5, labels_B, index_B, 1.0)
    alone = draw_parameters(PAPER, 0, 5, labels_B[2:3], index_B[2:3], 1.0)
    for name in vars(whole):
        assert torch.equal(getattr(whole, name)[2:3], getattr(alone, name))
    others = [
        draw_parameters(PAPER, 1, 5, labels_B, index_B, 1.0),
        draw_parameters(PAPER, 0, 6, labels_B, index_B, 1.0),
        draw_parameters(PAPER, 0, 5, labels_B + 1, index_B, 1.0),
        draw_parameters(PAPER, 0, 5, labels_B, index_B + 1, 1.0),
    ]
    keys = torch.cat([p.noise_key_B for p in (whole, *others)])
    assert len(keys.unique()) == 19  # label 11, image 1 occurs in the first and, as image 0 + 1, in the last


def test_every_order_of_colour_operations_occurs_equally_often() -> None:
    counts = Counter(tuple(colour_order(0, step)) for step in range(2400))
    assert len(counts) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in counts)
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 49.7  # 23 degrees of freedom, p = 0.001
    assert colour_order(0, 3) == colour_order(0, 3)
    assert [colour_order(0, step) for step in range(9)] != [colour_order(1, step) for step in range(9)]


def theirs(augment: AugmentConfig, num: int) -> dict[str, torch.Tensor]:
    """What torchvision draws image by image."""
    torch.manual_seed(1)
    image = torch.zeros(3, 2000, 2000)
    crop = v2.RandomResizedCrop(224, scale=(augment.crop_scale_min, augment.crop_scale_max))
    jitter = v2.ColorJitter(augment.jitter, augment.jitter, augment.jitter, augment.hue)
    blur = v2.GaussianBlur(13, (0.1, 2.0))
    crops, colours = ([step.make_params([image]) for _ in range(num)] for step in (crop, jitter))
    values = {
        "area": [c["width"] * c["height"] / 2000**2 for c in crops],
        "log ratio": [math.log(c["width"] / c["height"]) for c in crops],
        "sigma": [blur.make_params([image])["sigma"][0] for _ in range(num)],
    }
    for name in ("brightness", "contrast", "saturation", "hue"):
        values[name] = [float(c[f"{name}_factor"]) for c in colours]
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.08, 0.32)], ids=["paper", "weak", "small crops"])
def test_every_distribution_is_that_of_the_per_image_path(scale: tuple[float, float]) -> None:
    """Kolmogorov and Smirnov's two-sample statistic, critical value of p = 0.001."""
    augment = replace(PAPER, crop_scale_min=scale[0], crop_scale_max=scale[1])
    p, num = drawn(augment), 3000
    ours = {
        "area": p.width_B.double() * p.height_B,
        "log ratio": (p.width_B.double() / p.height_B).log(),
        "sigma": p.sigma_B,
        **{name: getattr(p, f"{name}_B") for name in ("brightness", "contrast", "saturation", "hue")},
    }
    for name, their in theirs(augment, num).items():
        our = ours[name].double().sort().values
        grid = torch.cat([our, their]).sort().values + 1e-9
        distance = (torch.searchsorted(our, grid) / len(our) - torch.searchsorted(their.sort().values, grid) / num).abs().max()
        assert float(distance) < 1.95 * (1 / len(our) + 1 / num) ** 0.5, name
        assert float(our.mean()) == pytest.approx(float(their.mean()), abs=5 * float(their.std()) / num**0.5), name


def test_few_images_are_brought_down_and_up() -> None:
    p = drawn()
    share = {px: float((p.down_px_B == px).float().mean()) for px in (64, 128)}
    assert share == pytest.approx({64: 0.025, 128: 0.025}, abs=0.004)
    assert not drawn(AugmentConfig()).down_px_B.any()
