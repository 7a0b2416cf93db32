"""KFP component `hold`: a model is not deployed."""

from kfp import dsl


@dsl.component(base_image="stablerep/runtime:0.1.0", install_kfp_package=False)
def hold(recipe: str, overrides: str, store: str, decision: str, reasons: dsl.Output[dsl.Markdown]) -> str:
    """Say why the gate turned a model down; the champion stays.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        decision: Record of `gate`.
        reasons: The gate's reasons.

    Returns:
        Record of the decision that turned the model down.
    """
    from stablerep.stages.dispatch import run_stage

    return run_stage("hold", recipe, overrides, store, decision=decision, reasons_path=reasons.path)
