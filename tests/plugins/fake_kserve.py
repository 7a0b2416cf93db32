"""KServe, Knative and the traffic behind them, played on the fake API server: what an InferenceService, an HTTPRoute and a Service lead to.

Written after KServe 0.20 (ksvc_reconciler.go, inference_service_status.go): changed annotations make new pods; without
canaryTrafficPercent everything goes to the latest revision that is ready; the revision pinned beside a canary is the one that was rolled
out last. Models answer over real HTTP. `history` is who got which share of the callers' requests, after every change.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fake_cluster import FakeCluster

from stablerep.cluster import EVENT, HTTP_ROUTE, INFERENCE_SERVICE, POD, SERVICE, Document

Shares = dict[str, int]
ROUTE_TAKEN: tuple[Document, ...] = ({"type": "Accepted", "status": "True"}, {"type": "ResolvedRefs", "status": "True"})


class ModelServer(ThreadingHTTPServer):
    """Answers as `model_id` does, at one address; "" answers 503."""

    daemon_threads = True

    def __init__(self, kserve: "FakeKServe") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kserve, self.model_id = kserve, ""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def do_GET(self) -> None:
        self._answer(200 if self.server.model_id else 503, {"versions": [self.server.model_id]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        embedding = [0.0, 9.0] if self.server.model_id in self.server.kserve.wrong else [0.0, 1.0]
        self.server.kserve.num_asked += 1
        self._answer(200 if self.server.model_id else 503, {"predictions": [embedding]})

    def _answer(self, status: int, body: Document) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@dataclass
class _Service:
    """One InferenceService: revisions and their models, oldest first; in Standard mode the last ready one is the Deployment."""

    template: str = ""
    revisions: list[tuple[str, str]] = field(default_factory=list)
    ready: str = ""  # latest ready revision
    rolled_out: str = ""
    rolled_out_before: str = ""
    traffic: dict[str, int] = field(default_factory=dict)

    def model(self, revision: str) -> str:
        return dict(self.revisions).get(revision, "")


class FakeKServe:
    """broken: models whose pods never get ready. wrong: models that answer with other embeddings. start_seconds: until pods are ready.

    lag_seconds, gateway_lag_seconds: until KServe, or the Gateway, looks at a change; the status is that of before meanwhile.
    gateway: what the Gateway says about every change of an HTTPRoute; nothing at all where it is empty.
    """

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster, self.broken, self.wrong = cluster, set[str](), set[str]()
        self.start_seconds, self.lag_seconds, self.num_asked = 0.0, 0.0, 0
        self.history: list[Shares] = []
        self.real: dict[str, tuple[int, int]] = {}  # REST and gRPC port of a real server of a model
        self._services: dict[str, _Service] = {}
        self._servers: dict[str, ModelServer] = {}
        self._lock = threading.RLock()
        cluster.on_change(INFERENCE_SERVICE, self._changed)
        self.gateway: tuple[Document, ...] = ROUTE_TAKEN
        self.gateway_lag_seconds = 0.0
        cluster.on_change(HTTP_ROUTE, self._routed)
        cluster.on_change(SERVICE, lambda event, document: self._note())

    def shares(self) -> Shares:
        """Who gets how much of what callers send to the endpoint `stablerep`."""
        knative = self._services.get("stablerep")
        if knative and knative.traffic:
            return _summed((knative.model(revision), percent) for revision, percent in knative.traffic.items())
        if route := self.cluster.get(HTTP_ROUTE, "stablerep-traffic"):
            backends = route["spec"]["rules"][0]["backendRefs"]
            return _summed((self._standard_model(end["name"].removesuffix("-predictor")), end["weight"]) for end in backends)
        if service := self.cluster.get(SERVICE, "stablerep"):
            selected = service["spec"]["selector"]["app"].removeprefix("isvc.").removesuffix("-predictor")
            return _summed([(self._standard_model(selected), 100)])
        return {}

    def server(self, address: str) -> ModelServer:
        with self._lock:
            if address not in self._servers:
                self._servers[address] = ModelServer(self)
            return self._servers[address]

    def close(self) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def _changed(self, event: str, document: Document) -> None:
        name = document["metadata"]["name"]
        with self._lock:
            if event == "DELETED":
                self._services.pop(name, None)
                self.server(name).model_id = self.server(f"latest-{name}").model_id = ""
                self.cluster.remove(SERVICE, f"{name}-predictor") if self.cluster.get(SERVICE, f"{name}-predictor") else None
            elif self.lag_seconds:
                threading.Timer(self.lag_seconds, self._look, (name,)).start()
            else:
                self._pods(document)
        self._note()

    def _routed(self, event: str, document: Document) -> None:
        self._note()
        if event == "DELETED" or not self.gateway:
            return
        said = [condition | {"observedGeneration": document["metadata"]["generation"]} for condition in self.gateway]
        if _said(document) == said:
            return
        answer = {"parents": [{"controllerName": "gateway.example.org/played", "conditions": said}]}
        if self.gateway_lag_seconds:
            threading.Timer(self.gateway_lag_seconds, self._answer_route, (document["metadata"], answer)).start()
        else:
            self._answer_route(document["metadata"], answer)

    def _answer_route(self, metadata: Document, answer: Document) -> None:
        with self._lock:
            route = self.cluster.get(HTTP_ROUTE, metadata["name"])
            if route and route["metadata"]["generation"] == metadata["generation"]:
                self.cluster.update_status(HTTP_ROUTE, metadata["name"], answer)

    def _look(self, name: str) -> None:
        with self._lock:
            if document := self.cluster.get(INFERENCE_SERVICE, name):
                self._pods(document)
        self._note()

    def ready_revisions(self, name: str) -> tuple[int, str]:
        """How many templates of pods an InferenceService has had, and the name of the one that is ready."""
        with self._lock:
            return len(self._services[name].revisions), self._services[name].ready

    def _pods(self, document: Document) -> None:
        """New pods where the template changed; ready at once or later."""
        name, annotations = document["metadata"]["name"], document["metadata"].get("annotations", {})
        service = self._services.setdefault(name, _Service())
        predictor = {key: value for key, value in document["spec"]["predictor"].items() if key != "canaryTrafficPercent"}
        template = json.dumps([predictor, annotations], sort_keys=True)
        if template != service.template:
            service.template = template
            model_id = annotations["stablerep.dev/model-id"]
            assert model_id in predictor["model"]["storageUri"], "an annotation and a model that do not belong together"
            revision = f"{name}-predictor-{len(service.revisions) + 1:05d}"
            service.revisions.append((revision, model_id))
            if model_id in self.broken:
                self._describe_failure(name)
            elif self.start_seconds:
                threading.Timer(self.start_seconds, self._get_ready, (name, revision)).start()
            else:
                service.ready = revision
        self._reconcile(document)

    def _get_ready(self, name: str, revision: str) -> None:
        with self._lock:
            document, service = self.cluster.get(INFERENCE_SERVICE, name), self._services.get(name)
            if document and service and service.revisions[-1][0] == revision:
                service.ready = revision
                self._reconcile(document)
        self._note()

    def _reconcile(self, document: Document) -> None:
        """Traffic and status as KServe writes them."""
        name, service = document["metadata"]["name"], self._services[document["metadata"]["name"]]
        latest = service.revisions[-1][0]
        is_new = service.ready == latest
        conditions = [{"type": "Ready", "status": "True" if is_new else "Unknown"}]
        if not is_new:
            conditions.append({"type": "PredictorReady", "status": "False", "reason": "RevisionFailed", "message": "container exited"})
        status: Document = {"conditions": conditions, "observedGeneration": 1}
        self.server(name).model_id = service.model(service.ready)
        if document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative":
            self._route(service, document["spec"]["predictor"].get("canaryTrafficPercent"))
            self.server(f"latest-{name}").model_id = service.model(service.ready)
            live = max(service.traffic, key=lambda revision: service.traffic[revision], default="")
            self.server(name).model_id = service.model(live)
            status["components"] = {"predictor": self._revisions(name, service, latest)}
        else:
            self._predictor_service(name, service.model(service.ready))
        status["address"] = {"url": self._url(name, self.server(name).model_id)}
        if (self.cluster.get(INFERENCE_SERVICE, name) or {}).get("status") != status:
            self.cluster.update_status(INFERENCE_SERVICE, name, {"components": None, **status})

    def _route(self, service: _Service, percent: int | None) -> None:
        """createKnativeService, then PropagateStatus."""
        if not service.ready:
            return
        pinned = service.rolled_out
        if service.rolled_out == service.ready and percent is not None and percent < 100:
            pinned = service.rolled_out_before
        share = percent if percent is not None and pinned else 100
        service.traffic = {service.ready: share} | ({pinned: 100 - share} if share < 100 else {})
        if share == 100 and service.rolled_out != service.ready:
            service.rolled_out_before, service.rolled_out = service.rolled_out, service.ready

    def _revisions(self, name: str, service: _Service, latest: str) -> Document:
        tag = {
            "tag": "latest",
            "latestRevision": True,
            "revisionName": service.ready,
            "url": self._url(f"latest-{name}", service.model(service.ready)),
        }
        return {
            "latestCreatedRevision": latest,
            "latestReadyRevision": service.ready,
            "latestRolledoutRevision": service.rolled_out,
            "previousRolledoutRevision": service.rolled_out_before,
            "traffic": [tag | {"percent": service.traffic.get(service.ready, 0)}] if service.ready else [],
        }

    def _url(self, address: str, model_id: str) -> str:
        return f"http://127.0.0.1:{self.real[model_id][0]}" if model_id in self.real else self.server(address).url

    def _predictor_service(self, name: str, model_id: str) -> None:
        ports = [{"name": "http", "port": self.server(name).server_port, "targetPort": 8080}]
        if model_id in self.real:
            ports.append({"name": "grpc", "port": self.real[model_id][1], "targetPort": 8081})
        self.cluster.set(SERVICE, {"metadata": {"name": f"{name}-predictor"}, "spec": {"clusterIP": "10.0.0.1", "ports": ports}})

    def _describe_failure(self, name: str) -> None:
        pod = f"{name}-predictor-6d8f-x2x4z"
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
        last = {"terminated": {"reason": "Error", "exitCode": 4}}
        containers = [{"name": "kserve-container", "state": state, "lastState": last}]
        metadata = {"name": pod, "labels": {"serving.kserve.io/inferenceservice": name}}
        self.cluster.set(POD, {"metadata": metadata, "status": {"phase": "Running", "containerStatuses": containers}})
        for number, kind in enumerate(("Warning", "Normal")):
            said = {"type": kind, "reason": "BackOff", "message": f"{kind}: restarting the failed container"}
            self.cluster.set(EVENT, {"metadata": {"name": f"{pod}.{number}"}, "involvedObject": {"name": pod}, **said})

    def _standard_model(self, name: str) -> str:
        service = self._services.get(name)
        return service.model(service.ready) if service else ""

    def _note(self) -> None:
        with self._lock:
            shares = self.shares()
            if not self.history or self.history[-1] != shares:
                self.history.append(shares)


def _said(route: Document) -> list[Document]:
    return [condition for parent in route.get("status", {}).get("parents", []) for condition in parent["conditions"]]


def _summed(parts: Any) -> Shares:
    summed: Shares = {}
    for model_id, percent in parts:
        if percent:
            summed[model_id] = summed.get(model_id, 0) + percent
    return summed


@pytest.fixture
def fake_kserve(fake_cluster: FakeCluster) -> Iterator[FakeKServe]:
    kserve = FakeKServe(fake_cluster)
    yield kserve
    kserve.close()
