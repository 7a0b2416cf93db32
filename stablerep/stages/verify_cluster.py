"""verify on a cluster: golden embeddings from the dark encoder, then traffic in steps that Prometheus judges, then all of it.

During a step golden requests are sent too, so a quiet endpoint is judged as well, and a wrong embedding ends the step at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from stablerep.config.schema import DeployConfig
from stablerep.endpoint.observed import Place
from stablerep.records import ModelRef, Verification
from stablerep.stages.context import Stage
from stablerep.stages.deploy_cluster import opened_strategy

if TYPE_CHECKING:
    from stablerep.endpoint.verification import Findings, Golden


def verify_on_cluster(stage: Stage, chosen: ModelRef, golden: "Golden") -> tuple[Verification, str]:
    """Verify the encoder that `deploy` launched and make it what is served; also its revision: a digest of how its pods are made.

    Args:
        stage: with the recipe.
        chosen: the model.
        golden: images and the expected embeddings.

    Raises:
        GateError: a check or a step failed; what was served before is served again.
        LaunchError: the cluster did not do what it was asked in time; run again to go on.
    """
    from stablerep.endpoint.judge import Allowed, Judge, Prometheus
    from stablerep.endpoint.rollout import roll_out

    config = stage.recipe.deploy
    with opened_strategy(stage, chosen) as (strategy, wanted):
        checker = Checker(config, golden, stage.endpoint_token)
        judge = Judge(
            Prometheus(config.prometheus_url), strategy.endpoint.namespace, Allowed(config.max_error_ratio, config.max_p99_seconds)
        )

        def watch(place: Place, percent: int) -> str:
            return judge.watch(place.pods, config.step_seconds, checker.requests(place))

        percents = config.canary_percents if config.has_steps else ()
        place = roll_out(strategy, wanted, percents, checker.check, watch)
        found = checker.findings or checker.ask(place)  # none where an earlier attempt had come as far as the promotion
        url = place.url(config.name)
        verified = Verification(wanted.model_id, url, found.max_difference, found.latency_p50_ms, found.latency_p99_ms, found.checks)
        return verified, wanted.spec_sha256[:16]


@dataclass
class Checker:
    """Asks encoders at some place for golden embeddings; keeps what it found last."""

    config: DeployConfig
    golden: "Golden"
    token: str = field(default="", repr=False)
    findings: "Findings | None" = None

    def check(self, place: Place) -> str:
        """Every check of a verification; the names of those that failed, empty where none did."""
        self.findings = self.ask(place)
        failed = [check for check, is_passed in self.findings.checks.items() if not is_passed]
        if not failed:
            return ""
        return (
            f"{', '.join(failed)} at {place.url(self.config.name)} (largest difference {self.findings.max_difference:.3g}, allowed "
            f"{self.config.max_difference:.3g})"
        )

    def ask(self, place: Place) -> "Findings":
        """Run every check; gRPC only where it reaches the pods, and the checks say whether it did."""
        from stablerep.endpoint.client import EndpointClient
        from stablerep.endpoint.verification import verify_endpoint
        from stablerep.integrations.kserve_client import grpc_embeddings

        def ask_grpc(files: Sequence[bytes]) -> Any:
            return grpc_embeddings(place.grpc_address, self.config.name, files, token=self.token)

        with EndpointClient(place.host, place.port, self.config.name, token=self.token) as client:
            return verify_endpoint(client, ask_grpc if place.grpc_address else None, self.golden, max_difference=self.config.max_difference)

    def requests(self, place: Place) -> Callable[[], str]:
        """A function that sends one golden image after the other, and says what is wrong with an answer."""
        import numpy as np

        from stablerep.endpoint.client import EndpointClient
        from stablerep.endpoint.verification import largest_difference
        from stablerep.errors import LaunchError

        numbers = count()

        def ask() -> str:
            index = next(numbers) % len(self.golden.files)
            try:
                with EndpointClient(place.host, place.port, self.config.name, token=self.token) as client:
                    answer = client.predict(self.golden.files[index : index + 1])
            except LaunchError as error:
                return str(error)
            if answer.status != 200:
                return f"a golden image was answered with {answer.status}: {answer.body.get('error', '')}"
            found = np.array(answer.body.get("predictions", []), dtype=np.float64)
            difference = largest_difference(found, self.golden.embedding_NF[index : index + 1])
            if difference <= self.config.max_difference:
                return ""
            return f"a golden embedding differs by {difference:.3g}, allowed {self.config.max_difference:.3g}"

        return ask
