"""deploy: the encoder is served by KServe: on this machine at the ports of the recipe, or on a cluster, dark until `verify` has seen it.

An endpoint that already serves the model is returned as it is, so running the stage again changes nothing. Another model of the same
endpoint is replaced (stablerep.endpoint.local says how) and kept as what `verify` falls back to. Imports no torch: the server is another
process.
"""

from pathlib import Path

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.local import Placement, Served, serve
from stablerep.errors import GateError
from stablerep.records import EndpointRef, GateDecision, ModelRef
from stablerep.stages.context import Stage, open_stage
from stablerep.stages.deploy_cluster import deploy_dark


def run(recipe: str, overrides: str, store: str, *, model: str, decision: str) -> EndpointRef:
    """Serve a model that the gate promoted.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        model: record of `export`.
        decision: record of `gate`.

    Raises:
        GateError: the gate did not promote this model.
        PortInUseError: another program listens on a port of the recipe.
        LaunchError: the server did not become ready; what was served before is served again.
        ConfigError: on a cluster: KServe cannot serve it so, or there are no credentials.
    """
    chosen, verdict = ModelRef.from_json(model), GateDecision.from_json(decision)
    with open_stage("deploy", recipe, overrides, store) as stage:
        if verdict.model_id != chosen.model_id:
            raise GateError(f"expected the gate's decision about {chosen.model_id}, found one about {verdict.model_id}; run the gate again")
        if not verdict.is_promoted:
            raise GateError(f"{chosen.model_id} was not promoted and is not deployed: {'; '.join(verdict.reasons) or 'no reason given'}")
        served = _served_here(stage, chosen) if stage.recipe.deploy.backend == "local" else deploy_dark(stage, chosen)
        stage.reporter.report("stablerep_run_info", 1, stage="deploy", id=chosen.model_id)
        return served


def _served_here(stage: Stage, chosen: ModelRef) -> EndpointRef:
    state = serve(stage.store, placement(stage), Served(chosen.model_id, chosen.uri))
    return EndpointRef(chosen.model_id, state.url, state.grpc_address, state.process.process_id, Path(state.log_path).as_uri())


def placement(stage: Stage) -> Placement:
    """Where and how the recipe wants the endpoint."""
    config = stage.recipe.deploy
    limits = Limits(max_image_bytes=config.max_image_bytes, max_image_pixels=config.max_image_pixels, max_batch=config.max_batch)
    return Placement(
        config.name,
        config.port,
        config.grpc_port,
        limits,
        ready_timeout_seconds=config.ready_timeout_seconds,
        runtime_engine=config.runtime_engine,
        token=stage.endpoint_token,
    )
