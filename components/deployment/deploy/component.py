"""KFP component `deploy`: an encoder is served."""

from kfp import dsl


@dsl.component(base_image="stablerep/serve:0.1.0", install_kfp_package=False)
def deploy(recipe: str, overrides: str, store: str, model: str, decision: str) -> str:
    """Serve the encoder through KServe.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        model: Record of `export`.
        decision: Record of `gate`.

    Returns:
        Record of the endpoint: its URL and how it serves.
    """
    from stablerep.stages.dispatch import run_stage

    return run_stage("deploy", recipe, overrides, store, model=model, decision=decision)
