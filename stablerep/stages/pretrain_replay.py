"""What went wrong in a step that was not finite: `python -m stablerep.stages.pretrain_replay RUN_URI STEP`.

Builds the run's objective, gives it the weights and the batch that the training processes kept (`training.capture`), computes the step
again in this process and says which tensor is the first that is not finite. Changes nothing. The GPU is used where there is one; set
CUDA_VISIBLE_DEVICES= when the batch of all ranks does not fit in it.
"""

import argparse
import json
import logging
import sys

from stablerep.errors import StablerepError
from stablerep.stages.context import set_up_logging
from stablerep.stages.pretrain_run import CONFIG_KEY, MODEL_KEY, RunConfig
from stablerep.store import Store
from stablerep.typed import decode

log = logging.getLogger("stablerep")


def main(arguments: list[str] | None = None) -> int:
    """Replay a step and say what was found; returns the exit code."""
    parser = argparse.ArgumentParser(description="compute a step that was not finite again")
    parser.add_argument("run", help="URI of the run's prefix, as the error names it")
    parser.add_argument("step", type=int, help="the step, as the error names it")
    options = parser.parse_args(arguments)
    set_up_logging()
    try:
        sys.stdout.write(replay_step(Store(options.run), options.step))
    except StablerepError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    return 0


def replay_step(runs: Store, step: int) -> str:
    """A few lines: what the ranks had found, what is found here, and the first tensor that is not finite.

    Args:
        runs: the prefix of the run.
        step: the step that was kept.

    Raises:
        DataError: the run or the step was not kept.
    """
    import torch

    from stablerep.models import ModelSpec
    from stablerep.stages.pretrain_parts import build_objective
    from stablerep.training.capture import read_step
    from stablerep.training.classes import CLASSES_KEY, CaptionClasses
    from stablerep.training.replay import replay

    pretrain = RunConfig.from_json(runs.read_text(CONFIG_KEY)).pretrain
    kept = read_step(runs, step)
    classes = CaptionClasses.from_json(runs.read_text(CLASSES_KEY)) if runs.exists(CLASSES_KEY) else None
    objective = build_objective(pretrain, decode(ModelSpec, json.loads(runs.read_text(MODEL_KEY)), where=MODEL_KEY), classes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = replay(objective, kept, precision=pretrain.precision, device=device)
    ranks = ", ".join(f"rank {part['rank']} loss {part['losses']['total']}" for part in kept.facts)
    losses = ", ".join(f"{name} {value:g}" for name, value in result.losses.items())
    verdict = f"first not finite: {result.first}" if result.first else "everything is finite here: look at the hardware or the last digits"
    return (
        f"step {step}, learning rate {kept.facts[0]['learning_rate']:g}, {len(kept.batch.caption_ids)} captions\n"
        f"then: {ranks}; gradient norm {kept.facts[0]['gradient_norm']}\n"
        f"now, in one process on {device}: losses {losses}; gradient norm {result.gradient_norm:g}\n{verdict}\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
