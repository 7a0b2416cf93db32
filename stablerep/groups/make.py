"""One shard: sample every image of every caption, judge, replace what failed, encode.

The sampler is called with exactly `batch_size` requests, the last one repeated where a batch is short. Shapes are then the same in every
call, and the bytes of an image depend on its caption, its noise and the batch size, not on its neighbours or its place; between small
and large batches a few pixels in 100,000 differ by one grey level (benchmarks/results/sampler_*). Encoding runs in threads beside the
next batch. A group whose images are all there is inspected (`groups.inspection`), which may send some of them back. What decides the
content of a data set is named in one place, `spec`. Nothing is read or written here.

Dimension key: M images of a caption, H and W pixels.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from PIL import Image

from stablerep.errors import DataError
from stablerep.groups.inspection import FLAGS, Inspector
from stablerep.groups.quality import BLACK_MAX, CONSTANT_STD, DUPLICATE_DIFFERENCE, judge
from stablerep.groups.sampler import ImageHW3, ImageRequest, ImageSampler
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup

SPEC_VERSION = 1  # raised when the same settings would give other images
MIN_IMAGES = 2  # below, an image of the group has no positive (where a group shall have only one, one is enough)
NUM_ENCODERS = 4

OnImages = Callable[[dict[str, int]], None]

_SPEC_KEYS = (
    "images_per_caption",
    "scheduler",
    "num_inference_steps",
    "guidance",
    "negative_prompt",
    "noise_seed",
    "dtype",
    "stored_size_px",
    "image_format",
    "image_quality",
    "max_retries_per_image",
)
_REAL_KEYS = ("images_per_caption", "noise_seed", "stored_size_px", "image_format", "image_quality", "max_retries_per_image")


def spec(settings: Mapping[str, Any], *, is_real: bool = False, inspection: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Of the settings of `generate`, those that decide what the images are; the dataset id is made of them.

    Device and batch size are left out: they say how the work is done, and move an image by a grey level at most.

    Args:
        settings: the fields of the `generate` configuration by name.
        is_real: the images are looked up, not sampled.
        inspection: what decides the inspection of groups; none where there is none.
    """
    chosen = {key: settings[key] for key in (_REAL_KEYS if is_real else _SPEC_KEYS)}
    if chosen["image_format"] == "png":
        del chosen["image_quality"]  # lossless: it changes nothing
    thresholds = {"black_max": BLACK_MAX, "constant_std": CONSTANT_STD, "duplicate_difference": DUPLICATE_DIFFERENCE}
    return {"version": SPEC_VERSION, **chosen, "quality": thresholds} | ({"inspection": dict(inspection)} if inspection else {})


def make_shard(
    sampler: ImageSampler,
    captions: Sequence[Caption],
    *,
    images_per_caption: int,
    batch_size: int,
    image_format: str,
    image_quality: int,
    max_retries: int,
    inspector: Inspector | None = None,
    on_images: OnImages | None = None,
) -> tuple[list[ImageGroup], dict[str, int]]:
    """Make the groups of `captions`, in their order.

    Args:
        sampler: makes the images.
        captions: of one shard.
        images_per_caption: M.
        batch_size: requests in every call of the sampler.
        image_format: png, jpeg or webp.
        image_quality: 1 to 100, for jpeg and webp.
        max_retries: how often a bad image is made again, each time with the next noise index of its caption.
        inspector: scores whole groups, and says which images are made again or left out; None: groups are taken as they are.
        on_images: called after each batch with the number of images by verdict; an exception in it stops the work.

    Returns:
        The groups and the number of images by verdict. `good` are stored; `missing` are not: images that stayed bad are left out of their
        group. Where the inspector leaves fewer than 2 the group is dropped, in `dropped_groups` and, its images, in `missing`.

    Raises:
        DataError: a group has fewer than 2 good images (fewer than 1 of 1) when the retries are used up.
    """
    drafts = [_Draft(caption, images_per_caption, inspector) for caption in captions]
    counts = Counter[str]()

    def count(verdicts: Counter[str]) -> None:
        counts.update(verdicts)
        if on_images:
            on_images(dict(verdicts))

    with ThreadPoolExecutor(NUM_ENCODERS, thread_name_prefix="encode") as pool:
        for num_left in reversed(range(1 + max_retries)):
            wanted = [(draft, slot, request) for draft in drafts for slot, request in draft.requests()]
            for start in range(0, len(wanted), batch_size):
                verdicts = Counter[str]()
                for draft, slot, image in _sample(sampler, wanted[start : start + batch_size], batch_size):
                    verdicts += draft.take(slot, image)
                    if draft.is_full:
                        verdicts += draft.inspect(has_retries=num_left > 0)
                        if draft.is_settled:
                            verdicts += draft.finish(pool, image_format, image_quality)
                count(verdicts)
        for draft in drafts:
            if not draft.is_finished:
                draft.check(max_retries)
                count(draft.inspect(has_retries=False) + draft.finish(pool, image_format, image_quality))
        groups = [draft.group(image_format) for draft in drafts if not draft.is_dropped]
    counts["missing"] = len(drafts) * images_per_caption - counts["good"]
    counts["dropped_groups"] = len(drafts) - len(groups)
    return groups, {verdict: number for verdict, number in sorted(counts.items()) if number}


