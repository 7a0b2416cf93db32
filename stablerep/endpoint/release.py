"""What is served on a cluster and what is written about it there: a release, its annotations, the state of a roll-out.

Annotations of an InferenceService go on to its pods, so a changed annotation alone restarts them (KServe 0.20, components/predictor.go).
Ours are therefore written together with the model they belong to and left alone until the next one; whatever changes during a roll-out
is kept in canaryTrafficPercent, in an HTTPRoute or in a Service.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from stablerep.cluster import Document

MODEL_ID = "stablerep.dev/model-id"
SPEC_SHA256 = "stablerep.dev/spec-sha256"
PREVIOUS_MODEL_ID = "stablerep.dev/previous-model-id"
PREVIOUS_URI = "stablerep.dev/previous-uri"
PREVIOUS_SPEC_SHA256 = "stablerep.dev/previous-spec-sha256"
PREVIOUS_REVISION = "stablerep.dev/previous-revision"
ROLLOUT_STEP = "stablerep.dev/rollout-step"
LABELS = {
    "app.kubernetes.io/name": "stablerep",
    "app.kubernetes.io/component": "serve",
    "app.kubernetes.io/part-of": "stablerep",
    "app.kubernetes.io/managed-by": "stablerep",
}
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}  # of pods: a proxy would not reach istiod through the namespace's network policies


@dataclass(frozen=True)
class Release:
    """A model as it is to be served: `spec_sha256` stands for everything else that decides the pods."""

    model_id: str
    uri: str
    spec_sha256: str


@dataclass(frozen=True)
class RolloutState:
    """Read back from the cluster: `percent` of the traffic goes to `candidate`, the rest to `served`.

    Dark is 0; 100 with a candidate means that it passed every step and is taking the place of `served`.
    """

    served: Release | None
    candidate: Release | None
    percent: int = 0


class BuildService(Protocol):
    """Makes the InferenceService document of a release (stablerep.integrations.kserve_manifest)."""

    def __call__(
        self,
        name: str,
        release: Release,
        *,
        previous: Release | None = None,
        previous_revision: str = "",
        canary_percent: int | None = None,
    ) -> Document:
        """The document.

        Args:
            name: of the InferenceService.
            release: what it serves.
            previous: what a roll-back restores.
            previous_revision: latest Knative revision before this one.
            canary_percent: of the traffic, Knative only; None: all of it.
        """
        ...


def annotations_of(document: Document) -> Mapping[str, str]:
    """Annotations of an object, empty where it has none."""
    return cast("Mapping[str, str]", document.get("metadata", {}).get("annotations") or {})


def predictor_of(document: Document) -> dict[str, Any]:
    """spec.predictor of an InferenceService."""
    return cast("dict[str, Any]", document.get("spec", {}).get("predictor") or {})


def release_of(document: Document) -> Release:
    """What an InferenceService is to serve."""
    annotations = annotations_of(document)
    uri = str((predictor_of(document).get("model") or {}).get("storageUri", ""))
    return Release(annotations.get(MODEL_ID, ""), uri, annotations.get(SPEC_SHA256, ""))


def previous_of(document: Document | None) -> Release | None:
    """What the release in an InferenceService replaced; None for the first one."""
    annotations = annotations_of(document or {})
    if not annotations.get(PREVIOUS_URI):
        return None
    return Release(annotations.get(PREVIOUS_MODEL_ID, ""), annotations[PREVIOUS_URI], annotations.get(PREVIOUS_SPEC_SHA256, ""))


def annotations_for(release: Release, previous: Release | None, previous_revision: str) -> dict[str, str | None]:
    """Our annotations of an InferenceService; None removes one that an earlier release left."""
    return {
        MODEL_ID: release.model_id,
        SPEC_SHA256: release.spec_sha256,
        PREVIOUS_MODEL_ID: previous.model_id if previous else None,
        PREVIOUS_URI: previous.uri if previous else None,
        PREVIOUS_SPEC_SHA256: previous.spec_sha256 if previous else None,
        PREVIOUS_REVISION: previous_revision or None,
    }
