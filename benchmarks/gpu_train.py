"""Training on a GPU, against what issue 4 asks of an H200.

    python benchmarks/gpu_train.py --hardware h200 [--tflops 790] [--images 512] [--steps 20] [--processes 1]
    python benchmarks/gpu_train.py --tiny --results build       every part in small on any device: tries the script, measures nothing

A ViT-B/16 of recipe cc3m_b16 in bf16, compiled, takes steps on a batch that stays on the device; torch counts the FLOPs of one such step
(matrix products and convolutions, forward and backward). The loss is that of `loss.py`, 256 dimensions, groups of four. Decoding is of
256 px JPEG to augmented 224 px views of whole batches: by the GPU's own decoder, and by the training loader, whose processes decode on
the CPU while the GPU makes views. ZeRO stages train the same batches in jobs of their own, in fp32, as bf16 rounds away what is compared;
every loss is compared with stage 1's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace

import torch
from device import DEVICE, seconds_a_call
from groups import commit_groups, pictures
from loss import measured, seconds_of
from result import Row, parser_of, write
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import ImageReadMode, decode_jpeg

from stablerep.batches import Batch, GroupLoader
from stablerep.batches.augment import Augmenter
from stablerep.config.recipes import RECIPES
from stablerep.config.schema import HeadConfig, PretrainConfig, TrunkConfig
from stablerep.models import normalisation
from stablerep.shards.read import GroupDataset
from stablerep.stages.pretrain_parts import build_engine, build_objective, model_spec
from stablerep.store import Store
from stablerep.training.engine import OptimizerSettings
from stablerep.training.processes import Processes, join_processes

PAPER = replace(RECIPES["cc3m_b16"].pretrain, precision="bf16", images_per_caption=4, num_processes=1, num_nodes=1)
TINY_TRUNK = TrunkConfig("vit_tiny_patch16_224", size_px=32, patch_px=8, width=32, depth=2, num_heads=2, mlp_ratio=2.0)
STORED_PX, ZERO_STEPS, ZERO_STAGES = 256, 20, (1, 2, 3)


def settings_of(options: argparse.Namespace) -> PretrainConfig:
    """What is trained."""
    captions = options.images // PAPER.images_per_caption
    if not options.tiny:
        return replace(PAPER, captions_per_batch=captions)
    return replace(PAPER, captions_per_batch=captions, trunk=TINY_TRUNK, head=HeadConfig(num_layers=2, hidden_dim=32, out_dim=16))


def batch_of(pretrain: PretrainConfig, num_captions: int, step: int = 0, first: int = 0) -> Batch:
    """Random views of captions `first` on, on the device; the same for any number of processes."""
    size_px = pretrain.trunk.size_px
    views = [
        torch.randn(pretrain.images_per_caption, 3, size_px, size_px, generator=torch.Generator().manual_seed(1000 * step + caption))
        for caption in range(first, first + num_captions)
    ]
    labels_N = torch.arange(first, first + num_captions)
    views_MNCHW = torch.stack(views, 1)
    return Batch(views_MNCHW, torch.zeros(num_captions, 0, dtype=torch.int64), labels_N, step, tuple(map(str, labels_N))).to(DEVICE)


def step_rows(options: argparse.Namespace) -> list[Row]:
    """Images a second of training steps, and the share of the device's arithmetic."""
    pretrain, alone = settings_of(options), Processes(0, 1, DEVICE)
    counted, num_counted = build_engine(pretrain, model_spec(pretrain, None), alone), 8
    with FlopCounterMode(display=False) as counter:
        counted.step(batch_of(pretrain, num_counted), 1e-4)
    flops = counter.get_total_flops() / (num_counted * pretrain.images_per_caption)
    del counted
    compiled = replace(pretrain, is_compiled=DEVICE.type == "cuda")
    engine, batch = build_engine(compiled, model_spec(compiled, None), alone), batch_of(pretrain, pretrain.captions_per_batch)
    rate = options.images / seconds_a_call(lambda: engine.step(batch, 1e-4), 5, options.steps)
    found = f"{rate:,.0f} images/s of {flops / 1e9:.3g} GFLOP"
    return [
        Row(
            "ViT-B/16 bf16 step, synthetic tensors",
            found,
            f"{options.tflops} TFLOP/s",
            100 * rate * flops / (options.tflops * 1e12),
            "%",
            45,
        ),
        Row("the same, images a second", found, "", rate, "images/s", 3370),
    ]


def loss_rows(options: argparse.Namespace) -> list[Row]:
    """The fused loss against the dense one."""
    backend, device = ("triton" if DEVICE.type == "cuda" else "tiled"), DEVICE.type
    rows, many = (512, 1024) if options.tiny else (32_768, 65_536)
    seconds = seconds_of(["plain", backend], rows, 256, device, 3)
    extra = {name: max(1.0, measured(name, rows, 256, device, 2)["extra_bytes"]) for name in ("plain", backend)}
    largest_gib = measured(backend, many, 256, device, 2)["extra_bytes"] / 2**30
    return [
        Row(
            f"loss, N={rows:,}",
            f"{backend}, {1000 * seconds[backend]:.1f} ms",
            f"dense, {1000 * seconds['plain']:.1f} ms",
            seconds["plain"] / seconds[backend],
            "x",
            4,
        ),
        Row(
            f"loss, N={rows:,}, extra memory",
            f"{extra[backend] / 2**20:.1f} MiB",
            f"{extra['plain'] / 2**20:.0f} MiB",
            extra["plain"] / extra[backend],
            "x less",
            100,
        ),
        Row(f"loss, N={many:,}, extra memory", backend, "", largest_gib, "GiB", 1, is_most=True),
    ]


