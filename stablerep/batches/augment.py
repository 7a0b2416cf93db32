"""Images to views: a whole batch of uint8 images becomes normalised float views, on a CPU or a GPU.

Paper, section 4 (released code): random resized crop, flip, colour jitter, grey, Gaussian blur; here also a small rotation and additive
noise for the embedded recipes. Crop, flip, rotation and resize are one bilinear sampling of the image. It does not antialias: the
loader brings stored images down to 8/7 of the view's size first (256 for 224, as the released code stores them), so a crop is shrunk by
at most that.

Dimension key: B images, S side of a view, D side of a stored image, n images worked on at once.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from stablerep.batches import colour
from stablerep.batches.counter import below, words
from stablerep.batches.parameters import DOWN_PX, ViewParameters, colour_order, draw_parameters
from stablerep.config.schema import AugmentConfig

_CHUNK_VALUES = 3 << 18  # floats worked on at once on a CPU: more falls out of a core's caches, less is many small calls
_NOISE_VALUES = 1 << 22
VIEW_SHIFT = 32  # what keys a view: the image's place in its group, and above it the number of the view
_NOISE_WORD = 64  # a word of the key that no parameter uses


class Augmenter:
    """Makes views.

    Args:
        augment: which changes, and how strong.
        size_px: S.
        mean: of each channel, in 0..1, subtracted at the end.
        std: of each channel, divided by at the end.
        seed: of the run.
    """

    def __init__(self, augment: AugmentConfig, *, size_px: int, mean: Sequence[float], std: Sequence[float], seed: int) -> None:
        self._augment, self._size_px, self._seed = augment, size_px, seed
        self._mean, self._std = tuple(mean), tuple(std)

    def __call__(self, image_B3DD: Tensor, labels_B: Tensor, image_index_B: Tensor, step: int) -> Tensor:
        """Views of B images, on the device of the images.

        Args:
            image_B3DD: uint8.
            labels_B: int64 label of each image's caption.
            image_index_B: int64 place of each image in its group; a second view has another number, by VIEW_SHIFT.
            step: of the training; a step's views are new.

        Returns:
            float32 [B,3,S,S], normalised.
        """
        device = image_B3DD.device
        aspect = image_B3DD.shape[3] / image_B3DD.shape[2]
        parameters = draw_parameters(self._augment, self._seed, step, labels_B.to(device), image_index_B.to(device), aspect)
        order = colour_order(self._seed, step)
        num = len(image_B3DD)
        chunk = num if device.type != "cpu" else max(1, _CHUNK_VALUES // (3 * self._size_px**2))
        view_B3SS = torch.empty(num, 3, self._size_px, self._size_px, device=device)
        for start in range(0, num, chunk):
            part = slice(start, start + chunk)
            view_B3SS[part] = self._views(image_B3DD[part], _slice(parameters, part), order)
        return view_B3SS

    def _views(self, image_n3DD: Tensor, parameters: ViewParameters, order: Sequence[int]) -> Tensor:
        augment = self._augment
        float_n3DD = image_n3DD.to(torch.float32).mul_(1 / 255)
        if augment.downsample_probability > 0:
            for side_px in DOWN_PX:
                _replace(float_n3DD, parameters.down_px_B == side_px, lambda some, _, side_px=side_px: down_and_up(some, side_px))
        view_n3SS = warp(float_n3DD, parameters, self._size_px)
        if augment.jitter > 0 or augment.hue > 0:
            _replace(view_n3SS, parameters.is_jittered_B, lambda some, where: self._jitter(some, parameters, where, order))
        if augment.grey_probability > 0:
            _replace(view_n3SS, parameters.is_grey_B, lambda some, _: colour.luma(some).expand_as(some))
        if augment.blur_probability > 0:
            sigma_n = parameters.sigma_B
            _replace(view_n3SS, parameters.is_blurred_B, lambda some, where: colour.blur(some, sigma_n[where]))
        if augment.noise > 0:
            view_n3SS.add_(_noise(parameters.noise_key_B, view_n3SS.shape), alpha=augment.noise)
        mean_311, std_311 = (view_n3SS.new_tensor(values)[:, None, None] for values in (self._mean, self._std))
        return view_n3SS.sub_(mean_311).div_(std_311)

    def _jitter(self, view_n3SS: Tensor, parameters: ViewParameters, where: Tensor, order: Sequence[int]) -> Tensor:
        for operation in order:
            if operation == 3 and self._augment.hue > 0:
                colour.adjust_hue_(view_n3SS, parameters.hue_B[where])
            elif operation == 0 and self._augment.jitter > 0:
                colour.adjust_brightness_(view_n3SS, parameters.brightness_B[where])
            elif operation == 1 and self._augment.jitter > 0:
                colour.adjust_contrast_(view_n3SS, parameters.contrast_B[where])
            elif operation == 2 and self._augment.jitter > 0:
                colour.adjust_saturation_(view_n3SS, parameters.saturation_B[where])
        return view_n3SS


def down_and_up(image_n3DD: Tensor, side_px: int) -> Tensor:
    """What is left of images that were once `side_px` pixels high: bilinear, antialiased on the way down; smaller images stay."""
    height, width = image_n3DD.shape[2:]
    if min(height, width) <= side_px:
        return image_n3DD
    small = (round(height * side_px / min(height, width)), round(width * side_px / min(height, width)))
    small_n3dd = F.interpolate(image_n3DD, small, mode="bilinear", antialias=True)
    return F.interpolate(small_n3dd, (height, width), mode="bilinear").clamp_(0, 1)


def warp(image_n3DD: Tensor, parameters: ViewParameters, size_px: int) -> Tensor:
    """Crop, flip, rotate about the middle of the crop and resize: float [n,3,S,S]. Outside of the image its edge is repeated."""
    p = parameters
    aspect = image_n3DD.shape[3] / image_n3DD.shape[2]
    cosine_n, sine_n = p.angle_B.cos(), p.angle_B.sin()
    across_n = torch.where(p.is_flipped_B, -p.width_B, p.width_B)
    # Points of the view (-1..1) to points of the image (-1..1): scale to the crop, rotate in pixels, move to the crop's middle.
    point_S = (2 * torch.arange(size_px, device=image_n3DD.device) + 1) / size_px - 1
    grid_nSS2 = torch.empty(len(image_n3DD), size_px, size_px, 2, device=image_n3DD.device)
    for axis, (by_column_n, by_row_n, middle_n) in enumerate(
        (
            (across_n * cosine_n, -p.height_B * sine_n / aspect, 2 * p.left_B + p.width_B - 1),
            (across_n * sine_n * aspect, p.height_B * cosine_n, 2 * p.top_B + p.height_B - 1),
        )
    ):
        column_n1S = by_column_n[:, None, None] * point_S
        row_nS1 = by_row_n[:, None, None] * point_S[:, None] + middle_n[:, None, None]
        torch.add(column_n1S, row_nS1, out=grid_nSS2[..., axis])
    return F.grid_sample(image_n3DD, grid_nSS2, mode="bilinear", padding_mode="border", align_corners=False)


def _replace(view_n3SS: Tensor, is_chosen_n: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Change the chosen images: in place where they are one or two stretches, as of few large images, else in a copy of all of them."""
    where = is_chosen_n.nonzero()[:, 0]
    cuts = (where.diff() != 1).nonzero()[:, 0] + 1
    if not len(where):
        return
    if len(cuts) > 1:
        view_n3SS[where] = change(view_n3SS[where], where)
        return
    for stretch in where.tensor_split(cuts.cpu()):
        part_n3SS = view_n3SS[int(stretch[0]) : int(stretch[-1]) + 1]
        changed = change(part_n3SS, stretch)
        if changed is not part_n3SS:
            part_n3SS.copy_(changed)


def _slice(parameters: ViewParameters, part: slice) -> ViewParameters:
    return ViewParameters(**{name: value[part] for name, value in vars(parameters).items()})


def _noise(key_n: Tensor, shape: torch.Size) -> Tensor:
    """Normal numbers: each image reads a stretch of one long table, from its own start."""
    length = shape[1] * shape[2] * shape[3]
    table = _noise_table(key_n.device)
    starts = below(words(key_n, _NOISE_WORD)[:, -1], len(table) - length).tolist()
    return torch.stack([table[start : start + length] for start in starts]).view(shape)


@lru_cache(maxsize=4)
def _noise_table(device: torch.device) -> Tensor:
    return torch.randn(_NOISE_VALUES, generator=torch.Generator().manual_seed(0)).to(device)
