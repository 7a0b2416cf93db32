"""pretrain: start the training job, follow it, and say how it ended (paper, section 4).

Runs again, it returns a finished run at once, else continues from the newest committed checkpoint. Whatever ends the job ends this stage
with the same error and exit code. SIGTERM lets the job save first (exit 75). SIGKILL leaves nothing running on this machine; on a
cluster the job runs on, and the next launcher adopts it. `launch.backend` says where: `pretrain_local` or `pretrain_cluster`.
"""

from pathlib import Path

from stablerep.errors import LaunchError
from stablerep.records import CheckpointRef, DatasetRef
from stablerep.stages.context import Stage, open_stage
from stablerep.stages.pretrain_follow import write_curves
from stablerep.stages.pretrain_run import (
    COMPLETE_KEY,
    CONFIG_KEY,
    CURVES_KEY,
    RunConfig,
    checkpoint_ref,
    find_complete,
    find_final,
    plan_run,
)
from stablerep.store import Store


def run(recipe: str, overrides: str, store: str, *, dataset: str, curves_path: str = "") -> CheckpointRef:
    """Train on a data set.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        dataset: record of `commit`.
        curves_path: where to copy the page of curves to, or empty.

    Raises:
        StablerepError: of the class that ended the training processes; LaunchError with the tail of their log where they left none.
    """
    with open_stage("pretrain", recipe, overrides, store) as stage:
        plan = plan_run(recipe, stage.recipe.pretrain, DatasetRef.from_json(dataset))
        stage.reporter.report("stablerep_run_info", 1, stage="pretrain", id=plan.run_key)
        runs = stage.store.at(plan.prefix)
        done = find_complete(plan, runs)
        if done is None:
            runs.write(CONFIG_KEY, plan.to_json())
            try:
                if find_final(plan, runs) is None:
                    _train(stage, plan, runs)
            finally:
                write_curves(plan, runs)
            final = find_final(plan, runs)
            if final is None:
                raise LaunchError(f"run {plan.run_key}: the job ended well but left no final checkpoint in {runs.uri}; run again")
            done = checkpoint_ref(final, runs)
            runs.write(COMPLETE_KEY, done.to_json())
        if curves_path:
            Path(curves_path).write_bytes(runs.read(CURVES_KEY))
        return done


def _train(stage: Stage, plan: RunConfig, runs: Store) -> None:
    if stage.recipe.launch.backend == "local":
        from stablerep.stages.pretrain_local import train
    else:
        from stablerep.stages.pretrain_cluster import train
    train(stage, plan, runs)
