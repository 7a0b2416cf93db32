"""KFP component `pretrain`: groups become a checkpoint."""

from kfp import dsl


@dsl.component(base_image="stablerep/train:0.1.0", install_kfp_package=False)
def pretrain(recipe: str, overrides: str, store: str, dataset: str, curves: dsl.Output[dsl.HTML], metrics: dsl.Output[dsl.Metrics]) -> str:
    """Train the vision transformer on the groups; continues from the last committed checkpoint.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        dataset: Record of `commit`.
        curves: Loss, learning rate and throughput.
        metrics: Last values, for comparison of runs.

    Returns:
        Record of the checkpoint: where it is and the last values of the metrics.
    """
    import json
    from pathlib import Path

    from stablerep.stages.dispatch import run_stage

    checkpoint = run_stage("pretrain", recipe, overrides, store, dataset=dataset, curves_path=curves.path)
    for name, value in json.loads(checkpoint)["metrics"].items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(metrics.metadata))  # kfp.local caches only outputs that exist
    return checkpoint
