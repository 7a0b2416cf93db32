"""KFP component `generate`: one lane's groups of images."""

from kfp import dsl


@dsl.component(base_image="stablerep/generate:0.1.0", install_kfp_package=False)
def generate(recipe: str, overrides: str, store: str, prompt_set: str, generator: str, lane: int) -> str:
    """Make a group of images per caption and commit the lane's shards.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        prompt_set: Record of `prepare`.
        generator: Record of `generator`.
        lane: Which lane, from 0.
    """
    from stablerep.stages.dispatch import run_stage

    return run_stage("generate", recipe, overrides, store, prompt_set=prompt_set, generator=generator, lane=int(lane))
