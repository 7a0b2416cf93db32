"""KFP component `preflight`: what must be there before anything is spent."""

from kfp import dsl


@dsl.component(base_image="stablerep/runtime:0.1.0", install_kfp_package=False)
def preflight(recipe: str, overrides: str, store: str, table: dsl.Output[dsl.Markdown], stages: str = "") -> str:
    """Check packages, store, recipe and, where a cluster takes part, what it serves and allows; a table with a remedy for each failure.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        table: The checks as a table.
        stages: Verbs of the stages that will run, separated by blanks; empty for all of them.

    Returns:
        Record of the checks.
    """
    from stablerep.stages.dispatch import run_stage

    return run_stage("preflight", recipe, overrides, store, stages=stages, table_path=table.path)
