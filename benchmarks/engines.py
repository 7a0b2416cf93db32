"""ONNX Runtime against torch on the CPU: the trunk of one encoder, batches of 1, 8 and 32.

    python benchmarks/engines.py [--repeats 15] [--threads 1]

Two encoders: that of the recipe `quickstart` and vit_tiny_patch16_224. Calls of both engines alternate, so that a busy machine is busy for
both; the medians are compared. Times are CPU time of this process, which others' load lengthens little; wall time is a note.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from result import Row, parser_of, write

from stablerep.config import load_recipe
from stablerep.models import Encoder, HeadSpec, ModelSpec, Preprocessor, TrunkSpec, build_two_tower, default_preprocessor, num_features
from stablerep.models.formats import onnx_bytes
from stablerep.models.onnx_trunk import OnnxTrunk

BATCHES = (1, 8, 32)


def encoders() -> dict[str, Encoder]:
    """Untrained: the arithmetic is the same."""
    trunk = dataclasses.asdict(load_recipe("quickstart", "").pretrain.trunk)
    known = {field.name for field in dataclasses.fields(TrunkSpec)}
    specs = {
        "quickstart": TrunkSpec(**{name: value for name, value in trunk.items() if name in known}),
        "vit_tiny 224": TrunkSpec("vit_tiny_patch16_224", size_px=224),
    }
    return {name: _encoder(spec) for name, spec in specs.items()}


def _encoder(trunk: TrunkSpec) -> Encoder:
    spec = ModelSpec(trunk, HeadSpec(), None)
    built = build_two_tower(spec, seed=0).trunk
    preprocessor = Preprocessor(**default_preprocessor(trunk.size_px))
    return Encoder(
        built, None, model_id="model-untrained", spec=spec, preprocessor=preprocessor, embedding_dim=num_features(built), training={}
    )


def measure(
    engines: dict[str, Callable[[torch.Tensor], torch.Tensor]], images: torch.Tensor, repeats: int
) -> dict[str, tuple[float, float]]:
    """Median CPU and wall milliseconds of a call, by engine."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for repeat in range(repeats + 2):
        for name, engine in engines.items():
            cpu, wall = time.process_time(), time.perf_counter()
            engine(images)
            if repeat >= 2:  # the first calls choose kernels and allocate
                found[name].append((1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)))
    return {name: (statistics.median(c for c, _ in times), statistics.median(w for _, w in times)) for name, times in found.items()}


def rows_of(name: str, encoder: Encoder, options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """The rows of one encoder."""
    trunk = OnnxTrunk(onnx_bytes(encoder), name)
    engines = {"torch": encoder.embed, "onnx": trunk}
    rows, notes = [], []
    for size in BATCHES:
        images = torch.randn(size, 3, encoder.size_px, encoder.size_px, generator=torch.Generator().manual_seed(size))
        difference = float((trunk(images) - encoder.embed(images)).abs().max())
        found = measure(engines, images, options.repeats)
        (onnx_cpu, onnx_wall), (torch_cpu, torch_wall) = found["onnx"], found["torch"]
        what = f"{name}, batch {size}"
        rows.append(Row(what, f"ONNX Runtime, {onnx_cpu:.2f} ms CPU", f"torch, eager, {torch_cpu:.2f} ms CPU", torch_cpu / onnx_cpu, "x"))
        notes.append(f"{what}: wall {onnx_wall:.2f} and {torch_wall:.2f} ms; largest difference between embeddings {difference:.1e}.")
    return rows, notes


def main() -> None:
    """Measure, print and store."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    notes: list[str] = []
    for name, encoder in encoders().items():
        more_rows, more_notes = rows_of(name, encoder, options)
        rows, notes = rows + more_rows, notes + more_notes
    command = f"python benchmarks/engines.py --repeats {options.repeats} --threads {options.threads}"
    setting = f"untrained trunks, {options.threads} thread(s), medians of {options.repeats} alternating calls."
    write("engines", "ONNX Runtime against torch", command, setting, rows, notes, options)


if __name__ == "__main__":
    main()
