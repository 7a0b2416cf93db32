"""KFP component `preflight`: what must be there before anything is spent."""

from kfp import dsl


@dsl.component(base_image="stablerep/runtime:0.1.0", install_kfp_package=False)
def preflight(recipe: str, overrides: str, store: str, table: dsl.Output[dsl.Markdown]) -> str:
    """Check packages, store, ports and recipe; a table with a remedy for each failure.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        table: The checks as a table.
    """
    from stablerep.stages.dispatch import run_stage

    return run_stage("preflight", recipe, overrides, store, table_path=table.path)
