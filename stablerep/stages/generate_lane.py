"""How a lane of `generate` works: shard by shard, each made, committed, reported.

Captions, model and torch are loaded when there is a first shard to make. Which shard is next is decided in `groups.lane`, what it holds
in `groups.make`.
"""

import dataclasses
import logging
import time
from contextlib import closing
from functools import cached_property
from typing import Any

from stablerep.captions.prompt_set import lane_shards, read_prompt_set, shard_captions
from stablerep.groups.cost import gpu_of_device
from stablerep.groups.inspection import Inspector
from stablerep.groups.lane import LaneWork, Overtaken, Turn
from stablerep.groups.live_sheet import LiveSheet
from stablerep.groups.make import make_shard, spec
from stablerep.groups.resolve import is_real
from stablerep.records import Caption, GeneratorRef, LaneReport, PromptSet, ShardRecord
from stablerep.shards import layout
from stablerep.shards.dataset import commit_shard, find_shard, write_spec
from stablerep.shards.manifest import KEPT, WEIGHTED, num_made
from stablerep.shards.parts import Parts, remove_leftover_parts
from stablerep.stages.context import Stage
from stablerep.stages.generate_sampler import OpenSampler, open_sampler
from stablerep.stages.quality import inspection_spec, open_inspector
from stablerep.telemetry.reporter import Progress

log = logging.getLogger("stablerep")


