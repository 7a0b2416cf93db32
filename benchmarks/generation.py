"""Generation: what the control plane keeps, whether noise is the image's own, and what a whole lane gives of the model's rate.

    python benchmarks/generation.py [--images 20000] [--captions 25] [--steps 50] [--rounds 3]

Every row goes through `LaneRun`, the lane of the product: claims, parts, judging, encoding, shards, records. Speeds are in CPU-seconds of
this process with one torch thread, encoding in other threads included. What a lane adds to its model is measured inside the lane, because
two runs differ by more than that on a busy machine; medians of rounds are told.

Writes benchmarks/results/generation_<hardware>_<yyyymmdd>.md.
"""

import argparse
import hashlib
import io
import json
import logging
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from groups import GENERATOR, caption_of, pictures
from result import Row, parser_of, write

from stablerep.captions.packaged import caption_corpus
from stablerep.captions.prompt_set import write_prompt_set
from stablerep.groups import make
from stablerep.groups.diffusers_sampler import DiffusersSampler
from stablerep.groups.embedded_models import embedded_path
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.identity import sha256_bytes
from stablerep.records import Caption, GeneratorRef, PromptSet
from stablerep.stages.context import open_stage
from stablerep.stages.generate_lane import LaneRun
from stablerep.stages.generate_sampler import OpenSampler
from stablerep.store import Store

GUIDANCE, IMAGES_PER_CAPTION, BATCH_SIZE = 2.0, 6, 50
SCORED = replace(GENERATOR, uri="embedded:mnist")  # the embedded default: every group is scored against its caption
STORED_SIZE_PX = 24  # of 32: images are resized
KEPT_IMAGES_PER_CAPTION, KEPT_GROUPS_PER_SHARD, FILE_SIZE_PX = 10, 100, 256
LATENT_CAPTIONS, LATENT_BATCH_SIZES, LATENT_LANES = 24, (1, 7, 50), (1, 2, 4)
STOP_AFTER_BATCHES = 4
GPU_ROWS = (
    "SD 1.5 architecture, 512 px, DDIM-50 >= 4.3 images/s and >= 1.6 x diffusers' eager best batch",
    "DPM++-20 >= 10 images/s",
    "LCM-4 preset >= 45 images/s",
)


def lane(store: Store, prompts: PromptSet, sampler: Any, index: int, words: str, generator: GeneratorRef = GENERATOR) -> int:
    """Run one lane to its end with a sampler that is there already; how many images it made."""
    with open_stage("generate", "smoke", words, store.uri, f"telemetry/generate-{index}.jsonl") as stage:
        run = LaneRun(stage, prompts, generator, index)
        run.sampler = OpenSampler(sampler, {"device": "cpu"})
        return run.run().num_images_made


