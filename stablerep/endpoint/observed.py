"""What the cluster says about an InferenceService: whether it is ready, where it answers, and why it is not ready.

status.observedGeneration is that of the Deployment or of the Knative Service (KServe 0.20, inference_service_status.go), so it says
nothing about the InferenceService itself; whether a change has been acted upon is asked from the served model.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from stablerep.cluster import EVENT, POD, SERVICE, ClusterApi, Document
from stablerep.endpoint.release import PREVIOUS_REVISION, annotations_of
from stablerep.endpoint.traffic import GRPC_PORT, predictor_service
from stablerep.errors import ClusterError

_NUM_EVENTS = 8


@dataclass(frozen=True)
class Place:
    """Where pods of one release answer. `grpc_address` is empty where gRPC does not reach them; `pods` is a regular expression."""

    host: str
    port: int
    grpc_address: str
    pods: str

    def url(self, endpoint: str) -> str:
        """The V1 predict URL of a model."""
        return f"http://{self.host}{'' if self.port == 80 else f':{self.port}'}/v1/models/{endpoint}:predict"


def is_ready(document: Document) -> bool:
    """Whether KServe calls an InferenceService ready, with the latest revision where it has revisions."""
    status = _status(document)
    conditions = {condition.get("type"): condition.get("status") for condition in _conditions(document)}
    predictor = _predictor_status(status)
    revisions = predictor.get("latestReadyRevision"), predictor.get("latestCreatedRevision")
    is_new = not revisions[0] or revisions[0] != annotations_of(document).get(PREVIOUS_REVISION, "")
    return conditions.get("Ready") == "True" and revisions[0] == revisions[1] and is_new


def latest_revision(document: Document) -> str:
    """Newest Knative revision of an InferenceService, empty in Standard mode."""
    return str(_predictor_status(_status(document)).get("latestCreatedRevision", ""))


def standard_place(api: ClusterApi, document: Document) -> Place | None:
    """Where an InferenceService in Standard mode answers: past every HTTPRoute and Service of ours; None while it has no address."""
    address = urlsplit(str((_status(document).get("address") or {}).get("url", "")))
    if not address.hostname:
        return None
    name, namespace = str(document["metadata"]["name"]), str(document["metadata"]["namespace"])
    service = api.get(SERVICE, predictor_service(name), namespace) or {}
    ports = cast("list[dict[str, Any]]", service.get("spec", {}).get("ports") or [])
    is_headless = service.get("spec", {}).get("clusterIP") == "None"  # no proxy: the pod's own ports
    numbers = {"grpc" if _is_grpc(port) else "http": int(port["targetPort"] if is_headless else port["port"]) for port in reversed(ports)}
    grpc_address = f"{address.hostname}:{numbers['grpc']}" if "grpc" in numbers else ""
    return Place(address.hostname, address.port or numbers.get("http", 80), grpc_address, f"{predictor_service(name)}-.*")


def knative_place(document: Document) -> Place | None:
    """Where the latest revision of an InferenceService in Knative mode answers, whatever its share of the traffic.

    The tag's address inside the cluster where the service has one, else the public one. Knative passes one port on, so there is no gRPC.
    """
    predictor = _predictor_status(_status(document))
    local = urlsplit(str((predictor.get("address") or {}).get("url", ""))).hostname or ""
    tags = [target for target in predictor.get("traffic") or [] if target.get("tag") == "latest" and target.get("url")]
    url = urlsplit(f"http://latest-{local}" if ".svc" in local else str(tags[0]["url"]) if tags else "")
    if not url.hostname or not predictor.get("latestReadyRevision"):
        return None
    return Place(url.hostname, url.port or 80, "", f"{predictor['latestReadyRevision']}-.*")


def knative_live_place(document: Document) -> Place | None:
    """Where callers inside the cluster find an InferenceService in Knative mode; None until its latest revision has all of the traffic.

    KServe pins what it has seen with all of the traffic: a roll-out that began before would pin the release before this one.
    """
    address = urlsplit(str((_status(document).get("address") or {}).get("url", "")))
    predictor = _predictor_status(_status(document))
    revision = str(predictor.get("latestReadyRevision", ""))
    is_rolled_out = bool(revision) and revision == predictor.get("latestRolledoutRevision")
    return Place(address.hostname, address.port or 80, "", f"{revision}-.*") if address.hostname and is_rolled_out else None


def route_problem(route: Document) -> str:
    """Why an HTTPRoute may not carry traffic as it stands; empty once every parent has taken its last change.

    Gateway API: a parent says Accepted and ResolvedRefs about the generation it has seen; one that has not looked yet says nothing.
    """
    parents = cast("list[dict[str, Any]]", _status(route).get("parents") or [])
    generation = int(route["metadata"].get("generation", 0))
    found = [_parent_problem(parent, kind, generation) for parent in parents for kind in ("Accepted", "ResolvedRefs")]
    return "; ".join(filter(None, found)) if found else "no Gateway has answered: is it there, and does its controller run?"


def _parent_problem(parent: dict[str, Any], kind: str, generation: int) -> str:
    conditions = cast("list[dict[str, Any]]", parent.get("conditions") or [])
    condition = next((each for each in conditions if each.get("type") == kind), {"type": kind, "status": "Unknown"})
    if condition.get("status") != "True":
        return _words(condition)
    is_old = int(condition.get("observedGeneration", generation)) < generation
    return f"{kind} is of an earlier state of the route" if is_old else ""


def diagnosis(api: ClusterApi, document: Document) -> str:
    """Why an InferenceService is not ready: conditions, what the model server said, its pods and their latest warnings."""
    name, namespace = str(document["metadata"]["name"]), str(document["metadata"]["namespace"])
    lines = [_words(condition) for condition in _conditions(document)] or ["no conditions yet: is KServe's controller running?"]
    failure = cast("dict[str, Any]", (_status(document).get("modelStatus") or {}).get("lastFailureInfo") or {})
    if failure:
        lines.append(f"model: {failure.get('reason', '')} {failure.get('message', '')} (exit code {failure.get('exitCode', '?')})")
    try:
        pods = api.find(POD, namespace, {"serving.kserve.io/inferenceservice": name})
        lines += [_pod(pod) for pod in pods] or ["no pods"]
        names = {name, *(str(pod["metadata"]["name"]) for pod in pods)}
        events = [event for event in api.find(EVENT, namespace) if event.get("involvedObject", {}).get("name") in names]
        warnings = [event for event in events if event.get("type") == "Warning"]
        lines += [f"event: {event.get('reason', '')}: {event.get('message', '')}" for event in warnings[-_NUM_EVENTS:]]
    except ClusterError as error:
        lines.append(f"pods and events cannot be read: {error}")
    return "\n".join(f"  {line}" for line in lines)


def _status(document: Document) -> dict[str, Any]:
    return cast("dict[str, Any]", document.get("status") or {})


def _predictor_status(status: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", (status.get("components") or {}).get("predictor") or {})


def _conditions(document: Document) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", _status(document).get("conditions") or [])


def _is_grpc(port: dict[str, Any]) -> bool:
    return port.get("port") == GRPC_PORT or any(word in str(port.get("name", "")) for word in ("grpc", "h2c"))


def _words(condition: dict[str, Any]) -> str:
    said = ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))
    return f"{condition.get('type')}={condition.get('status')}{f' ({said})' if said else ''}"


def _pod(pod: Document) -> str:
    status = cast("dict[str, Any]", pod.get("status") or {})
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return f"pod {pod['metadata']['name']}: {status.get('phase', '?')}{''.join(f'; {words}' for words in _containers(containers))}"


def _containers(statuses: Iterable[dict[str, Any]]) -> Iterable[str]:
    for status in statuses:
        for state in (status.get("state") or {}, status.get("lastState") or {}):
            kind = next((kind for kind in ("waiting", "terminated") if state.get(kind)), "")
            found = cast("dict[str, Any]", state.get(kind) or {})
            if kind and found.get("reason") != "Completed":
                code = f" exit code {found['exitCode']}" if "exitCode" in found else ""
                yield f"{status.get('name')} {kind}: {found.get('reason', '')}{code} {found.get('message', '')}".rstrip()
