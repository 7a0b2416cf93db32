"""KFP component `probe`: an encoder is measured."""

from kfp import dsl


@dsl.component(base_image="stablerep/train:0.1.0", install_kfp_package=False)
def probe(
    recipe: str,
    overrides: str,
    store: str,
    model: str,
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
) -> str:
    """Measure frozen features on held-out real images beside raw pixels and a random trunk.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        model: Record of `export`.
        report: Table, confusion matrix, accuracy against labels.
        metrics: Accuracies.
        confusion: Confusion matrix of the headline probe.

    Returns:
        Record of the evaluation: accuracies with their intervals.
    """
    import json
    from pathlib import Path

    from stablerep.stages.dispatch import run_stage
    from stablerep.stages.probe import kubeflow_metrics

    evaluation = run_stage("probe", recipe, overrides, store, model=model, report_path=report.path)
    metrics.metadata, class_names, matrix = kubeflow_metrics(store, evaluation)
    confusion.log_confusion_matrix(class_names, matrix)
    for artifact in (metrics, confusion):
        Path(artifact.path).write_text(json.dumps(artifact.metadata))  # kfp.local caches only outputs that exist
    return evaluation
