"""deploy on a cluster: the encoder runs dark beside what is served; `verify` gives it traffic.

The InferenceService is KServe's business (stablerep.integrations.kserve_manifest), the order of moves that of stablerep.endpoint.rollout.
Imports no torch.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from stablerep.endpoint.observed import Place
from stablerep.endpoint.release import Release
from stablerep.endpoint.strategy import Strategy
from stablerep.records import EndpointRef, ModelRef
from stablerep.stages.context import Stage


def deploy_dark(stage: Stage, chosen: ModelRef) -> EndpointRef:
    """Launch a model beside what is served; returns its dark address.

    Raises:
        ConfigError: KServe cannot serve it as configured, or the cluster cannot read the store.
        LaunchError: it is not ready in time; what was served stays served.
    """
    from stablerep.endpoint.rollout import launch_dark

    with opened_strategy(stage, chosen) as (strategy, wanted):
        place = launch_dark(strategy, wanted)
        return endpoint_ref(strategy, wanted, place)


@contextmanager
def opened_strategy(stage: Stage, chosen: ModelRef) -> Generator[tuple[Strategy, Release]]:
    """The strategy of the recipe's backend on the API server that this process has credentials for, and the model as a release."""
    from stablerep.endpoint.rollout_blue_green import BlueGreen
    from stablerep.endpoint.rollout_knative import KnativeCanary
    from stablerep.endpoint.rollout_standard import StandardCanary
    from stablerep.endpoint.strategy import Endpoint
    from stablerep.integrations.kserve_manifest import EncoderService, inference_service
    from stablerep.integrations.kubernetes_api import connect

    config = stage.recipe.deploy
    with connect(config.namespace) as api:
        service = EncoderService(
            endpoint=config.name,
            namespace=api.namespace,
            mode="Knative" if config.backend == "knative_canary" else "Standard",
            runtime=config.runtime,
            service_account=config.service_account,
            autoscaler=config.autoscaler,
            min_replicas=config.min_replicas,
            max_replicas=config.max_replicas,
            gpus=config.gpus,
            prometheus_url=config.prometheus_url if config.autoscaler == "keda" else "",
            max_image_bytes=config.max_image_bytes,
            max_image_pixels=config.max_image_pixels,
            max_batch=config.max_batch,
            runtime_engine=config.runtime_engine,
        )
        build = partial(inference_service, service)
        endpoint = Endpoint(api, config.name, api.namespace, build, config.ready_timeout_seconds, token=stage.endpoint_token)
        strategies = {
            "knative_canary": lambda: KnativeCanary(endpoint),
            "standard_canary": lambda: StandardCanary(endpoint, config.gateway),
            "blue_green": lambda: BlueGreen(endpoint),
        }
        yield strategies[config.backend](), service.release(chosen.model_id, chosen.uri)


def endpoint_ref(strategy: Strategy, release: Release, place: Place) -> EndpointRef:
    """The record of a release at a place; there is no process of this machine."""
    endpoint = strategy.endpoint
    log_uri = f"kubernetes://{endpoint.namespace}/inferenceservices/{endpoint.name}"
    return EndpointRef(release.model_id, place.url(endpoint.name), place.grpc_address, 0, log_uri)
