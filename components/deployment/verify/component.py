"""KFP component `verify`: the endpoint is asked."""

from kfp import dsl


@dsl.component(base_image="stablerep/serve:0.1.0", install_kfp_package=False)
def verify(recipe: str, overrides: str, store: str, model: str, endpoint: str, metrics: dsl.Output[dsl.Metrics]) -> str:
    """Ask for golden embeddings and a refusal of a bad image; promote the model or roll back.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        model: Record of `export`.
        endpoint: Record of `deploy`.
        metrics: Latency and the largest difference.

    Returns:
        Record of the verification: latencies and the largest difference.
    """
    import json
    from pathlib import Path

    from stablerep.stages.dispatch import run_stage

    verification = run_stage("verify", recipe, overrides, store, model=model, endpoint=endpoint)
    for name in ("latency_p50_ms", "latency_p99_ms", "max_difference"):
        metrics.log_metric(name, json.loads(verification)[name])
    Path(metrics.path).write_text(json.dumps(metrics.metadata))
    return verification
