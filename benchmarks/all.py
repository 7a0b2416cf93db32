"""Every benchmark with a target, one after the other: `make bench`.

    python benchmarks/all.py [--only loss probe] [--hardware 2core]

Each script runs in a process of its own with the settings below, writes its result file, and its rows are gathered in
`results/all_<hardware>_<yyyymmdd>.md`. A script that fails or exceeds its time is a row that says so, and the exit code is then 1; a target
that is missed is a row that says so, and no failure. Rows of `gpu_train.py` and `gpu_generation.py` say "not measured" where there is no
GPU. `sampler.py`,
`embedded_generator.py` and `engines.py` have no target and are run by themselves.
"""

import argparse
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from result import machine, parser_of, read_table, table

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 900
LONGEST_BATCH = 65_536
SCRIPTS: dict[str, list[str]] = {
    "loss": ["--largest", str(LONGEST_BATCH)],
    "loader": [],
    "resume": [],
    "probe": [],
    "telemetry": [],
    "endpoint": ["--hostile", "2000"],
    "generation": [],
    "quality": [],
}
LOSS_HEADER = (
    "| backend | ms | times as fast as plain | extra MiB | share of plain | longest batch tried within the limit | its extra MiB |"
)
GPU_SCRIPTS = ("gpu_train", "gpu_generation")
GPU_ROWS = (
    ("ViT-B/16 bf16 step, synthetic tensors, share of 790 TFLOP/s", ">= 45 % (3,370 images/s)"),
    ("loss, N=32,768, against dense", ">= 4 x and >= 100 x less memory"),
    ("loss, N=65,536, extra memory", "<= 1 GiB"),
    ("decode and augment on the GPU", ">= 6,000 images/s"),
    ("ZeRO-1/2/3 loss parity", "<= 1e-3"),
    ("SD 1.5 architecture, 512 px, DDIM-50", ">= 4.3 images/s and >= 1.6 x diffusers' eager best batch"),
    ("the same, DPM++-20", ">= 10 images/s"),
    ("the same, LCM-4 preset", ">= 45 images/s"),
)


def run(name: str, options: argparse.Namespace) -> tuple[str, str]:
    """The result file of a script, and what went wrong; one of them is empty."""
    path = options.results / f"{name}_{options.hardware}_{datetime.now(UTC):%Y%m%d}.md"
    before = path.stat().st_mtime_ns if path.exists() else 0
    command = [
        sys.executable,
        str(HERE / f"{name}.py"),
        *SCRIPTS.get(name, []),
        "--hardware",
        options.hardware,
        "--results",
        str(options.results),
    ]
    print(f"$ benchmarks/{name}.py {' '.join(command[2:])}", flush=True)
    started_at = time.monotonic()
    try:
        done = subprocess.run(command, timeout=TIMEOUT_SECONDS, env={"HF_HUB_OFFLINE": "1", **os.environ})
    except subprocess.TimeoutExpired:
        return "", f"took more than {TIMEOUT_SECONDS} s"
    print(f"{name}: {time.monotonic() - started_at:.0f} s\n", flush=True)
    if done.returncode:
        return "", f"ended with {done.returncode}"
    found = sorted(options.results.glob(f"{name}_{options.hardware}_*.md"), key=lambda each: each.stat().st_mtime_ns)
    if not found or (found[-1] == path and path.stat().st_mtime_ns == before):
        return "", "left no result"
    return found[-1].read_text(encoding="utf-8"), ""


def cpu_rows(name: str, text: str) -> list[str]:
    """Lines of the table of a script's result."""
    if name == "loss":
        return loss_rows(text)
    return ["| " + " | ".join([f"{name}: {cells[0]}", *cells[1:]]) + " |" for cells in read_table(text)]


def loss_rows(text: str) -> list[str]:
    """The loss has a table of backends; these are its rows with targets (the first table is that of the CPU)."""
    backends = {cells[0]: cells for cells in read_table(text, LOSS_HEADER)}
    plain, tiled = backends["plain"], backends["tiled"]
    ratio, share, longest = float(tiled[2]), float(tiled[4].rstrip(" %")), tiled[5]
    num_rows = int(longest.split(" ")[0].replace(",", "")) if longest != "none" else 0
    return [
        _line("loss: forward and backward", f"tiled, {tiled[1]} ms", f"dense, {plain[1]} ms", f"{ratio:g} x", ">= 2 x", ratio >= 2),
        _line("loss: extra memory", f"tiled, {tiled[3]} MiB", f"dense, {plain[3]} MiB", f"{share:g} %", "<= 5 %", share <= 5),
        _line(
            "loss: longest batch tried within 2 GiB extra",
            f"tiled, {longest}",
            f"dense, {plain[5]}",
            f"{num_rows:,} rows",
            f">= {LONGEST_BATCH:,} rows",
            num_rows >= LONGEST_BATCH,
        ),
    ]


def gpu_rows() -> list[str]:
    """What only a GPU can tell, where there is none."""
    return [f"| GPU: {what} | not measured: no GPU at hand |  |  | {target} |  |" for what, target in GPU_ROWS]


def _line(what: str, ours: str, baseline: str, found: str, target: str, is_met: bool) -> str:
    return f"| {what} | {ours} | {baseline} | {found} | {target} | {'yes' if is_met else '**no**'} |"


def main() -> int:
    """Run everything; 1 when a script failed."""
    parser = parser_of(__doc__ or "")
    has_gpu = torch.cuda.is_available()
    scripts = [*SCRIPTS, *(GPU_SCRIPTS if has_gpu else ())]
    parser.add_argument("--only", nargs="+", choices=scripts, default=scripts, help="these scripts only")
    options = parser.parse_args()
    lines: list[str] = []
    num_failed = 0
    for name in options.only:
        text, problem = run(name, options)
        num_failed += bool(problem)
        lines += cpu_rows(name, text) if not problem else [f"| {name} | failed: {problem} |  |  |  |  |"]
    page = [
        f"# All benchmarks with a target, {options.hardware} machine, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"`python benchmarks/all.py`, {', '.join(options.only)} one after the other; settings and notes are in the file of each.",
        "",
        machine(),
        "",
        *table([]),
        *lines,
        *([] if has_gpu else gpu_rows()),
    ]
    path = options.results / f"all_{options.hardware}_{datetime.now(UTC):%Y%m%d}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(page) + "\n", encoding="utf-8")
    print("\n".join(page[6:]) + f"\n\nwritten to {path}")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
