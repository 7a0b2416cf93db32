"""The protocol, and the kinds the product touches.

Nothing here knows a client library. Verbs raise `ClusterError` and its children (stablerep.errors): the message names the object, what
the server said and what to do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

Document = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind as the API server names it; `group` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As it stands in a document."""
        return f"{self.group}/{self.version}" if self.group else self.version


POD = Kind("", "v1", "pods", "Pod")
EVENT = Kind("", "v1", "events", "Event")
SERVICE = Kind("", "v1", "services", "Service")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
SECRET = Kind("", "v1", "secrets", "Secret")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
RESOURCE_QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota")
NODE = Kind("", "v1", "nodes", "Node", is_namespaced=False)
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", is_namespaced=False)
TRAIN_JOB = Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
TRAINING_RUNTIME = Kind("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime")
JOB_SET = Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
LOCAL_QUEUE = Kind("kueue.x-k8s.io", "v1beta2", "localqueues", "LocalQueue")
WORKLOAD_PRIORITY_CLASS = Kind("kueue.x-k8s.io", "v1beta2", "workloadpriorityclasses", "WorkloadPriorityClass", is_namespaced=False)
PRIORITY_CLASS = Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", is_namespaced=False)
VOLCANO_QUEUE = Kind("scheduling.volcano.sh", "v1beta1", "queues", "Queue", is_namespaced=False)
VOLCANO_JOB = Kind("batch.volcano.sh", "v1alpha1", "jobs", "Job")
INFERENCE_SERVICE = Kind("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService")
SERVING_RUNTIME = Kind("serving.kserve.io", "v1alpha1", "servingruntimes", "ServingRuntime")
GATEWAY = Kind("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")


def section(document: Document, *keys: str) -> Document:
    """An object inside a document, empty where it is missing or null: `section(pod, "status")`."""
    for key in keys:
        document = cast("Document", document.get(key) or {})
    return document


@dataclass(frozen=True)
class WatchEvent:
    """A change: ADDED, MODIFIED or DELETED, with the object; after a gap in the watch every object comes again as ADDED."""

    type: str
    document: Document


class ClusterApi(Protocol):
    """Verbs over documents. Requests that a restart, a rotated token or a busy server broke are repeated before anything is raised."""

    @property
    def namespace(self) -> str:
        """Of the credentials; used wherever a call names none."""
        ...

    def get(self, kind: Kind, name: str, namespace: str = "") -> Document | None:
        """The object, or None where there is none (also where its kind is not installed)."""
        ...

    def find(self, kind: Kind, namespace: str = "", labels: Mapping[str, str] | None = None) -> list[Document]:
        """All objects with these labels; empty where the kind is not installed."""
        ...

    def create(self, kind: Kind, document: Document, namespace: str = "", *, is_dry_run: bool = False) -> Document:
        """Create an object.

        Raises:
            AlreadyExistsError: there is one of this name.
            ClusterError: the server refused.
        """
        ...

    def patch(self, kind: Kind, name: str, change: Document, namespace: str = "") -> Document:
        """Merge `change` into an object (JSON merge patch, RFC 7396). With metadata.resourceVersion in it, only into that version.

        Raises:
            ClusterError: there is no such object, or the server refused.
        """
        ...

    def apply(self, kind: Kind, document: Document, namespace: str = "") -> Document:
        """Server-side apply under the field manager `stablerep`: create or change, the fields named are ours.

        Raises:
            ClusterError: the server refused.
        """
        ...

    def delete(self, kind: Kind, name: str, namespace: str = "") -> bool:
        """Ask for deletion with everything it owns (foreground); False where there was none."""
        ...

    def watch(
        self, kind: Kind, namespace: str = "", labels: Mapping[str, str] | None = None, *, seconds: float = 30.0
    ) -> Iterator[WatchEvent]:
        """First every object as ADDED, then changes, for about `seconds`; a dropped or expired (410) watch is taken up again."""
        ...

    def log_lines(self, pod: str, container: str, namespace: str = "", *, since_time: str = "", tail: int = 0) -> list[str]:
        """Whole lines of a container's log, each beginning with its RFC 3339 time stamp and a space; empty where there is none yet.

        Args:
            pod: name.
            container: name.
            namespace: where.
            since_time: RFC 3339; only lines of this second and later.
            tail: only so many last lines, 0: all.
        """
        ...

    def is_allowed(self, verb: str, kind: Kind, namespace: str = "", *, subresource: str = "") -> bool:
        """SelfSubjectAccessReview: may these credentials do this?"""
        ...

    def server_version(self) -> str:
        """What the API server says it is, as in `v1.32.1` or `v1.31.4-gke.1183000`.

        Raises:
            ClusterError: it cannot be reached, or refuses these credentials.
        """
        ...

    def served_versions(self, group: str) -> list[str]:
        """Versions of an API group, most preferred first; empty where it is not installed."""
        ...
