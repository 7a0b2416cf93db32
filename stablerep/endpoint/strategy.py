"""What a roll-out is made of: an endpoint on a cluster, and the moves that every backend knows how to make."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from stablerep.cluster import INFERENCE_SERVICE, ClusterApi, Document
from stablerep.endpoint.client import EndpointClient
from stablerep.endpoint.observed import Place, diagnosis, is_ready
from stablerep.endpoint.release import BuildService, Release, RolloutState, release_of
from stablerep.errors import LaunchError


@dataclass(frozen=True)
class Endpoint:
    """What every strategy works on."""

    api: ClusterApi
    name: str
    namespace: str
    build: BuildService
    ready_timeout_seconds: float
    poll_seconds: float = 1.0
    token: str = field(default="", repr=False)  # that its servers ask for

    def get(self, service: str) -> Document | None:
        """An InferenceService of this endpoint; one that is being deleted counts as gone."""
        document = self.api.get(INFERENCE_SERVICE, service, self.namespace)
        return None if document is None or "deletionTimestamp" in document["metadata"] else document

    def release(self, service: str) -> Release | None:
        """What an InferenceService of this endpoint is to serve; None where there is none."""
        document = self.get(service)
        return release_of(document) if document else None

    def put(self, document: Document) -> Release:
        """Create or change an InferenceService of this endpoint; returns what it serves.

        Raises:
            LaunchError: an earlier one of its name does not go away.
        """
        name, deadline = str(document["metadata"]["name"]), time.monotonic() + self.ready_timeout_seconds
        while self.get(name) is None and (found := self.api.get(INFERENCE_SERVICE, name, self.namespace)):
            if time.monotonic() > deadline:
                finalizers = ", ".join(found["metadata"].get("finalizers") or ["none"])
                where = f"InferenceService {self.namespace}/{name}"
                raise LaunchError(f"{where} is still being deleted after {self.ready_timeout_seconds:.0f} s (finalizers: {finalizers})")
            time.sleep(self.poll_seconds)
        self.api.apply(INFERENCE_SERVICE, document, self.namespace)
        return release_of(document)

    def delete(self, service: str) -> None:
        """Delete an InferenceService of this endpoint, if it is there."""
        self.api.delete(INFERENCE_SERVICE, service, self.namespace)

    def wait(self, service: str, wanted: Release, place_of: Callable[[Document], Place | None]) -> Place:
        """Wait until an InferenceService is ready and its server says that it serves `wanted`; returns where.

        Raises:
            LaunchError: it is not ready in time, or something else has taken its place.
        """
        deadline = time.monotonic() + self.ready_timeout_seconds
        where = f"InferenceService {self.namespace}/{service}"
        while True:
            document = self.get(service)
            found = release_of(document) if document else None
            if document is None or found != wanted:
                raise LaunchError(
                    f"{where}: expected {wanted.model_id}, found {found.model_id if found else 'none'}; another deployment has changed it; "
                    "deploy again"
                )
            place = place_of(document) if is_ready(document) else None
            served = self._served(place) if place else ""
            if place and served == wanted.model_id:
                return place
            if time.monotonic() > deadline:
                answers = f"  {place.url(self.name)} serves {served}\n" if place else ""
                raise LaunchError(
                    f"{where} with {wanted.model_id} was not ready after {self.ready_timeout_seconds:.0f} s; what was served before "
                    f"still is; raise deploy.ready_timeout_seconds or see:\n{answers}{diagnosis(self.api, document)}"
                )
            time.sleep(self.poll_seconds)

    def _served(self, place: Place) -> str:
        """The model that the server at `place` serves, or why it does not say so."""
        with EndpointClient(place.host, place.port, self.name, timeout_seconds=5.0, token=self.token) as client:
            try:
                return (client.is_ready() and client.model_id()) or "nothing"
            except LaunchError as error:
                return f"nothing: {error}"


class Strategy(Protocol):
    """How one backend moves traffic. Every method may be called again after it was interrupted."""

    @property
    def endpoint(self) -> Endpoint:
        """What it works on."""
        ...

    def read(self) -> RolloutState:
        """The state of the roll-out, from the cluster."""
        ...

    def launch(self, wanted: Release) -> None:
        """Put `wanted` beside what is served, without traffic; an earlier candidate is replaced."""
        ...

    def wait_candidate(self, wanted: Release) -> Place:
        """Wait until the candidate answers at its dark address.

        Raises:
            LaunchError: it does not in time.
        """
        ...

    def wait_served(self, wanted: Release) -> Place:
        """Wait until what is served answers; returns where callers inside the cluster find it.

        Raises:
            LaunchError: it does not in time.
        """
        ...

    def set_percent(self, percent: int) -> None:
        """Give the candidate 0 to 99 % of the traffic."""
        ...

    def promote(self) -> None:
        """Make the candidate what is served.

        Raises:
            LaunchError: it does not come up in its new place; it keeps all of the traffic where it is.
        """
        ...

    def withdraw(self) -> None:
        """Bring back what the candidate has replaced, nothing where it was the first.

        Where there is no candidate: what the release that is served has replaced; it stays where nothing is kept to fall back to.
        """
        ...
