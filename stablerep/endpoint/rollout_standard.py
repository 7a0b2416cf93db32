"""Canary in Standard mode: InferenceServices `<name>` and `<name>-canary`, and an HTTPRoute of ours with their weights.

A promotion gives the canary everything, changes the stable one behind its back, waits for it, gives it everything and deletes the
canary. A first deployment goes to `<name>` and gets its HTTPRoute when it is promoted. KServe's own spec.canary (0.19 and later) splits
by numbers of replicas, which is too coarse for one or two of them. Weights count once the Gateway has taken them: it may refuse a route
or its backends, and callers would get nothing.
"""

import time
from dataclasses import dataclass

from stablerep.cluster import HTTP_ROUTE, Document
from stablerep.endpoint.observed import Place, route_problem, standard_place
from stablerep.endpoint.release import ROLLOUT_STEP, Release, RolloutState, annotations_of, previous_of
from stablerep.endpoint.strategy import Endpoint
from stablerep.endpoint.traffic import route_name, split_route
from stablerep.errors import LaunchError


@dataclass(frozen=True)
class StandardCanary:
    """`gateway` is namespace/name of the Gateway that callers come through."""

    endpoint: Endpoint
    gateway: str

    @property
    def canary(self) -> str:
        """Name of the canary InferenceService."""
        return f"{self.endpoint.name}-canary"

    def read(self) -> RolloutState:
        """From both InferenceServices and the HTTPRoute."""
        stable, route = self.endpoint.release(self.endpoint.name), self._route()
        if route is None:
            return RolloutState(None, stable)
        return RolloutState(stable, self.endpoint.release(self.canary), int(annotations_of(route).get(ROLLOUT_STEP, 0)))

    def launch(self, wanted: Release) -> None:
        """Beside the stable one; as the stable one, without a route, where there is none."""
        state = self.read()
        if state.served is None:
            self._delete_route()
            self.endpoint.put(self.endpoint.build(self.endpoint.name, wanted))
            return
        self._send(0, state.served)
        self._wait_route()
        self.endpoint.put(self.endpoint.build(self.canary, wanted, previous=state.served))

    def wait_candidate(self, wanted: Release) -> Place:
        """Wait for the canary, past the route."""
        return self.endpoint.wait(self.endpoint.name if self._route() is None else self.canary, wanted, self._place)

    def wait_served(self, wanted: Release) -> Place:
        """Wait for the stable one, and for the Gateway: a route that it does not take would send nothing."""
        place = self.endpoint.wait(self.endpoint.name, wanted, self._place)
        self._wait_route()
        return place

    def set_percent(self, percent: int) -> None:
        """Change the weights; the canary gets nothing again where the Gateway does not take them.

        Raises:
            LaunchError: it does not in time.
        """
        state = self.read()
        if state.candidate:
            self._give(percent, state.candidate, state.served)

    def promote(self) -> None:
        """The stable one becomes what the canary is, while the canary serves."""
        state = self.read()
        if state.candidate is None:
            return
        if state.served is None:
            self._give(0, state.candidate, None)
        else:
            self._give(100, state.candidate, state.served)
            before = previous_of(self.endpoint.get(self.endpoint.name)) if state.served == state.candidate else state.served
            self.wait_served(self.endpoint.put(self.endpoint.build(self.endpoint.name, state.candidate, previous=before)))
            self._send(0, state.candidate)
            self._wait_route()
        self.endpoint.delete(self.canary)

    def withdraw(self) -> None:
        """Without the canary; where there is none, the stable one as it was before."""
        state, previous = self.read(), previous_of(self.endpoint.get(self.endpoint.name))
        if state.candidate and state.served:
            self._send(0, state.served)
            self._wait_route()
            self.endpoint.delete(self.canary)
        elif state.candidate:
            self.endpoint.delete(self.endpoint.name)
        elif previous:
            restored = self.endpoint.put(self.endpoint.build(self.endpoint.name, previous))
            self.wait_served(restored)
            self._send(0, restored)

    def _give(self, percent: int, release: Release, served: Release | None) -> None:
        """Give the canary its share, or the first encoder its route; as before, and a LaunchError, where the Gateway does not take it."""
        self._send(percent, release)
        try:
            self._wait_route()
        except LaunchError as error:
            if served is None:
                self._delete_route()
            else:
                self._send(0, served)
            now = f"{served.model_id} has all of the traffic" if served else "nothing is served"
            raise LaunchError(f"{error}; {release.model_id} is not promoted and stays dark, {now}") from error

    def _wait_route(self) -> None:
        seconds, name = self.endpoint.ready_timeout_seconds, f"{self.endpoint.namespace}/{route_name(self.endpoint.name)}"
        deadline = time.monotonic() + seconds
        while problem := self._route_problem():
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"HTTPRoute {name}: not taken by Gateway {self.gateway} after {seconds:.0f} s: {problem}; see deploy.gateway, "
                    "its listeners and their allowedRoutes, then deploy again"
                )
            time.sleep(self.endpoint.poll_seconds)

    def _route_problem(self) -> str:
        route = self._route()
        return route_problem(route) if route else "it is gone"

    def _send(self, percent: int, release: Release) -> None:
        route = split_route(self.endpoint.name, self.endpoint.namespace, self.gateway, self.canary, percent, release.model_id)
        self.endpoint.api.apply(HTTP_ROUTE, route, self.endpoint.namespace)

    def _route(self) -> Document | None:
        return self.endpoint.api.get(HTTP_ROUTE, route_name(self.endpoint.name), self.endpoint.namespace)

    def _delete_route(self) -> None:
        self.endpoint.api.delete(HTTP_ROUTE, route_name(self.endpoint.name), self.endpoint.namespace)

    def _place(self, document: Document) -> Place | None:
        return standard_place(self.endpoint.api, document)
