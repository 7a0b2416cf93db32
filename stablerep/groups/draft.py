"""A group in the making: images come in, bad ones are asked for again, a full group is inspected, what is left becomes a part.

What becomes of an image is a function of its caption and of the group's own images: neighbours and batches do not appear.

Dimension key: M images of a caption.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stablerep.errors import DataError
from stablerep.groups.inspection import FLAGS, Inspector
from stablerep.groups.quality import judge
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup
from stablerep.shards.manifest import KEPT, WEIGHTED
from stablerep.shards.parts import Part

MIN_IMAGES = 2  # below, an image of the group has no positive (where a group shall have only one, one is enough)


class Draft:
    """A slot for each image, filled with the first good one.

    Args:
        caption: of the group.
        images_per_caption: M.
        max_retries: how often the image of a slot is made again.
        inspector: scores whole groups; None: they are taken as they are.
    """

    def __init__(self, caption: Caption, images_per_caption: int, max_retries: int, inspector: Inspector | None) -> None:
        self.caption, self._inspector, self._max_retries = caption, inspector, max_retries
        self.is_settled, self.num_pending, self._num_rounds = False, 0, 0
        self._num_wanted = images_per_caption
        self._slots: list[ImageHW3 | None] = [None] * images_per_caption
        self._indices = [-1] * images_per_caption  # the noise index last tried in each slot
        self._next_index = 0
        self._failures: dict[str, int] = {}
        self._facts: dict[str, Any] = {}
        self._counts = Counter[str]()

    def requests(self) -> list[tuple[int, ImageRequest]]:
        """For every slot without a good image a request with the next unused noise index."""
        wanted: list[tuple[int, ImageRequest]] = []
        for slot, image in enumerate(self._slots):
            if image is None:
                self._indices[slot] = self._next_index
                self._next_index += 1
                wanted.append((slot, ImageRequest(self.caption.caption_id, self.caption.text, self._indices[slot])))
        self.num_pending = len(wanted)
        self._num_rounds += 1
        return wanted

    def take(self, slot: int, image: ImageHW3 | None) -> Counter[str]:
        """Judge an image that was asked for; returns images by verdict, after the last one also what the inspector says of the group."""
        self.num_pending -= 1
        verdicts = self._judged(slot, image)
        if self.num_pending == 0:
            verdicts += self._settle(has_retries=self._num_rounds <= self._max_retries)
        self._counts += verdicts
        return verdicts

    def images(self) -> list[ImageHW3]:
        """The images of a settled group; none of one that is dropped."""
        return [] if self._is_dropped else self._images()

    def part(self, encoded: Sequence[bytes], image_format: str) -> Part:
        """The group with its encoded images, and its images by verdict."""
        indices = [index for index, image in zip(self._indices, self._slots, strict=True) if image is not None]
        counts = self._counts + Counter(missing=self._num_wanted - self._counts["good"], dropped_groups=int(self._is_dropped))
        group = ImageGroup(self.caption, tuple(encoded), image_format, {"noise_indices": indices, **self._facts}) if encoded else None
        return Part(group, dict(sorted(counts.items())))

    def _judged(self, slot: int, image: ImageHW3 | None) -> Counter[str]:
        """Put an image that is no failure into its slot. What an inspector will see is counted as good when the group is settled."""
        verdict = judge(image, self._images())
        if verdict != "good":
            return self._failed(verdict)
        self._slots[slot] = image
        return Counter() if self._inspector else Counter(good=1)

    def _settle(self, *, has_retries: bool) -> Counter[str]:
        """After a round: inspect the group where it is full or will not become fuller."""
        if len(self._images()) < self._num_wanted:
            if has_retries:
                return Counter()
            self._check()
        verdicts = self._inspect(has_retries=has_retries)
        if self.is_settled and self._inspector and not self._is_dropped:
            prefix = WEIGHTED if "weights" in self._facts else KEPT
            verdicts += Counter(good=len(self._images())) + Counter(f"{prefix}{flag}" for flag in self._facts.get("flags", ()) if flag)
        return verdicts

    @property
    def _is_dropped(self) -> bool:
        return len(self._images()) < min(MIN_IMAGES, self._num_wanted)

    def _images(self) -> list[ImageHW3]:
        return [image for image in self._slots if image is not None]

    def _inspect(self, *, has_retries: bool) -> Counter[str]:
        """Score the images that are there, and empty the slots of those that fail where the recipe takes them out.

        Args:
            has_retries: whether emptied slots may be filled again; else, or where the recipe does not ask for it, the group is settled.
        """
        failed, inspector = Counter[str](), self._inspector
        if inspector is not None and self._images():
            slots = [slot for slot, image in enumerate(self._slots) if image is not None]
            scores = inspector.scores(self.caption.text, self._images())
            for slot, flag in zip(slots, inspector.flags(scores) if inspector.removes else (), strict=False):
                if flag:
                    self._slots[slot] = None
                    failed += self._failed(flag)
            if failed and self._images():  # what is kept describes what is kept
                scores = inspector.scores(self.caption.text, self._images())
            self._facts = inspector.facts(scores)
        self.is_settled = not (failed and has_retries and inspector and inspector.retries)
        return failed

    def _check(self) -> None:
        """Refuse a group that the sampler failed on; one that the inspector emptied is dropped instead."""
        expected = min(MIN_IMAGES, self._num_wanted)
        if len(self._images()) < expected and not any(flag in self._failures for flag in FLAGS):
            found = ", ".join(f"{number} {verdict}" for verdict, number in sorted(self._failures.items()))
            raise DataError(
                f"caption {self.caption.caption_id} ({self.caption.text[:60]!r}): expected {expected} good images or more, found "
                f"{len(self._images())} after {self._max_retries} retries of each ({found}); try dtype fp32, another scheduler or more "
                "steps, look at the generator, or remove the caption"
            )

    def _failed(self, verdict: str) -> Counter[str]:
        self._failures[verdict] = self._failures.get(verdict, 0) + 1
        return Counter({verdict: 1})
