"""KFP component `generator`: the text-to-image model, verified."""

from kfp import dsl


@dsl.component(base_image="stablerep/generate:0.1.0", install_kfp_package=False)
def generator(recipe: str, overrides: str, store: str) -> str:
    """Resolve a diffusers model and verify revision, digest and licence, or fit the embedded one.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.

    Returns:
        Record of the model: id, licence and digests.
    """
    from stablerep.stages.dispatch import run_stage

    return run_stage("generator", recipe, overrides, store)
