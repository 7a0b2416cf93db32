"""The multi-positive loss, forward and backward: tiles (and Triton on a GPU) against the dense form in the same run.

    python benchmarks/loss.py [--rows 8192] [--dim 256] [--threads 2] [--repeats 3] [--limit-gib 2] [--largest 131072] [--hardware 2core]

Time is wall time, rounds of all backends in turn so that load hits all alike, best of the rounds. Memory is what the peak of a process
of its own grows by over the embeddings and their gradient (CPU: resident set; CUDA: allocator). `--largest` bounds the search for the
longest batch within the limit, which doubles from `--rows` up. Writes benchmarks/results/loss_<hardware>_<yyyymmdd>.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from stablerep.losses import multi_positive

IMAGES_PER_CAPTION = 4
RESULTS = Path(__file__).parent / "results"
MIB = 1 << 20


def step_of(backend: str, num_rows: int, dim: int, device: str) -> Callable[[], None]:
    """One forward and backward on random embeddings."""
    rows = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    rows.grad = torch.zeros_like(rows)
    labels, index = torch.arange(num_rows, device=device) // IMAGES_PER_CAPTION, torch.arange(num_rows, device=device)

    def step() -> None:
        multi_positive(rows, rows, labels, labels, index, 0.1, backend=backend).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def seconds_of(backends: list[str], num_rows: int, dim: int, device: str, repeats: int) -> dict[str, float]:
    """Best wall time of a step of each backend."""
    steps = {backend: step_of(backend, num_rows, dim, device) for backend in backends}
    best = dict.fromkeys(backends, float("inf"))
    for _ in range(repeats + 1):  # the first round warms up, but may be the best
        for backend, step in steps.items():
            started_at = time.perf_counter()
            step()
            best[backend] = min(best[backend], time.perf_counter() - started_at)
    return best


def peak_bytes(device: str) -> int:
    """The most memory this process had since the last `forget_peak`; on Linux (getrusage would count the parent's at the fork)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def forget_peak(device: str) -> None:
    """Count the peak from the present use on."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def child(backend: str, num_rows: int, dim: int, device: str) -> None:
    """Print what one step adds to the peak, and how long it took."""
    step_of(backend, 64, dim, device)()  # libraries, threads and their buffers
    step = step_of(backend, num_rows, dim, device)
    forget_peak(device)
    before = peak_bytes(device)
    started_at = time.perf_counter()
    step()
    print(json.dumps({"extra_bytes": peak_bytes(device) - before, "seconds": time.perf_counter() - started_at}))


def measured(backend: str, num_rows: int, dim: int, device: str, threads: int) -> dict[str, float]:
    """The same in a process of its own."""
    arguments = ["--child", backend, "--rows", str(num_rows), "--dim", str(dim), "--threads", str(threads), "--device", device]
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def longest_batch(backend: str, options: argparse.Namespace) -> tuple[int, float]:
    """Largest tried number of rows within the limit, and the memory it took; (0, what it took) when the first is over."""
    best, num_rows = (0, float("nan")), options.rows
    while num_rows <= options.largest:
        extra_bytes = measured(backend, num_rows, options.dim, options.device, options.threads)["extra_bytes"]
        if extra_bytes > options.limit_gib * (1 << 30):
            return best if best[0] else (0, extra_bytes)
        best, num_rows = (num_rows, extra_bytes), num_rows * 2
    return best


def table(options: argparse.Namespace) -> list[str]:
    """Rows of the result for one device."""
    backends = ["plain", "tiled"] + (["triton"] if options.device == "cuda" else [])
    seconds = seconds_of(backends, options.rows, options.dim, options.device, options.repeats)
    memory = {name: measured(name, options.rows, options.dim, options.device, options.threads)["extra_bytes"] for name in backends}
    lines = [
        "| backend | ms | times as fast as plain | extra MiB | share of plain | longest batch tried within the limit | its extra MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in backends:
        num_rows, extra_bytes = longest_batch(name, options)
        end = f"{num_rows:,}" + (" (the longest tried)" if num_rows * 2 > options.largest else "") if num_rows else "none"
        lines.append(
            f"| {name} | {1000 * seconds[name]:.0f} | {seconds['plain'] / seconds[name]:.1f} | {memory[name] / MIB:.0f} "
            f"| {100 * memory[name] / memory['plain']:.1f} % | {end} | {extra_bytes / MIB:.0f} |"
        )
    return lines


def report(options: argparse.Namespace) -> str:
    """The result file."""
    today = datetime.now(UTC)
    load = os.getloadavg()[0]
    command = f"python benchmarks/loss.py --rows {options.rows} --dim {options.dim} --threads {options.threads} --largest {options.largest}"
    setting = f"float32, {options.rows:,} rows of {options.dim}, groups of {IMAGES_PER_CAPTION}, {options.threads} threads"
    how = f"best of {options.repeats + 1} rounds in turn, memory in processes of their own"
    parts = [
        f"# Multi-positive loss, forward and backward, {options.hardware} machine, {today:%Y-%m-%d}",
        f"`{command}`:\ntorch {torch.__version__.partition('+')[0]}, {setting}, {how};\n"
        f"limit {options.limit_gib:g} GiB, batches double up to {options.largest:,} rows. Load average at the start: {load:.1f} on "
        f"{os.cpu_count()} cores\n(above {options.threads} means that others were busy; ratios are of the same run).",
    ]
    for device in ("cpu", "cuda"):
        options.device = device
        is_there = device == "cpu" or torch.cuda.is_available()
        parts.append(f"{device.upper()}\n\n" + ("\n".join(table(options)) if is_there else "not measured: no GPU at hand"))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit-gib", type=float, default=2.0)
    parser.add_argument("--largest", type=int, default=131_072)
    parser.add_argument("--hardware", default="2core")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        child(options.child, options.rows, options.dim, options.device)
        return
    text = report(options)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"loss_{options.hardware}_{datetime.now(UTC):%Y%m%d}.md"
    path.write_text(text, encoding="utf-8")
    print(text + f"\nwritten to {path}")


if __name__ == "__main__":
    main()
