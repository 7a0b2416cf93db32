"""Blue and green in Standard mode: two InferenceServices and a Service `<name>` that selects the pods of one of them.

Traffic moves at once. The colour that was served before is kept, so a roll-back is one more switch, until the next deployment takes its
place. The Service's annotations say which colour is live and whether the other one is a candidate.
"""

from dataclasses import dataclass, replace

from stablerep.cluster import SERVICE, Document
from stablerep.endpoint.observed import Place, standard_place
from stablerep.endpoint.release import Release, RolloutState, annotations_of
from stablerep.endpoint.strategy import Endpoint
from stablerep.endpoint.traffic import CANDIDATE, GRPC_PORT, LIVE, live_service
from stablerep.errors import LaunchError

COLOURS = ("blue", "green")


@dataclass(frozen=True)
class BlueGreen:
    """InferenceServices `<name>-blue` and `<name>-green`."""

    endpoint: Endpoint

    def read(self) -> RolloutState:
        """From both colours and the Service; before there is a Service, a colour that is there is the first candidate."""
        live, idle = self._services()
        if not live:
            return RolloutState(None, self.endpoint.release(idle))
        is_candidate = annotations_of(self._service() or {}).get(CANDIDATE) == idle
        return RolloutState(self.endpoint.release(live), self.endpoint.release(idle) if is_candidate else None)

    def launch(self, wanted: Release) -> None:
        """As the colour that is not live."""
        live, idle = self._services()
        if live:
            self._annotate({CANDIDATE: idle})
        self.endpoint.put(self.endpoint.build(idle, wanted, previous=self.read().served))

    def wait_candidate(self, wanted: Release) -> Place:
        """Wait for the colour that is not live, past the Service."""
        return self.endpoint.wait(self._services()[1], wanted, self._place)

    def wait_served(self, wanted: Release) -> Place:
        """Wait for the live colour; callers find it behind the Service."""
        live = self._services()[0]
        place = self.endpoint.wait(live, wanted, self._place)
        host = place.host.replace(f"{live}-predictor.", f"{self.endpoint.name}.", 1)
        if host == place.host:
            return place
        return replace(place, host=host, port=80, grpc_address=f"{host}:{GRPC_PORT}" if place.grpc_address else "")

    def set_percent(self, percent: int) -> None:
        """There are no shares here: traffic moves at once.

        Raises:
            LaunchError: always.
        """
        raise LaunchError(f"deploy.backend=blue_green moves all of the traffic at once, not {percent} %; use a canary backend for steps")

    def promote(self) -> None:
        """Select the other colour."""
        candidate = self.read().candidate
        if candidate:
            self._switch(self._services()[1], candidate)

    def withdraw(self) -> None:
        """Without the candidate; where there is none, the colour that was live before."""
        live, idle = self._services()
        before = self.endpoint.release(idle)
        if not live or self.read().candidate:
            self.endpoint.delete(idle)
        elif before:
            self.endpoint.wait(idle, before, self._place)
            self._switch(idle, before)
            self.endpoint.delete(live)

    def _services(self) -> tuple[str, str]:
        """Names of the InferenceServices that are live (empty: none) and not."""
        blue, green = (f"{self.endpoint.name}-{colour}" for colour in COLOURS)
        live = annotations_of(self._service() or {}).get(LIVE, "")
        if live:
            return live, blue if live == green else green
        return "", green if self.endpoint.get(blue) is None and self.endpoint.get(green) else blue

    def _switch(self, live: str, release: Release) -> None:
        document = live_service(self.endpoint.name, self.endpoint.namespace, live, release.model_id)
        if self._service() is None:
            self.endpoint.api.apply(SERVICE, document, self.endpoint.namespace)
            return
        annotations = document["metadata"]["annotations"] | {CANDIDATE: None}
        change: Document = {"metadata": {"annotations": annotations}, "spec": {"selector": document["spec"]["selector"]}}
        self.endpoint.api.patch(SERVICE, self.endpoint.name, change, self.endpoint.namespace)

    def _annotate(self, annotations: dict[str, str | None]) -> None:
        self.endpoint.api.patch(SERVICE, self.endpoint.name, {"metadata": {"annotations": annotations}}, self.endpoint.namespace)

    def _service(self) -> Document | None:
        return self.endpoint.api.get(SERVICE, self.endpoint.name, self.endpoint.namespace)

    def _place(self, document: Document) -> Place | None:
        return standard_place(self.endpoint.api, document)
