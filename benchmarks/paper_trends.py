"""The paper's comparisons in little: every method on three generators with three training seeds, and the page docs/results.md.

    stablerep run --recipe paper_trends [-- --workers 2]                            run what is missing, then write results and page
    python benchmarks/paper_trends.py [--work build/paper_trends] [--workers 2]     the same
    python benchmarks/paper_trends.py --known benchmarks/results/paper_trends.json  the same, but cells of that file count as run
    python benchmarks/paper_trends.py --only-page                                   the page again, from the committed results

It is a trend check, not a reproduction (docs/results.md says what is compared). Every cell is one file under `--work`; killed at any moment
and started again, it goes on with the cells that are missing. Workers are processes of one thread each. The results of all cells are
kept in one file, benchmarks/results/paper_trends.json, from which page and figures are made.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DS_ACCELERATOR": "cpu"}.items():
    os.environ.setdefault(name, value)
sys.path.insert(0, str(Path(__file__).parent))

from trends.plan import TINY, Cell, Study, choose, choose_cells, scored_cells  # noqa: E402

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "paper_trends.json"
PAGE = PROJECT / "docs" / "results.md"
HEADLINE = "5"
_SAME = 0.01  # the share by which facts of a pool may differ when it is made again


def work_on(cell: Cell, study: Study, work: Path) -> str:
    """Run a cell unless it is done; its key. What it needs (generator, pool) is made first."""
    from trends.cell import run_cell
    from trends.pools import write_json

    path = cell_path(cell, work)
    if not path.exists():
        one_thread()
        write_json(path, run_cell(cell, study, work))
    return cell.key


def cell_path(cell: Cell, work: Path) -> Path:
    """Where the result of a cell is kept."""
    return work / "cells" / f"{cell.key}.json"


def make(pool: Any, study: Study, work: Path) -> str:
    """Make a pool; its key."""
    from trends.pools import make_pool

    one_thread()
    facts, path = make_pool(pool, study, work).facts, work / "known" / f"{pool.key}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if any(abs(facts[name] - value) > _SAME * abs(value) for name, value in known.items()):
        raise ValueError(
            f"pool {pool.key}: expected that of the results file, {known}, found {facts}. A fit is exact on one machine only, and cells of "
            f"two generators are no replicate: remove {work} and run without --known"
        )
    return pool.key


def floor(study: Study, work: Path) -> str:
    """Probe what needs no training."""
    from trends.cell import run_floor
    from trends.pools import write_json

    path = work / "floor.json"
    if not path.exists():
        one_thread()
        write_json(path, run_floor(study))
    return "floor"


def one_thread() -> None:
    """On a busy machine, threads of small products wait for each other."""
    import torch

    torch.set_num_threads(1)


def run(study: Study, work: Path, num_workers: int) -> None:
    """Everything that is missing, in order: pools of the main table, learning rates, then all cells (with the pools they need).

    Args:
        study: what to run.
        work: where results are kept.
        num_workers: processes; 0 for this one.
    """
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"))) if num_workers else None
        spread_out = pool.map if pool else map

        def is_missing(cell: Cell) -> bool:
            return not cell_path(cell, work).exists()

        def do(what: str, jobs: Sequence[Callable[[], str]]) -> None:
            started_at = time.monotonic()
            for number, key in enumerate(spread_out(_call, jobs), 1):
                print(f"{time.strftime('%H:%M:%S')} {what} {number}/{len(jobs)} {key} ({time.monotonic() - started_at:.0f} s)", flush=True)

        choosing = list(filter(is_missing, choose_cells(study)))
        do("pool", [partial(make, pool, study, work) for pool in dict.fromkeys(cell.pool for cell in choosing)])
        do("choose", [partial(work_on, cell, study, work) for cell in choosing])
        cells = list(scored_cells(study, chosen_rates(study, work)))
        do("floor", [partial(floor, study, work)])
        for first, last in waves(cells):
            wave = list(filter(is_missing, cells[first:last]))
            do("pool", [partial(make, pool, study, work) for pool in dict.fromkeys(cell.pool for cell in wave)])
            do("cell", [partial(work_on, cell, study, work) for cell in wave])


def waves(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Runs of cells of one part: their pools are made together, before them, so that no two workers make one pool."""
    edges = [i for i in range(len(cells)) if i == 0 or cells[i].part != cells[i - 1].part]
    return list(zip(edges, [*edges[1:], len(cells)], strict=True))


def _call(job: Callable[[], str]) -> str:
    return job()


def chosen_rates(study: Study, work: Path) -> dict[str, float]:
    """The learning rates, from the choose cells that are done."""
    scores: dict[tuple[str, float], float] = {}
    for cell in choose_cells(study):
        path = cell_path(cell, work)
        if path.exists():
            scores[cell.method, cell.lr] = json.loads(path.read_text(encoding="utf-8"))["scores"][HEADLINE]
    return choose(scores)


def restore(known: dict[str, Any], work: Path) -> None:
    """Put cells of a results file where cells are looked for, so that only others are run. A pool that is needed is made again."""
    from trends.pools import write_json

    files = {"floor": known["floor"], **{f"cells/{key}": cell for key, cell in known["cells"].items()}}
    files |= {f"known/{key}": pool["facts"] for key, pool in known["pools"].items()}
    for name, value in files.items():
        path = work / f"{name}.json"
        if value and not path.exists():
            write_json(path, value)


def gather(work: Path, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """All results in one document.

    Args:
        work: where results are kept.
        known: an earlier document; of its pools, those that were not made again are kept.
    """

    def read(folder: str) -> dict[str, Any]:
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / folder).glob("*.json"))}

    path, pools = work / "floor.json", dict[str, Any](known["pools"] if known else {})
    pools |= {key: {"pool": made["pool"], "facts": made["facts"]} for key, made in read("pools").items()}
    return {
        "cells": read("cells"),
        "pools": pools,
        "floor": json.loads(path.read_text(encoding="utf-8")) if path.exists() else {},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, gather, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=PROJECT / "build" / "paper_trends", help="where cells, pools and generators are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each (default: 2)")
    parser.add_argument("--known", type=Path, help="a results file whose cells count as run")
    parser.add_argument("--only-gather", action="store_true", help="train nothing: results and page of the cells that are done")
    parser.add_argument("--only-page", action="store_true", help="train nothing and read no cell: the page from the results file")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    known = json.loads(options.known.read_text(encoding="utf-8")) if options.known else None
    if known:
        restore(known, options.work)
    if not (options.only_gather or options.only_page):
        run(TINY if options.tiny else Study(), options.work, options.workers)
    if not options.only_page:
        text = json.dumps(gather(options.work, known), sort_keys=True, separators=(",", ":"))
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")
    from trends.page import write_page

    write_page(json.loads(options.results.read_text(encoding="utf-8")), options.page)
    print(f"written to {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
