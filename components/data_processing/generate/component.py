"""KFP component `generate`: one lane's groups of images."""

from kfp import dsl


@dsl.component(base_image="stablerep/generate:0.1.0", install_kfp_package=False)
def generate(recipe: str, overrides: str, store: str, work: str) -> str:
    """Make a group of images per caption and commit the lane's shards.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        work: One element of what `prepare` returned.

    Returns:
        Record of the lane: the shards it committed.
    """
    import json

    from stablerep.stages.dispatch import run_stage

    return run_stage("generate", recipe, overrides, store, **json.loads(work))