class LaneRun:
    """What a lane needs while it works; captions and sampler are loaded when they are first asked for."""

    def __init__(self, stage: Stage, prompt_set: PromptSet, generator: GeneratorRef, lane: int) -> None:
        self.stage, self.prompt_set, self.generator, self.lane = stage, prompt_set, generator, lane
        self.settings, self.report = stage.recipe.generate, stage.reporter.report
        self.own = lane_shards(prompt_set.num_shards, prompt_set.num_lanes, lane)
        self.dataset_id = write_spec(stage.store, prompt_set, generator, self.spec())
        self.num_made, self.started_at = 0, time.monotonic()

    def spec(self) -> dict[str, Any]:
        """What decides the images."""
        inspection = inspection_spec(self.stage.recipe, self.generator)
        return spec(dataclasses.asdict(self.settings), is_real=is_real(self.generator.uri), inspection=inspection)

    @cached_property
    def captions(self) -> list[Caption]:
        """All captions of the prompt set."""
        return read_prompt_set(self.stage.store, self.prompt_set)

    @cached_property
    def sampler(self) -> OpenSampler:
        """The loaded model, or the real images."""
        return open_sampler(
            self.settings,
            self.generator,
            self.stage.store,
            self.captions,
            on_halved=lambda _: self.report("stablerep_generate_out_of_memory_total", 1),
        )

    @cached_property
    def sheet(self) -> LiveSheet:
        """The groups that were made last, to look at."""
        key = f"{layout.lane_sheets_folder(self.dataset_id)}/lane-{self.lane}.html"
        return LiveSheet(f"Image groups of {self.dataset_id}, lane {self.lane}", lambda page: self.stage.store.write(key, page))

    @cached_property
    def inspector(self) -> Inspector | None:
        """What scores and judges groups while they are made, where the recipe has it."""
        return open_inspector(self.stage.recipe, self.generator)

    def run(self) -> LaneReport:
        """Make what is missing; the records of this lane's shards are there at the end."""
        self.report("stablerep_run_info", 1, stage="generate", id=self.dataset_id)
        found = [index for index in self.own if self.find(index) is not None]
        self.report("stablerep_generate_shards_total", len(found), outcome="found")
        self.report("stablerep_generate_groups_total", 0)  # a lane that is held and makes none has a rate, too
        own = set(self.own)
        work = LaneWork(
            self.stage.store,
            f"groups/{self.dataset_id}/claims",
            lane=self.lane,
            own=self.own,
            others=[index for index in range(self.prompt_set.num_shards) if index not in own],
            is_done=lambda index: self.find(index) is not None,
        )
        total, done = (sum(map(self.num_wanted, indices)) for indices in (self.own, found))
        with self.stage.reporter.progress(total, "images", done) as progress, closing(iter(work)) as turns:
            for turn in turns:
                self.make(turn, work, _ShardProgress(progress if turn.index in own else None, self.num_wanted(turn.index)))
            progress.find(progress.num_left)  # what others made of this lane's shards
        self.sheet.close()
        work.forget_the_dead()
        remove_leftover_parts(self.stage.store, self.dataset_id, lambda index: self.find(index) is not None)
        records = self.records()
        return LaneReport(
            lane=self.lane,
            dataset_id=self.dataset_id,
            num_shards=len(records),
            num_images=sum(record.num_images for record in records),
            num_images_made=self.num_made,
            seconds=round(time.monotonic() - self.started_at, 3),
        )

    def make(self, turn: Turn, work: LaneWork, progress: "_ShardProgress") -> None:
        """Make and commit one shard, unless another worker is done with it first or finishes it."""
        settings, index = self.settings, turn.index
        captions = shard_captions(self.captions, self.prompt_set.num_shards, index)
        parts = Parts(self.stage.store, self.dataset_id, index, captions, self.sheet.add)
        progress.find(self.settings.images_per_caption * len(parts.positions()))
        if index not in self.own:
            log.info("lane %d: own shards are done, helping with shard %d", self.lane, index)

        def on_images(verdicts: dict[str, int]) -> None:
            self.num_made += num_made(verdicts)
            for verdict, number in verdicts.items():
                what = "flagged_images" if verdict.startswith((KEPT, WEIGHTED)) else "images"
                self.report(f"stablerep_generate_{what}_total", number, verdict=verdict)
            speed = self.report_speed()
            progress.advance(verdicts.get("good", 0), f"shard {index}{speed}")
            work.beat(index)

        try:
            made = make_shard(
                self.sampler.sampler,
                captions,
                images_per_caption=settings.images_per_caption,
                batch_size=settings.batch_size,
                image_format=settings.image_format,
                image_quality=settings.image_quality,
                max_retries=settings.max_retries_per_image,
                inspector=self.inspector,
                on_images=on_images,
                journal=parts,
                is_helper=turn.is_helper,
                may_leave=turn.may_leave,
            )
        except Overtaken:
            log.info("lane %d: shard %d was committed by another lane meanwhile", self.lane, index)
            return
        if made is None:
            log.info("lane %d: the last groups of shard %d are left to the lane that holds it", self.lane, index)
            return
        progress.finish()
        if self.find(index) is None:
            groups, counts = made
            commit_shard(self.stage.store, self.dataset_id, index, groups, counts=counts, producer=self.producer())
            self.report("stablerep_generate_shards_total", 1, outcome="made")
            self.report("stablerep_generate_groups_total", len(groups))
        parts.delete()

    def report_speed(self) -> str:
        """Report images a second and, where the images are computed, TFLOP/s and utilisation; the latter two also as words."""
        rate = self.num_made / (time.monotonic() - self.started_at)
        self.report("stablerep_generate_images_per_second", rate)
        if not self.sampler.tflop_per_image:
            return ""
        reached = rate * self.sampler.tflop_per_image
        self.report("stablerep_generate_tflop_per_second", reached)
        gpu = gpu_of_device(self.sampler.device_name)
        if gpu is None:
            return f", {reached:.3g} TFLOP/s"
        self.report("stablerep_generate_utilisation_ratio", reached / gpu.tflop_per_second)
        return f", {reached:.0f} TFLOP/s, {reached / gpu.tflop_per_second:.0%} of what matrix products reach ({gpu.source})"

    def find(self, index: int) -> ShardRecord | None:
        """The record of a committed shard."""
        return find_shard(self.stage.store, self.dataset_id, index)

    def num_wanted(self, index: int) -> int:
        """Images in a shard when every group is complete."""
        num_captions, num_shards = self.prompt_set.num_captions, self.prompt_set.num_shards
        num_here = (index + 1) * num_captions // num_shards - index * num_captions // num_shards
        return num_here * self.settings.images_per_caption

    def records(self) -> list[ShardRecord]:
        """Of this lane's shards, those that are committed."""
        return [record for record in map(self.find, self.own) if record is not None]

    def producer(self) -> dict[str, str]:
        """Who made a shard; kept in its record, no part of any id."""
        return {"lane": str(self.lane), "batch_size": str(self.settings.batch_size), **self.sampler.producer}


class _ShardProgress:
    """A shard's part of its lane's bar: never more than its images, and all of them when it is finished; none of another lane's."""

    def __init__(self, progress: Progress | None, num_images: int) -> None:
        self._progress, self._num_left = progress, num_images

    def find(self, amount: int) -> None:
        """Images that are made already."""
        if self._progress and (amount := self._taken(amount)):
            self._progress.find(amount)

    def advance(self, amount: int, note: str) -> None:
        """Images that were made now."""
        if self._progress:
            self._progress.advance(self._taken(amount), note)

    def finish(self) -> None:
        """The rest was made by others, or is left out."""
        self.find(self._num_left)

    def _taken(self, amount: int) -> int:
        amount = min(amount, self._num_left)
        self._num_left -= amount
        return amount
