"""Who gets the traffic of an endpoint in Standard mode: an HTTPRoute with weights, or a Service that selects one of two colours.

Both are ours alone (KServe names its own HTTPRoute like the InferenceService, so ours is `<name>-traffic`), so state of the roll-out may
stand in their annotations. KServe puts `app: isvc.<InferenceService>-predictor` on the pods and a Service `<InferenceService>-predictor`
in front of them.
"""

from stablerep.cluster import HTTP_ROUTE, SERVICE, Document
from stablerep.endpoint.release import LABELS, MODEL_ID, ROLLOUT_STEP

LIVE = "stablerep.dev/live"
CANDIDATE = "stablerep.dev/candidate"
HTTP_PORT, GRPC_PORT = 80, 8081  # of KServe's predictor Service
EMBEDDINGS = "/v1/embeddings"  # names no model: of several endpoints behind one listener, the oldest HTTPRoute has it (Gateway API)


def route_name(endpoint: str) -> str:
    """Of the HTTPRoute of an endpoint."""
    return f"{endpoint}-traffic"


def predictor_service(service: str) -> str:
    """Of the Service that KServe puts in front of an InferenceService's pods."""
    return f"{service}-predictor"


def split_route(endpoint: str, namespace: str, gateway: str, canary: str, canary_percent: int, model_id: str) -> Document:
    """HTTPRoute that shares the requests of one model between the stable InferenceService and its canary.

    It takes the paths that callers use and no more, because the Gateway may have other tenants; health is asked of the pods themselves.

    Args:
        endpoint: name of the model in the paths, and of the stable InferenceService.
        namespace: where both are.
        gateway: namespace/name of the Gateway.
        canary: name of the canary InferenceService.
        canary_percent: 0 to 100.
        model_id: of the canary, or of what is served where there is none.
    """
    gateway_namespace, _, gateway_name = gateway.partition("/")
    backends = [_backend(endpoint, 100 - canary_percent)] + ([_backend(canary, canary_percent)] if canary_percent else [])
    paths = (
        ("Exact", f"/v1/models/{endpoint}"),
        ("Exact", f"/v1/models/{endpoint}:predict"),
        ("PathPrefix", f"/v2/models/{endpoint}"),
        ("Exact", EMBEDDINGS),
    )
    return {
        "apiVersion": HTTP_ROUTE.api_version,
        "kind": HTTP_ROUTE.kind,
        "metadata": {
            "name": route_name(endpoint),
            "namespace": namespace,
            "labels": LABELS,
            "annotations": {ROLLOUT_STEP: str(canary_percent), MODEL_ID: model_id},
        },
        "spec": {
            "parentRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": gateway_namespace, "name": gateway_name},
            ],
            "rules": [{"matches": [{"path": {"type": kind, "value": value}} for kind, value in paths], "backendRefs": backends}],
        },
    }


def live_service(endpoint: str, namespace: str, live: str, model_id: str) -> Document:
    """Service of an endpoint that sends everything to the InferenceService `live`."""
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.kind,
        "metadata": {"name": endpoint, "namespace": namespace, "labels": LABELS, "annotations": {LIVE: live, MODEL_ID: model_id}},
        "spec": {
            "type": "ClusterIP",
            "selector": selector(live),
            "ports": [
                {"name": "http", "port": HTTP_PORT, "targetPort": 8080, "protocol": "TCP"},
                {"name": "grpc", "port": GRPC_PORT, "targetPort": GRPC_PORT, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
            ],
        },
    }


def selector(service: str) -> dict[str, str]:
    """Labels of the pods of an InferenceService in Standard mode."""
    return {"app": f"isvc.{predictor_service(service)}"}


def _backend(service: str, weight: int) -> Document:
    return {"group": "", "kind": "Service", "name": predictor_service(service), "port": HTTP_PORT, "weight": weight}
