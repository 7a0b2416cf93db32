"""KFP component `finish`: the exit task."""

from kfp import dsl


@dsl.component(base_image="stablerep/runtime:0.1.0", install_kfp_package=False)
def finish(
    recipe: str,
    overrides: str,
    store: str,
    status: dsl.PipelineTaskFinalStatus,
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
):
    """Write the run's summary and report, however the run ended.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        status: How the run ended.
        summary: The run on one screen.
        report: Everything people look at, in one file.
    """
    from stablerep.stages.dispatch import run_stage

    state = {"state": status.state, "error": status.error_message or ""}
    run_stage("finish", recipe, overrides, store, **state, summary_path=summary.path, report_path=report.path)
