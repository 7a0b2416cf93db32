"""One shard: sample every image of every caption, judge, replace what failed, encode.

The sampler is called with exactly `batch_size` requests, the last one repeated where a batch is short. Shapes are then the same in every
call, and the bytes of an image depend on its caption, its noise and the batch size, not on its neighbours or its place; between small
and large batches a few pixels in 100,000 differ by one grey level (benchmarks/results/sampler_*). Encoding runs in threads beside the
next batch, as does all that becomes of an image (`groups.draft`). A group that is finished is kept in a journal, so that whoever
continues the shard makes only the others. What decides the content of a data set is named in one place, `spec`.

Dimension key: M images of a caption, H and W pixels.
"""

import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from stablerep.groups.draft import Draft
from stablerep.groups.inspection import Inspector
from stablerep.groups.open_groups import LEFT_BATCHES, Journal, NoJournal, OpenGroups, Wanted
from stablerep.groups.quality import BLACK_MAX, CONSTANT_STD, DUPLICATE_DIFFERENCE
from stablerep.groups.sampler import ImageHW3, ImageSampler
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup
from stablerep.shards.parts import Part

SPEC_VERSION = 1  # raised when the same settings would give other images
NUM_ENCODERS = 4
SLOW_RECEIVING = 0.25  # of the time that sampling takes

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
    if settings.get("num_base_steps") and not is_real:
        chosen["num_base_steps"] = settings["num_base_steps"]
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
    journal: Journal | None = None,
    is_helper: bool = False,
    may_leave: bool = False,
) -> tuple[list[ImageGroup], dict[str, int]] | None:
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
        journal: holds the groups that are made already, and takes those that are made now.
        is_helper: another worker holds the shard: begin at its tail.
        may_leave: a helper leaves the last groups to the holder.

    Returns:
        The groups and the number of images by verdict. `good` are stored; `missing` are not: images that stayed bad are left out of their
        group. Where the inspector leaves fewer than 2 the group is dropped, in `dropped_groups` and, its images, in `missing`. None when
        groups were left to the holder of the shard.

    Raises:
        DataError: a group has fewer than 2 good images (fewer than 1 of 1) when the retries are used up.
    """
    journal = journal or NoJournal()
    encode = partial(encode_image, image_format=image_format, image_quality=image_quality)
    making = _Making(lambda at: Draft(captions[at], images_per_caption, max_retries, inspector), encode, journal, image_format)
    num_left = LEFT_BATCHES * -(-batch_size // images_per_caption) if may_leave else 0
    groups = OpenGroups(len(captions), making.requests, journal, is_helper=is_helper, num_left=num_left)
    while True:
        with ThreadPoolExecutor(NUM_ENCODERS, thread_name_prefix="encode") as pool:
            _make_all(sampler, groups, partial(making.receive, pool), batch_size, on_images)
        if groups.is_left:
            return None
        if not (damaged := making.read(groups.found)):
            return making.result()
        groups.reopen(damaged)


def _make_all(
    sampler: ImageSampler,
    groups: OpenGroups,
    receive: Callable[[Sequence[Wanted], Sequence[ImageHW3 | None]], "_Received"],
    batch_size: int,
    on_images: OnImages | None,
) -> None:
    """Batch after batch; while one is sampled, the one before is received: judged, encoded and kept.

    Not where that takes long beside the sampling: a batch that is not kept when the next one is there could be lost together with it.
    """
    running: Future[_Received] | None = None
    sampling_seconds, receiving_seconds = 0.0, 1.0  # the first batch is waited for

    def finish() -> None:
        nonlocal running, receiving_seconds
        if running is not None:
            received = running.result()
            running, receiving_seconds = None, received.seconds
            groups.again(received.again)
            if received.was_second:
                groups.turn()
            if on_images:
                on_images(dict(received.verdicts))

    with ThreadPoolExecutor(1, thread_name_prefix="receive") as receiver:
        while True:
            if receiving_seconds > SLOW_RECEIVING * sampling_seconds or not groups.fill(batch_size):  # what comes back may fill it
                finish()
            if not (wanted := groups.batch(batch_size)):
                return
            requests = [request for _, _, request in wanted]
            started_at = time.monotonic()
            images = sampler.sample(requests + requests[-1:] * (batch_size - len(requests)))
            sampling_seconds = time.monotonic() - started_at
            finish()
            running = receiver.submit(receive, wanted, images[: len(wanted)])


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


@dataclass
class _Received:
    """What became of a batch: images by verdict, those to make again, whether another worker was first with a group, how long it took."""

    verdicts: Counter[str]
    again: list[Wanted]
    was_second: bool
    seconds: float


class _Making:
    """The groups of a shard on their way from requests to parts."""

    def __init__(self, draft_at: Callable[[int], Draft], encode: Callable[[ImageHW3], bytes], journal: Journal, image_format: str) -> None:
        self._draft_at, self._encode, self._journal, self._image_format = draft_at, encode, journal, image_format
        self._drafts: dict[int, Draft] = {}
        self._parts: dict[int, Part] = {}

    def requests(self, position: int) -> list[Wanted]:
        """What to ask for next of a group."""
        if position not in self._drafts:
            self._drafts[position] = self._draft_at(position)
        return [(position, slot, request) for slot, request in self._drafts[position].requests()]

    def receive(self, pool: ThreadPoolExecutor, wanted: Sequence[Wanted], images: Sequence[ImageHW3 | None]) -> _Received:
        """Judge the images of a batch; encode and keep the groups that are finished by it."""
        started_at = time.monotonic()
        verdicts, again, finished = Counter[str](), list[Wanted](), list[int]()
        for (position, slot, _), image in zip(wanted, images, strict=True):
            draft = self._drafts[position]
            verdicts += draft.take(slot, image)
            if draft.is_settled:
                finished.append(position)
            elif draft.num_pending == 0:
                again += self.requests(position)
        encoded = [(position, [pool.submit(self._encode, image) for image in self._drafts[position].images()]) for position in finished]
        parts = [
            (position, self._drafts.pop(position).part([each.result() for each in images], self._image_format))
            for position, images in encoded
        ]
        kept = list(pool.map(self._journal.keep, *zip(*parts, strict=True))) if parts else []
        self._parts |= {position: part for (position, _), (part, _) in zip(parts, kept, strict=True)}
        return _Received(verdicts, again, not all(is_first for _, is_first in kept), time.monotonic() - started_at)

    def read(self, positions: Iterable[int]) -> list[int]:
        """Take over what others, or an earlier attempt, have made; returns the positions of what is not whole."""
        wanted = sorted(position for position in positions if position not in self._parts)
        found = {position: self._journal.read(position) for position in wanted}
        self._parts |= {position: part for position, part in found.items() if part is not None}
        return [position for position, part in found.items() if part is None]

    def result(self) -> tuple[list[ImageGroup], dict[str, int]]:
        """All groups in order, and their images by verdict."""
        parts = [part for _, part in sorted(self._parts.items(), key=lambda each: each[0])]
        counts = sum((Counter(part.counts) for part in parts), Counter[str]())
        return [part.group for part in parts if part.group is not None], dict(sorted(counts.items()))