def in_turn(sides: dict[str, Callable[[], object]], num_rounds: int) -> dict[str, list[tuple[float, float]]]:
    """CPU-seconds of all threads of this process and seconds on the clock, of each side, round by round."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(num_rounds):
        for name, work in sides.items():
            cpu_at, clock_at = time.process_time(), time.monotonic()
            work()
            took[name].append((time.process_time() - cpu_at, time.monotonic() - clock_at))
    return took


class Table:
    """A sampler that looks images up: no model, so what is left is the control plane."""

    size_px = 32

    def __init__(self) -> None:
        self._images = np.random.default_rng(0).integers(0, 256, (64, self.size_px, self.size_px, 3), dtype=np.uint8)

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        """Of one caption never the same image twice."""
        return [self._images[(int(request.caption_id[:4], 16) + request.image_index) % len(self._images)] for request in requests]


def control_plane(num_images: int, num_rounds: int) -> Row:
    """Images a CPU-second from the sampler's hands to a committed shard; files are encoded beforehand."""
    files = pictures(64, FILE_SIZE_PX, "JPEG", is_grey=False)
    captions = [caption_of(number) for number in range(num_images // KEPT_IMAGES_PER_CAPTION)]
    words = (
        f"generate.images_per_caption={KEPT_IMAGES_PER_CAPTION} generate.batch_size={BATCH_SIZE} generate.stored_size_px=32 "
        "generate.image_format=jpeg"
    )
    counted: list[int] = []

    def encoded(image: ImageHW3, **_: object) -> bytes:
        return files[int(image[0, 0, 0]) % len(files)]

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            prompts = write_prompt_set(store, captions, {}, captions_per_shard=KEPT_GROUPS_PER_SHARD, num_lanes=1)
            counted.append(lane(store, prompts, Table(), 0, words))

    def plain() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for first in range(0, len(captions), KEPT_GROUPS_PER_SHARD):
                with tarfile.open(Path(folder) / f"{first}.tar", "w") as tar:
                    for caption in captions[first : first + KEPT_GROUPS_PER_SHARD]:
                        for number in range(KEPT_IMAGES_PER_CAPTION):
                            member = tarfile.TarInfo(f"{caption.caption_id}.{number}.jpg")
                            member.size = len(files[number])
                            tar.addfile(member, io.BytesIO(files[number]))

    true_encoder, make.encode_image = make.encode_image, encoded  # type: ignore[assignment]
    try:
        best = {name: min(took)[0] for name, took in in_turn({"lane": ours, "tarfile": plain}, num_rounds).items()}
    finally:
        make.encode_image = true_encoder
    expected = len(captions) * KEPT_IMAGES_PER_CAPTION
    if set(counted) != {expected}:
        raise ValueError(f"expected {expected} images from every lane, found {sorted(set(counted))}")
    size_kib = sum(map(len, files)) / len(files) / 1024
    return Row(
        "control plane: images encoded beforehand, journaled and committed, a CPU-second",
        f"a lane, {expected:,} files of {size_kib:.1f} KiB, {best['lane']:.1f} CPU-s",
        f"tarfile alone, no journal, record or digest: {expected / best['tarfile']:,.0f}",
        expected / best["lane"],
        "images/s/core",
        2000,
    )


class Recorder:
    """Stands where the pipeline is, keeps the latents it is given and makes images of them without denoising."""

    def __init__(self, sampler: DiffusersSampler) -> None:
        self.sampler, self.size_px, self.digests = sampler, sampler.size_px, dict[str, str]()
        self._pipeline, self._requests = sampler._pipeline, list[ImageRequest]()
        self.dtype, self.num_batches = self._pipeline.dtype, 0
        self.stop_after = 0  # batches; 0: never
        sampler._pipeline = self

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        """As the sampler does."""
        if self.stop_after and self.num_batches == self.stop_after:
            raise KeyboardInterrupt
        self._requests, self.num_batches = list(requests), self.num_batches + 1
        return self.sampler.sample(requests)

    def __call__(self, latents: torch.Tensor, **_: object) -> SimpleNamespace:
        """Note every row, image by image."""
        for request, row in zip(self._requests, latents, strict=True):
            digest = hashlib.sha256(row.contiguous().numpy().tobytes()).hexdigest()
            name = f"{request.caption_id}/{request.image_index}"
            if self.digests.setdefault(name, digest) != digest:
                self.digests[name] = "two"
        images = torch.nn.functional.interpolate(latents[:, :1].float(), (self.size_px, self.size_px)).sigmoid()
        return SimpleNamespace(images=images)


def embedded_sampler(num_steps: int, size_px: int) -> DiffusersSampler:
    """The embedded pipeline as the paper samples: DDIM, guidance 2."""
    return DiffusersSampler(
        embedded_path(),
        scheduler="ddim",
        num_inference_steps=num_steps,
        guidance=GUIDANCE,
        negative_prompt="",
        noise_seed=0,
        dtype="fp32",
        device="cpu",
        size_px=size_px,
    )


def corpus(num_captions: int) -> list[Caption]:
    """Captions of the embedded model's kind."""
    return [
        Caption(sha256_bytes(text.encode())[:16], text) for text in dict.fromkeys(t for t, _ in caption_corpus("mnist", num_captions, 0))
    ]


def words_of(batch_size: int, size_px: int) -> str:
    """Overrides of recipe smoke."""
    return (
        f"generate.images_per_caption={IMAGES_PER_CAPTION} generate.batch_size={batch_size} generate.stored_size_px={size_px} "
        "generate.image_format=jpeg"
    )


def latents_of_lanes(folder: Path, num_lanes: int, batch_size: int, stop_after: int = 0) -> dict[str, str]:
    """Digest of the latents of every image that the lanes make; fewer where they are stopped."""
    store = Store(str(folder))
    prompts = write_prompt_set(store, corpus(LATENT_CAPTIONS), {}, captions_per_shard=6, num_lanes=num_lanes)
    recorder = Recorder(embedded_sampler(1, 32))
    recorder.stop_after = stop_after
    try:
        for index in range(num_lanes):
            lane(store, prompts, recorder, index, words_of(batch_size, 32))
    except KeyboardInterrupt:
        pass
    return recorder.digests


def in_a_process(folder: Path, stop_after: int) -> dict[str, str]:
    """The same, two lanes and batches of 7, in a process of its own."""
    command = [sys.executable, __file__, "--latents-in", str(folder), "--stop-after", str(stop_after)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def same_latents() -> tuple[Row, Row]:
    """Share of latents that are, bit for bit, those of one lane with the largest batch."""
    runs: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        for num_lanes in LATENT_LANES:
            for batch_size in LATENT_BATCH_SIZES:
                runs.append(latents_of_lanes(Path(name) / f"{num_lanes}-{batch_size}", num_lanes, batch_size))
        stopped = in_a_process(Path(name) / "restarted", STOP_AFTER_BATCHES)
        continued = in_a_process(Path(name) / "restarted", 0)
    reference = runs[len(LATENT_BATCH_SIZES) - 1]
    if not (0 < len(stopped) < len(reference)) or stopped.keys() | continued.keys() != reference.keys():
        raise ValueError(f"expected a restart in the middle, found {len(stopped)} and {len(continued)} of {len(reference)} images")
    if any(run.keys() != reference.keys() for run in runs) or len(set(reference.values())) != len(reference):
        raise ValueError("expected the same images, all different, from all runs")
    what = f"one lane, batch {LATENT_BATCH_SIZES[-1]}, {len(reference)} images"
    return (
        _share(
            "batch sizes and lanes",
            "lanes " + ", ".join(map(str, LATENT_LANES)) + f" x batches {LATENT_BATCH_SIZES}",
            runs,
            reference,
            what,
        ),
        _share(
            "restarts", f"stopped after {STOP_AFTER_BATCHES} batches, continued by another process", [stopped, continued], reference, what
        ),
    )


def _share(over: str, ours: str, runs: Sequence[dict[str, str]], reference: dict[str, str], baseline: str) -> Row:
    same = [digest == reference[name] for run in runs for name, digest in run.items()]
    return Row(
        f"latents bit-identical over {over}", f"{ours}: {sum(same):,} of {len(same):,}", baseline, 100 * float(np.mean(same)), "%", 100
    )


def end_to_end(num_captions: int, num_steps: int, num_rounds: int) -> list[Row]:
    """What a lane spends outside its model, a lane against the same calls of the model alone, and against one call per image."""
    sampler, captions = embedded_sampler(num_steps, STORED_SIZE_PX), corpus(num_captions)
    pipeline, calls = Timed(sampler), calls_of(sampler, captions)
    num_made, shares = list[int](), list[tuple[float, float]]()
    plain: Any = StableDiffusionPipeline.from_pretrained(embedded_path())
    plain.set_progress_bar_config(disable=True)
    num_plain = 8

    def whole() -> None:
        started_at, pipeline.seconds, pipeline.decoding_seconds = time.process_time(), 0.0, 0.0
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            prompts = write_prompt_set(store, captions, {}, captions_per_shard=len(captions), num_lanes=1)
            num_made.append(lane(store, prompts, sampler, 0, words_of(BATCH_SIZE, STORED_SIZE_PX), SCORED))
        taken = time.process_time() - started_at
        shares.append((pipeline.seconds / taken, (pipeline.seconds - pipeline.decoding_seconds) / taken))

    def model() -> None:
        with torch.inference_mode():
            for call in calls:
                pipeline(**call)

    def one_by_one() -> None:
        for caption in captions[:num_plain]:
            plain(caption.text, num_inference_steps=num_steps)

    whole()  # the scorer's libraries are imported once a process
    shares.clear()
    took = in_turn({"lane": whole, "model": model, "plain": one_by_one}, num_rounds)
    if min(num_made) < len(captions) * IMAGES_PER_CAPTION:
        raise ValueError(f"expected {len(captions) * IMAGES_PER_CAPTION} images, found {min(num_made)}")
    # A lane fills its last batch up and makes rejected images again: all that it made counts, as whole batches.
    num_images = {"model": len(calls) * BATCH_SIZE, "lane": -(-min(num_made) // BATCH_SIZE) * BATCH_SIZE, "plain": num_plain}
    ms = {name: 1000 * np.array(took[name]) / num_images[name] for name in took}  # [rounds, CPU and wall]
    ours = f"a lane: prompts, denoising, decoding, resize, judging, scoring, JPEG, commit: {_per_image(ms['lane'])}"

    def row(what: str, baseline: str, ratios: Any, unit: str, target: float | None) -> Row:
        spread = f"{min(ratios):.4g} to {max(ratios):.4g} over {len(ratios)} rounds"
        return Row(what, ours, f"{baseline}; {spread}", float(np.median(ratios)), unit, target)

    model_ratios, plain_ratios = (ms[name][:, 0] / ms["lane"][:, 0] for name in ("model", "plain"))
    in_model, in_denoising = 100 * np.array(shares).T
    return [
        row(f"of a lane's CPU-seconds, those of the model, DDIM-{num_steps}", "denoising and decoding in that lane", in_model, "%", 97),
        row("those of denoising", "in that lane, without decoding", in_denoising, "%", 97),
        row("end to end against the model alone", f"the same calls alone: {_per_image(ms['model'])}", 100 * model_ratios, "%", None),
        row(
            f"end to end against one call per image, {num_steps} steps",
            f"pipe(prompt), diffusers' defaults: {_per_image(ms['plain'])}",
            plain_ratios,
            "x",
            1.5,
        ),
    ]


class Timed:
    """The pipeline of a sampler, in its place: CPU-seconds of its calls, and of decoding in them, on the thread that calls."""

    def __init__(self, sampler: DiffusersSampler) -> None:
        self._pipeline, self.dtype = sampler._pipeline, sampler._pipeline.dtype
        self.seconds = self.decoding_seconds = 0.0
        decode, sampler._pipeline.vae.decode, sampler._pipeline = sampler._pipeline.vae.decode, self._decode, self
        self._true_decode = decode

    def __call__(self, **arguments: Any) -> Any:
        """Run it."""
        started_at = time.thread_time()
        found = self._pipeline(**arguments)
        self.seconds += time.thread_time() - started_at
        return found

    def _decode(self, *arguments: Any, **named: Any) -> Any:
        started_at = time.thread_time()
        found = self._true_decode(*arguments, **named)
        self.decoding_seconds += time.thread_time() - started_at
        return found


def _per_image(ms_R2: np.ndarray) -> str:
    cpu, wall = np.median(ms_R2, axis=0)
    return f"{cpu:.1f} CPU-ms an image ({wall:.1f} on the clock)"


def calls_of(sampler: DiffusersSampler, captions: Sequence[Caption]) -> list[dict[str, Any]]:
    """What the pipeline is called with for whole batches of the captions' images: latents and embeddings that are there already."""
    requests = [ImageRequest(c.caption_id, c.text, index) for c in captions for index in range(IMAGES_PER_CAPTION)]
    pipeline, calls = sampler._pipeline, list[dict[str, Any]]()

    def noted(**arguments: Any) -> SimpleNamespace:
        calls.append(arguments)
        return SimpleNamespace(images=torch.zeros(BATCH_SIZE, 1, STORED_SIZE_PX, STORED_SIZE_PX))

    noted.dtype = pipeline.dtype  # type: ignore[attr-defined]
    sampler._pipeline = noted
    try:
        for first in range(0, len(requests) // BATCH_SIZE * BATCH_SIZE, BATCH_SIZE):
            sampler.sample(requests[first : first + BATCH_SIZE])
    finally:
        sampler._pipeline = pipeline
    return calls


def gpu_notes() -> list[str]:
    """What only a GPU can tell."""
    why = "see gpu_generation.py" if torch.cuda.is_available() else "not measured: no GPU"
    return [f"H200, {what}: {why}." for what in GPU_ROWS]


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--images", type=int, default=20_000, help="of the control plane")
    parser.add_argument("--captions", type=int, default=25, help="of the real lane")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latents-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stop-after", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print and store."""
    options = options_of()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    if options.latents_in:
        sys.stdout.write(json.dumps(latents_of_lanes(options.latents_in, 2, 7, options.stop_after)))
        return
    rows = [
        control_plane(options.images, options.rounds),
        *same_latents(),
        *end_to_end(options.captions, options.steps, options.rounds),
    ]
    setting = (
        f"the embedded pipeline (32 px, fp32, stored at {STORED_SIZE_PX} px as JPEG), one torch thread, batches of {BATCH_SIZE}, "
        f"{options.captions} captions x {IMAGES_PER_CAPTION} images; CPU-seconds, {options.rounds} rounds of all sides in turn: of the "
        "control plane the fastest of each, else the median."
    )
    notes = [
        "The control plane is given arrays of 32 px to judge and JPEG files of 256 px to keep: neither model nor encoding, but judging.",
        "A share of one lane's CPU-seconds is exact where others are busy; the ratio of two runs moves with what else runs.",
        "The model alone is its pipeline, called with latents and prompt embeddings that are there already.",
        "Latents are taken where the pipeline receives them; pixels of batches below 16 may differ by one grey level (sampler_*.md).",
        "One call per image has guidance 7.5 and diffusers' own scheduler, ours 2.0 and DDIM: the same evaluations of the denoiser.",
        "100 kills over four lanes: `make chaos`, docs/log.md, 2026-11-29: 0 groups lost, 0 duplicated, 0 truncated, 41 redone.",
        *gpu_notes(),
    ]
    write("generation", "Generation at scale", "python benchmarks/generation.py", setting, rows, notes, options)


if __name__ == "__main__":
    main()
