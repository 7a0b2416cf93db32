"""Addresses and readiness read from status documents as KServe writes them."""

from typing import Any

import pytest
from fake_cluster import FakeCluster

from stablerep.cluster import POD, SERVICE, ClusterApi, Document
from stablerep.endpoint.observed import Place, diagnosis, is_ready, knative_live_place, knative_place, route_problem, standard_place
from stablerep.endpoint.release import PREVIOUS_REVISION
from stablerep.integrations.kubernetes_api import connect


@pytest.fixture
def api(cluster_kubeconfig: Any) -> ClusterApi:
    return connect("stablerep", budget_seconds=1.0)


def _isvc(status: Document, **annotations: str) -> Document:
    return {"metadata": {"name": "enc", "namespace": "stablerep", "annotations": annotations}, "status": status}


STANDARD = {"address": {"url": "http://enc-predictor.stablerep.svc.cluster.local"}}
PORTS = [
    {"name": "http", "port": 80, "targetPort": 8080},
    {"name": "h2c-grpc", "port": 8081, "targetPort": 8081},
    {"name": "metrics", "port": 9090, "targetPort": 9090},
]


@pytest.mark.parametrize(
    ("spec", "port", "grpc_port"),
    [
        ({"clusterIP": "10.0.0.7", "ports": PORTS[:2]}, 80, 8081),
        ({"clusterIP": "None", "ports": PORTS[:2]}, 8080, 8081),  # headless: nothing translates ports
        ({"clusterIP": "10.0.0.7", "ports": PORTS}, 80, 8081),
        ({"clusterIP": "10.0.0.7", "ports": PORTS[:1]}, 80, 0),
    ],
)
def test_standard_mode_answers_at_its_predictor_service(
    api: ClusterApi, fake_cluster: FakeCluster, spec: Document, port: int, grpc_port: int
) -> None:
    fake_cluster.set(SERVICE, {"metadata": {"name": "enc-predictor"}, "spec": spec})
    host = "enc-predictor.stablerep.svc.cluster.local"
    place = standard_place(api, _isvc(STANDARD))
    assert place == Place(host, port, f"{host}:{grpc_port}" if grpc_port else "", "enc-predictor-.*")
    assert place.url("enc") == f"http://{host}{'' if port == 80 else ':8080'}/v1/models/enc:predict"
    assert standard_place(api, _isvc({})) is None


def test_knative_answers_at_the_tag_of_its_latest_revision() -> None:
    tag = {"tag": "latest", "url": "https://latest-enc-predictor-stablerep.example.com:8443", "percent": 0}
    predictor: Document = {"latestReadyRevision": "enc-predictor-00002", "traffic": [{"tag": "prev", "url": "http://x"}, tag]}
    assert knative_place(_isvc({"components": {"predictor": predictor}})) == Place(
        "latest-enc-predictor-stablerep.example.com", 8443, "", "enc-predictor-00002-.*"
    )
    predictor["address"] = {"url": "http://enc-predictor.stablerep.svc.cluster.local"}
    local = knative_place(_isvc({"components": {"predictor": predictor}}))
    assert local == Place("latest-enc-predictor.stablerep.svc.cluster.local", 80, "", "enc-predictor-00002-.*")
    status: Document = {"components": {"predictor": predictor}, "address": {"url": "http://enc.stablerep.svc.cluster.local"}}
    assert knative_live_place(_isvc(status)) is None  # the latest revision has not had all of the traffic yet
    predictor["latestRolledoutRevision"] = "enc-predictor-00002"
    assert knative_live_place(_isvc(status)) == Place("enc.stablerep.svc.cluster.local", 80, "", "enc-predictor-00002-.*")
    assert knative_live_place(_isvc({})) is None
    assert knative_place(_isvc({"components": {"predictor": predictor | {"latestReadyRevision": ""}}})) is None
    assert knative_place(_isvc({})) is None


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


@pytest.mark.parametrize(
    ("status", "previous", "expected"),
    [
        (READY, "", True),
        ({}, "", False),
        ({"conditions": [{"type": "Ready", "status": "False"}, {"type": "PredictorReady", "status": "True"}]}, "", False),
        (READY | {"components": {"predictor": {"latestReadyRevision": "r2", "latestCreatedRevision": "r2"}}}, "r1", True),
        (READY | {"components": {"predictor": {"latestReadyRevision": "r1", "latestCreatedRevision": "r2"}}}, "r1", False),
        (READY | {"components": {"predictor": {"latestReadyRevision": "r2", "latestCreatedRevision": "r3"}}}, "r1", False),
        # the controller has not looked at the change yet: everything is still as it was for the revision before
        (READY | {"components": {"predictor": {"latestReadyRevision": "r1", "latestCreatedRevision": "r1"}}}, "r1", False),
    ],
)
def test_ready_means_the_new_revision(status: Document, previous: str, expected: bool) -> None:
    assert is_ready(_isvc(status, **({PREVIOUS_REVISION: previous} if previous else {}))) is expected


def test_a_diagnosis_without_the_right_to_read_pods_says_so(api: ClusterApi, fake_cluster: FakeCluster) -> None:
    failure = {"reason": "ModelLoadFailed", "message": "no such bucket", "exitCode": 1}
    status: Document = {
        "conditions": [{"type": "Ready", "status": "False", "reason": "Waiting"}],
        "modelStatus": {"lastFailureInfo": failure},
    }
    fake_cluster.forbid("list", POD)
    found = diagnosis(api, _isvc(status))
    assert "Ready=False (Waiting)" in found
    assert "model: ModelLoadFailed no such bucket (exit code 1)" in found
    assert "pods and events cannot be read: " in found
    fake_cluster.forbidden.clear()
    assert "no pods" in diagnosis(api, _isvc({}))
    assert "no conditions yet: is KServe's controller running?" in diagnosis(api, _isvc({}))


def _route(*parents: list[Document]) -> Document:
    return {"metadata": {"generation": 2}, "status": {"parents": [{"conditions": conditions} for conditions in parents]}}


def _said(accepted: str, resolved: str, generation: int = 2) -> list[Document]:
    pairs = (("Accepted", accepted), ("ResolvedRefs", resolved))
    return [{"type": kind, "status": status, "observedGeneration": generation} for kind, status in pairs]


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        (_route(_said("True", "True")), ""),
        (_route([{"type": kind, "status": "True"} for kind in ("ResolvedRefs", "Accepted")]), ""),
        (_route(_said("True", "True"), _said("True", "False")), "ResolvedRefs=False"),
        (_route(_said("Unknown", "True")), "Accepted=Unknown"),
        (
            _route(_said("True", "True", 1)),
            "Accepted is of an earlier state of the route; ResolvedRefs is of an earlier state of the route",
        ),
        (_route([]), "Accepted=Unknown; ResolvedRefs=Unknown"),
        (_route(), "no Gateway has answered: is it there, and does its controller run?"),
        ({"metadata": {}}, "no Gateway has answered: is it there, and does its controller run?"),
    ],
)
def test_a_route_counts_once_every_parent_has_taken_it(route: Document, problem: str) -> None:
    assert route_problem(route) == problem
