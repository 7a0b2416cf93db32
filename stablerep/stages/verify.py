"""verify: ask the endpoint for golden embeddings and a refusal; promote the model, or roll the endpoint back.

Golden images are real images of the probe's test part. The promotion is written only after every check passed, so the catalogue's
champion is always a model that was served. Always runs: a server may have changed since the last time. A local endpoint whose process is
gone is started again first: verify may run after a restart, or in another container than deploy. On a cluster (verify_cluster) traffic
moves in steps before the promotion is written.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stablerep.errors import DataError, GateError
from stablerep.records import EndpointRef, ModelRef, Verification
from stablerep.stages.context import Stage, open_stage

if TYPE_CHECKING:
    from stablerep.endpoint.verification import Findings, Golden


def run(recipe: str, overrides: str, store: str, *, model: str, endpoint: str) -> Verification:
    """Verify an endpoint and promote its model.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        model: record of `export`.
        endpoint: record of `deploy`.

    Raises:
        GateError: a check failed; the endpoint serves what it served before, or nothing.
        CheckpointError: the exported model is damaged.
        DataError: golden images cannot be read, or the model was never probed on this recipe's suite.
    """
    chosen, served = ModelRef.from_json(model), EndpointRef.from_json(endpoint)
    with open_stage("verify", recipe, overrides, store) as stage:
        verify = _verify_here if stage.recipe.deploy.backend == "local" else _verify_on_cluster
        return verify(stage, chosen, served)


def _verify_here(stage: Stage, chosen: ModelRef, served: EndpointRef) -> Verification:
    from stablerep.endpoint.local import mark_verified, read_state, start_again
    from stablerep.stages.deploy import placement

    name = stage.recipe.deploy.name
    state = read_state(stage.store, name)
    if state is None or state.served.model_id != chosen.model_id or not state.is_deployed_as(served.process_id):
        found = f"{state.served.model_id} in process {state.process.process_id}" if state else "none"
        raise GateError(f"endpoint {name!r}: expected {chosen.model_id} in process {served.process_id}, found {found}; deploy again")
    start_again(stage.store, placement(stage))
    findings = _findings(stage, chosen, served)
    failed = [check for check, is_passed in findings.checks.items() if not is_passed]
    if failed:
        raise GateError(_rolled_back(stage, chosen, failed, findings))
    verification = Verification(
        chosen.model_id, served.url, findings.max_difference, findings.latency_p50_ms, findings.latency_p99_ms, findings.checks
    )
    _promote(stage, verification, f"process-{served.process_id}")
    mark_verified(stage.store, name)
    return verification


def _verify_on_cluster(stage: Stage, chosen: ModelRef, served: EndpointRef) -> Verification:
    from stablerep.catalogue import ParquetCatalogue
    from stablerep.stages.verify_cluster import verify_on_cluster

    if served.model_id != chosen.model_id:
        raise GateError(f"expected the endpoint of {chosen.model_id}, found that of {served.model_id}; deploy again")
    suite = _suite(stage)
    if ParquetCatalogue(stage.store).evaluation(chosen.model_id, suite) is None:  # asked before callers get to see the model
        raise DataError(
            f"{chosen.model_id} gets no traffic: expected its evaluation on {suite} in {stage.store.uri}, found none; run probe"
        )
    verification, revision = verify_on_cluster(stage, chosen, _golden(stage, chosen))
    _promote(stage, verification, revision)
    return verification


def _findings(stage: Stage, chosen: ModelRef, served: EndpointRef) -> "Findings":
    from stablerep.endpoint.client import EndpointClient
    from stablerep.endpoint.verification import verify_endpoint
    from stablerep.integrations.kserve_client import grpc_embeddings

    config, address = stage.recipe.deploy, urlsplit(served.url)
    golden = _golden(stage, chosen)

    def ask_grpc(files: Sequence[bytes]) -> Any:
        return grpc_embeddings(served.grpc_address, config.name, files, token=stage.endpoint_token)

    host, port = address.hostname or "127.0.0.1", address.port or config.port
    with EndpointClient(host, port, config.name, token=stage.endpoint_token) as client:
        return verify_endpoint(client, ask_grpc, golden, max_difference=config.max_difference)


def _golden(stage: Stage, chosen: ModelRef) -> "Golden":
    """Images spread evenly over the test part, as large as the preprocessor resizes to."""
    import json

    import numpy as np

    from stablerep.endpoint.folder import local_folder
    from stablerep.endpoint.verification import make_golden
    from stablerep.probes.data import load_labelled

    with local_folder(chosen.uri) as folder:
        size_px = int(json.loads((folder / "preprocessor.json").read_text(encoding="utf-8"))["resize"])
        test = load_labelled(stage.recipe.probe.dataset, size_px).test
        places = np.linspace(0, len(test) - 1, num=min(stage.recipe.deploy.num_golden, len(test)), dtype=int)
        return make_golden(folder, np.concatenate([test[place : place + 1] for place in places.tolist()]))


def _rolled_back(stage: Stage, chosen: ModelRef, failed: list[str], findings: "Findings") -> str:
    from stablerep.endpoint.local import roll_back
    from stablerep.stages.deploy import placement

    left = roll_back(stage.store, placement(stage))
    now = f"serves {left.served.model_id} again" if left else "is stopped"
    return (
        f"{chosen.model_id} failed {', '.join(failed)} (largest difference {findings.max_difference:.3g}, allowed "
        f"{stage.recipe.deploy.max_difference:.3g}); it is not promoted and endpoint {stage.recipe.deploy.name!r} {now}"
    )


def _promote(stage: Stage, verified: Verification, revision: str) -> None:
    """Make the model the champion, and write down where it is served, in catalogue and lineage."""
    from stablerep.catalogue import ParquetCatalogue, Served
    from stablerep.stages.catalogue_choice import open_catalogue
    from stablerep.stages.lineage import refresh

    deploy, when = stage.recipe.deploy, datetime.now(UTC).isoformat(timespec="seconds")
    served = Served(deploy.name, verified.model_id, verified.url, deploy.backend, revision, verified.latency_p50_ms)
    facts = ParquetCatalogue(stage.store)
    if not facts.is_served(served):
        facts.register_served(served, when)
    open_catalogue(stage.store, stage.recipe.gate.has_catalogue).promote(verified.model_id, _suite(stage), when)
    refresh(stage.store, verified.model_id)


def _suite(stage: Stage) -> str:
    from stablerep.probes.data import identify
    from stablerep.stages.probe import protocol_of

    return protocol_of(stage.recipe.probe).suite(identify(stage.recipe.probe.dataset))
