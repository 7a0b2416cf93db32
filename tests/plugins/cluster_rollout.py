"""A roll-out against the fake API server, KServe and Prometheus: every backend behind the same small interface."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from fake_cluster import FakeCluster
from fake_kserve import FakeKServe
from fake_prometheus import FakePrometheus

from stablerep.cluster import ClusterApi
from stablerep.endpoint.client import EndpointClient
from stablerep.endpoint.judge import Allowed, Judge, Prometheus
from stablerep.endpoint.observed import Place
from stablerep.endpoint.release import Release
from stablerep.endpoint.rollout import launch_dark, roll_out
from stablerep.endpoint.rollout_blue_green import BlueGreen
from stablerep.endpoint.rollout_knative import KnativeCanary
from stablerep.endpoint.rollout_standard import StandardCanary
from stablerep.endpoint.strategy import Endpoint, Strategy
from stablerep.integrations.kserve_manifest import EncoderService, inference_service
from stablerep.integrations.kubernetes_api import connect

BACKENDS = ("standard_canary", "knative_canary", "blue_green")
STEPS = (5, 50)


class Killed(BaseException):
    """The process ends here."""


class MortalApi:
    """A ClusterApi whose process dies at one of its changes, before or after the server made it."""

    def __init__(self, api: ClusterApi) -> None:
        self.api = api
        self.num_changes, self.dies_at, self.is_done_first = 0, -1, False

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self.api, verb)
        if verb not in ("create", "patch", "apply", "delete"):
            return call

        def change(*positional: Any, **named: Any) -> Any:
            self.num_changes += 1
            if self.num_changes != self.dies_at:
                return call(*positional, **named)
            if self.is_done_first:
                call(*positional, **named)
            raise Killed

        return change


@dataclass
class Rollout:
    """deploy and verify, one backend."""

    backend: str
    api: MortalApi
    kserve: FakeKServe
    prometheus: FakePrometheus
    service: EncoderService
    ready_timeout_seconds: float = 3.0
    steps: tuple[int, ...] = STEPS
    step_seconds: float = 0.08
    seen: list[tuple[int, dict[str, int]]] = field(default_factory=list)

    def release(self, model_id: str) -> Release:
        return self.service.release(model_id, f"s3://encoders/models/{model_id}")

    def strategy(self) -> Strategy:
        build = partial(inference_service, self.service)
        endpoint = Endpoint(self.api, "stablerep", "stablerep", build, self.ready_timeout_seconds, poll_seconds=0.01)
        if self.backend == "knative_canary":
            return KnativeCanary(endpoint)
        return StandardCanary(endpoint, "gateways/public") if self.backend == "standard_canary" else BlueGreen(endpoint)

    def deploy(self, model_id: str) -> Place:
        return launch_dark(self.strategy(), self.release(model_id))

    def verify(self, model_id: str, watch: Callable[[Place, int], str] | None = None) -> Place:
        steps = () if self.backend == "blue_green" else self.steps
        return roll_out(self.strategy(), self.release(model_id), steps, check, watch or self.watch)

    def promoted(self, model_id: str) -> None:
        """Deploy and verify."""
        self.deploy(model_id)
        self.verify(model_id)

    def watch(self, place: Place, percent: int) -> str:
        self.seen.append((percent, self.kserve.shares()))
        judge = Judge(Prometheus(self.prometheus.url), "stablerep", Allowed(0.01, 0.5))
        return judge.watch(place.pods, self.step_seconds, lambda: check(place))


def check(place: Place) -> str:
    """The golden embedding of every model but those that FakeKServe calls wrong."""
    with EndpointClient(place.host, place.port, "stablerep") as client:
        answer = client.predict([b"golden"])
    return "" if answer.body.get("predictions") == [[0.0, 1.0]] else f"golden embeddings differ: {answer.body}"


@pytest.fixture(params=BACKENDS)
def rollout(
    request: pytest.FixtureRequest,
    fake_cluster: FakeCluster,
    fake_kserve: FakeKServe,
    fake_prometheus: FakePrometheus,
    cluster_kubeconfig: Any,
) -> Iterator[Rollout]:
    mode = "Knative" if request.param == "knative_canary" else "Standard"
    with connect("stablerep") as api:
        yield Rollout(request.param, MortalApi(api), fake_kserve, fake_prometheus, EncoderService("stablerep", "stablerep", mode=mode))