def encode_image(image: ImageHW3, image_format: str, image_quality: int) -> bytes:
    """An image file: the same bytes for the same pixels and the same Pillow.

    Args:
        image: uint8 [H,W,3].
        image_format: png, jpeg or webp.
        image_quality: 1 to 100, for jpeg and webp.
    """
    options: dict[str, Any] = {"png": {}, "jpeg": {"quality": image_quality}, "webp": {"quality": image_quality, "method": 4}}[image_format]
    file = io.BytesIO()
    Image.fromarray(image).save(file, format=image_format, **options)
    return file.getvalue()


class _Draft:
    """A group in the making: a slot for each image, filled with the first good one."""

    def __init__(self, caption: Caption, images_per_caption: int, inspector: Inspector | None) -> None:
        self.caption, self._inspector = caption, inspector
        self.is_settled = self.is_finished = self.is_dropped = False
        self._num_wanted = images_per_caption
        self._slots: list[ImageHW3 | None] = [None] * images_per_caption
        self._indices = [-1] * images_per_caption  # the noise index last tried in each slot
        self._next_index = 0
        self._failures: dict[str, int] = {}
        self._facts: dict[str, Any] = {}
        self._encoded: list[Future[bytes]] = []

    @property
    def is_full(self) -> bool:
        """Whether every slot has an image; not of a draft that is finished."""
        return not self.is_finished and self.num_good == self._num_wanted

    @property
    def num_good(self) -> int:
        return len(self._images())

    def _images(self) -> list[ImageHW3]:
        return [image for image in self._slots if image is not None]

    def requests(self) -> list[tuple[int, ImageRequest]]:
        """For every slot without a good image a request with the next unused noise index."""
        wanted: list[tuple[int, ImageRequest]] = []
        for slot, image in enumerate(self._slots):
            if image is None and not self.is_finished:
                self._indices[slot] = self._next_index
                self._next_index += 1
                wanted.append((slot, ImageRequest(self.caption.caption_id, self.caption.text, self._indices[slot])))
        return wanted

    def take(self, slot: int, image: ImageHW3 | None) -> Counter[str]:
        """Put an image that is no failure into its slot. What an inspector will see is counted as good when the group is finished."""
        verdict = judge(image, self._images())
        if verdict != "good":
            return self._failed(verdict)
        self._slots[slot] = image
        return Counter() if self._inspector else Counter(good=1)

    def inspect(self, *, has_retries: bool) -> Counter[str]:
        """Score the images that are there, and empty the slots of those that fail where the recipe takes them out.

        Args:
            has_retries: whether emptied slots may be filled again; else, or where the recipe does not ask for it, the group is settled.
        """
        failed, inspector = Counter[str](), self._inspector
        if inspector is not None and self.num_good:
            slots = [slot for slot, image in enumerate(self._slots) if image is not None]
            scores = inspector.scores(self.caption.text, self._images())
            for slot, flag in zip(slots, inspector.flags(scores) if inspector.removes else (), strict=False):
                if flag:
                    self._slots[slot] = None
                    failed += self._failed(flag)
            if failed and self.num_good:  # what is kept describes what is kept
                scores = inspector.scores(self.caption.text, self._images())
            self._facts = inspector.facts(scores)
        self.is_settled = not (failed and has_retries and inspector and inspector.retries)
        return failed

    def check(self, max_retries: int) -> None:
        """Refuse a group that the sampler failed on; one that the inspector emptied is dropped instead."""
        expected = min(MIN_IMAGES, self._num_wanted)
        if self.num_good < expected and not any(flag in self._failures for flag in FLAGS):
            found = ", ".join(f"{number} {verdict}" for verdict, number in sorted(self._failures.items()))
            raise DataError(
                f"caption {self.caption.caption_id} ({self.caption.text[:60]!r}): expected {expected} good images or more, found "
                f"{self.num_good} after {max_retries} retries of each ({found}); try dtype fp32, another scheduler or more steps, look "
                "at the generator, or remove the caption"
            )

    def finish(self, pool: ThreadPoolExecutor, image_format: str, image_quality: int) -> Counter[str]:
        """Start encoding the images and let go of their pixels; called once, when no image will be added."""
        good = [(index, image) for index, image in zip(self._indices, self._slots, strict=True) if image is not None]
        self.is_finished, self.is_dropped = True, len(good) < min(MIN_IMAGES, self._num_wanted)
        self._indices, self._slots = [index for index, _ in good], []
        if self.is_dropped:
            return Counter()
        self._encoded = [pool.submit(encode_image, image, image_format, image_quality) for _, image in good]
        inspected = len(good) if self._inspector else 0
        return Counter(good=inspected) + Counter(f"kept_{flag}" for flag in self._facts.get("flags", ()) if flag)

    def group(self, image_format: str) -> ImageGroup:
        images = tuple(future.result() for future in self._encoded)
        return ImageGroup(self.caption, images, image_format, {"noise_indices": self._indices, **self._facts})

    def _failed(self, verdict: str) -> Counter[str]:
        self._failures[verdict] = self._failures.get(verdict, 0) + 1
        return Counter({verdict: 1})


def _sample(
    sampler: ImageSampler, wanted: Sequence[tuple[_Draft, int, ImageRequest]], batch_size: int
) -> Iterator[tuple[_Draft, int, ImageHW3 | None]]:
    """Sample one batch, filled up to `batch_size` by repeating its last request; the images of the filling are dropped."""
    requests = [request for _, _, request in wanted]
    images = sampler.sample(requests + requests[-1:] * (batch_size - len(requests)))
    for (draft, slot, _), image in zip(wanted, images, strict=False):
        yield draft, slot, image
