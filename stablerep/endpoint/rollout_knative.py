"""Canary of KServe's Knative mode: one InferenceService whose latest revision gets canaryTrafficPercent of the traffic.

`canaryTrafficPercent` present means a roll-out is going on. KServe sends the rest to the revision that was rolled out last
(reconcilers/knative/ksvc_reconciler.go), and all of it to the latest where there is no other: a first deployment is live as soon as it
is ready. Removing the field sends everything to the latest *ready* revision, so a roll-back pins the old revision with 0 %, brings the
old model back as a new revision, waits for it, and only then removes the field.
"""

from dataclasses import dataclass

from stablerep.cluster import INFERENCE_SERVICE, Document
from stablerep.endpoint.observed import Place, knative_live_place, knative_place, latest_revision
from stablerep.endpoint.release import Release, RolloutState, predictor_of, previous_of, release_of
from stablerep.endpoint.strategy import Endpoint

_PERCENT = "canaryTrafficPercent"


@dataclass(frozen=True)
class KnativeCanary:
    """One InferenceService with the endpoint's name."""

    endpoint: Endpoint

    def read(self) -> RolloutState:
        """From the InferenceService alone."""
        document = self._document()
        if document is None or _PERCENT not in predictor_of(document):
            return RolloutState(release_of(document) if document else None, None)
        return RolloutState(previous_of(document), release_of(document), int(predictor_of(document)[_PERCENT]))

    def launch(self, wanted: Release) -> None:
        """A new revision with 0 %; what is served stays pinned."""
        self._replace(wanted, self._kept())

    def wait_candidate(self, wanted: Release) -> Place:
        """Wait for the latest revision, at the address of its tag."""
        return self.endpoint.wait(self.endpoint.name, wanted, knative_place)

    def wait_served(self, wanted: Release) -> Place:
        """Wait until the latest revision has all of the traffic."""
        return self.endpoint.wait(self.endpoint.name, wanted, knative_live_place)

    def set_percent(self, percent: int) -> None:
        """Of the latest revision; changes no pod."""
        self._patch(percent)

    def promote(self) -> None:
        """All of the traffic to the latest revision."""
        self._patch(None)

    def withdraw(self) -> None:
        """The old model again; no InferenceService where the candidate was the first."""
        previous, is_candidate = previous_of(self._document()), self.read().candidate is not None
        if previous:
            restored = self._replace(previous, None)
            self.wait_candidate(restored)
            self._patch(None)
            self.wait_served(restored)
        elif is_candidate:
            self.endpoint.delete(self.endpoint.name)

    def _kept(self) -> Release | None:
        """What a roll-back of the next candidate restores: what is served, or the first release, which nothing else serves."""
        state = self.read()
        return state.served or state.candidate

    def _replace(self, release: Release, previous: Release | None) -> Release:
        document = self._document()
        built = self.endpoint.build(
            self.endpoint.name,
            release,
            previous=previous,
            previous_revision=latest_revision(document) if document else "",
            canary_percent=0,
        )
        return self.endpoint.put(built)

    def _patch(self, percent: int | None) -> None:
        change: Document = {"spec": {"predictor": {_PERCENT: percent}}}
        self.endpoint.api.patch(INFERENCE_SERVICE, self.endpoint.name, change, self.endpoint.namespace)

    def _document(self) -> Document | None:
        return self.endpoint.get(self.endpoint.name)