def decode_rows(options: argparse.Namespace) -> list[Row]:
    """Images a second from JPEG to views on the device."""
    pretrain, num_images = settings_of(options), options.images
    size_px = pretrain.trunk.size_px
    encoded = pictures(64, STORED_PX, "JPEG", is_grey=False)
    bytes_of = [torch.frombuffer(bytearray(encoded[number % 64]), dtype=torch.uint8) for number in range(num_images)]
    mean, std = normalisation(size_px)
    augmenter = Augmenter(pretrain.augment, size_px=size_px, mean=mean, std=std, seed=0)
    labels_B, index_B = torch.arange(num_images) // 4, torch.arange(num_images) % 4

    def on_the_device() -> None:
        images = [image.to(DEVICE) for image in decode_jpeg(bytes_of, mode=ImageReadMode.RGB, device=DEVICE)]
        augmenter(torch.stack(images), labels_B, index_B, 0)

    rate = num_images / seconds_a_call(on_the_device, 2, options.steps)
    num_workers = 1 if options.tiny else max(2, (os.cpu_count() or 2) - 2)
    with tempfile.TemporaryDirectory() as folder:
        store, num_captions = Store(folder), pretrain.captions_per_batch
        dataset = GroupDataset(store, commit_groups(store, 4 * num_captions, 4, 64, encoded, "jpeg"))
        loader = GroupLoader(
            dataset,
            None,
            captions_per_batch=num_captions,
            images_per_caption=4,
            rank=0,
            world_size=1,
            seed=0,
            augment=pretrain.augment,
            size_px=size_px,
            mean=mean,
            std=std,
            num_workers=num_workers,
            augment_in="device",
            device=DEVICE,
            cache_bytes=0,
        )
        num_warm = 2 * num_workers + 2
        batches = loader.batches(0, num_warm + options.steps)
        loaded = num_images / seconds_a_call(lambda: next(batches), num_warm, options.steps)
        batches.close()
    views = f"{STORED_PX} px JPEG to {size_px} px views"
    return [
        Row(f"decode and augment on the device, {views}", f"{rate:,.0f} images/s", "", rate, "images/s", 6000),
        Row(f"training loader, {views}", f"{num_workers} processes decode, the device augments", "", loaded, "images/s", 6000),
    ]


def zero_rows(options: argparse.Namespace) -> list[Row]:
    """The largest difference of the losses of ZeRO stages from those of stage 1."""
    losses = {stage: losses_of(stage, options) for stage in ZERO_STAGES}
    first = losses[1]
    worst = max(
        abs(found - expected) / abs(expected) for stage in ZERO_STAGES[1:] for found, expected in zip(losses[stage], first, strict=True)
    )
    job = f"{options.processes} processes, {ZERO_STEPS} steps, loss {first[0]:.3f} to {first[-1]:.3f}"
    return [Row("ZeRO-2 and 3 against ZeRO-1, losses", job, "relative difference", worst, "", 1e-3, is_most=True)]


def losses_of(stage: int, options: argparse.Namespace) -> list[float]:
    """The losses of a job of its own."""
    words = [
        "--zero",
        str(stage),
        "--images",
        str(options.images),
        "--processes",
        str(options.processes),
        *(["--tiny"] if options.tiny else []),
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.processes}"]
    done = subprocess.run([*launcher, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ZeRO stage {stage}: {done.stderr[-3000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))


def zero_child(stage: int, options: argparse.Namespace) -> None:
    """Train in this process of the job; rank 0 prints the losses of the whole batch."""
    from stablerep.training.deepspeed_engine import DeepspeedEngine

    processes, pretrain = join_processes(options.processes), replace(settings_of(options), precision="fp32")
    captions = pretrain.captions_per_batch // processes.world_size
    optimizer = OptimizerSettings(pretrain.weight_decay, pretrain.beta1, pretrain.beta2, pretrain.clip_norm, pretrain.precision)
    objective = build_objective(pretrain, model_spec(pretrain, None))
    engine = DeepspeedEngine(objective, optimizer, processes, zero_stage=stage, captions_per_process=captions)
    losses: list[float] = []
    for step in range(ZERO_STEPS):
        result = engine.step(batch_of(pretrain, captions, step, processes.rank * captions), 1e-4)
        losses += [value / processes.world_size for value in processes.total([result.total])]
    if processes.rank == 0:
        print(json.dumps(losses), flush=True)
    os._exit(0)  # threads of the process group must not delay the end


def main() -> int:
    """Measure, print and store; 2 where there is no GPU."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--tflops", type=float, default=790.0, help="of the device, dense bf16 (default: what an H200 reaches)")
    parser.add_argument("--images", type=int, default=512, help="views of a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--processes", type=int, default=max(1, torch.cuda.device_count()), help="of the ZeRO jobs, one for a GPU")
    parser.add_argument("--tiny", action="store_true", help="try the script")
    parser.add_argument("--zero", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.images, options.steps = 64, 2
    elif DEVICE.type != "cuda":
        print("gpu_train: expected a GPU, found none; not measured (--tiny tries the script without one)", file=sys.stderr)
        return 2
    if options.zero:
        zero_child(options.zero, options)
    rows = [*step_rows(options), *loss_rows(options), *decode_rows(options), *zero_rows(options)]
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "no GPU"
    setting = (
        f"{device}, {options.images} views a step, {options.steps} timed steps{', TINY: figures mean nothing' if options.tiny else ''}."
    )
    write("gpu_train", "Training on a GPU", "python benchmarks/gpu_train.py", setting, rows, [], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
