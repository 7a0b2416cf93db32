"""Batches for training, prepared ahead of the step that needs them.

The order is a pure function of (seed, step) over all ranks (order.py), so the saved position of a run is its step: a run may be resumed
with another number of processes or workers and sees the same captions, images and views. With `num_workers=0` a thread prepares the next
batches; else worker processes do, each a whole step at a time. Neither touches the global random state.

Dimension key: M views of a caption, N captions of this rank, C, H, W as in batch.py.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch

from stablerep.batches.ahead import by_thread, by_workers
from stablerep.batches.augment import Augmenter
from stablerep.batches.batch import Batch, GroupSource, ImageWeights
from stablerep.batches.reader import BatchReader, LoadedImages
from stablerep.batches.small_crops import SmallCrops
from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.config.schema import AugmentConfig, SynClrConfig
from stablerep.errors import CheckpointError, ConfigError

_STORED_OVER_VIEW = 8 / 7  # stored images are shrunk to at most this multiple of the view (256 for 224)


class GroupLoader:
    """One rank's batches.

    Args:
        dataset: image groups.
        tokenizer: of the captions; None where there is no text tower (tokens then have T = 0).
        captions_per_batch: captions of a step over all ranks.
        images_per_caption: drawn without replacement from each group; groups with fewer are left out.
        views_per_image: augmented views of each of them: M = views_per_image * images_per_caption, all images' first view first.
        rank: of this process.
        world_size: number of processes.
        seed: decides order, drawn images and views.
        augment: how images become views.
        size_px: side of a view.
        mean: of each channel, in 0..1.
        std: of each channel.
        small_crops: of each image, besides its views, and a key for each view; None: neither.
        num_workers: processes that prepare batches; 0: one thread.
        augment_in: "workers" makes views ahead, on the CPU; "device" makes those of a whole batch at once where training runs, from uint8
            images; "auto" is "device" on a GPU. All give the same views, up to the last digits of another device.
        device: where training runs, and where batches are handed over.
        cache_bytes: decoded images are kept in memory when all of them fit (split over the workers).
        image_weights: what an image counts in the losses, for each image of the group at a position; None: batches have no weights.

    Attributes:
        data_wait_seconds: how long `batches` has made its consumer wait so far.

    Raises:
        ConfigError: the batch does not divide over the ranks, or there are too few usable groups.
    """

    def __init__(
        self,
        dataset: GroupSource,
        tokenizer: CaptionTokenizer | None,
        *,
        captions_per_batch: int,
        images_per_caption: int,
        views_per_image: int = 1,
        rank: int,
        world_size: int,
        seed: int,
        augment: AugmentConfig,
        size_px: int,
        mean: Sequence[float],
        std: Sequence[float],
        num_workers: int,
        small_crops: SynClrConfig | None = None,
        augment_in: Literal["auto", "workers", "device"] = "auto",
        device: torch.device | str = "cpu",
        cache_bytes: int = 256 << 20,
        image_weights: ImageWeights | None = None,
    ) -> None:
        if captions_per_batch % world_size or not 0 <= rank < world_size:
            raise ConfigError(
                f"pretrain.captions_per_batch: expected a multiple of the number of processes and a rank below it, found "
                f"captions_per_batch={captions_per_batch}, world_size={world_size}, rank={rank}"
            )
        self._reader = BatchReader(
            dataset,
            tokenizer,
            Augmenter(augment, size_px=size_px, mean=mean, std=std, seed=seed),
            small_crops and SmallCrops(augment, small_crops, mean=mean, std=std, seed=seed),
            captions_per_batch=captions_per_batch,
            images_per_caption=images_per_caption,
            views_per_image=views_per_image,
            rank=rank,
            world_size=world_size,
            seed=seed,
            largest_side_px=round(size_px * _STORED_OVER_VIEW),
            cache_bytes=cache_bytes // max(1, num_workers),
            image_weights=image_weights,
        )
        self._images_per_caption, self._num_workers, self._device = images_per_caption, num_workers, torch.device(device)
        self._is_augmenting_ahead = augment_in == "workers" or (augment_in == "auto" and self._device.type == "cpu")
        self.data_wait_seconds = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every usable group is seen at most once, and all but fewer than captions_per_batch of them once."""
        return self._reader.order.steps_per_epoch

    @property
    def num_skipped_groups(self) -> int:
        """Groups left out because they have fewer than `images_per_caption` images."""
        return self._reader.num_skipped_groups

    def batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        """The batches of steps `start_step` to `start_step + num_steps - 1`, in order.

        Raises:
            DataError: a stored image or a shard cannot be read.
        """
        steps = range(start_step, start_step + num_steps)
        work: Callable[[int], Batch | LoadedImages] = self._reader.read if self._is_augmenting_ahead else self._reader.load
        prepared = by_workers(work, steps, self._num_workers) if self._num_workers else by_thread(work, steps)
        try:
            while True:
                started_at = time.perf_counter()
                ready = next(prepared, None)
                if ready is None:
                    return
                batch = ready.to(self._device) if isinstance(ready, Batch) else self._reader.augment(ready, self._device)
                self.data_wait_seconds += time.perf_counter() - started_at
                yield batch
        finally:
            prepared.close()

    def position(self, step: int) -> dict[str, int]:
        """A small record to save with the checkpoint of `step`; `check_position` compares it when the run continues."""
        order = self._reader.order
        return {
            "step": step,
            "epoch": order.epoch(step),
            "batch_of_epoch": step % order.steps_per_epoch,
            "seed": order.seed,
            "num_groups": order.num_groups,
            "captions_per_batch": order.captions_per_batch,
            "images_per_caption": self._images_per_caption,
        }

    def check_position(self, saved: dict[str, int]) -> None:
        """Refuse to continue a run whose order was another one.

        Raises:
            CheckpointError: names what differs.
        """
        found = self.position(saved.get("step", 0))
        different = [f"{key} was {saved.get(key)} and is {value}" for key, value in found.items() if saved.get(key) != value]
        if different:
            raise CheckpointError(
                f"expected to continue in the same order of groups, found: {'; '.join(different)}; "
                "continue with the data set and settings of the checkpoint, or start a new run"
            )
