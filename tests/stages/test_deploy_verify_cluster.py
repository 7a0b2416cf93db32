"""deploy and verify on a cluster: a real server of the new encoder behind the fake KServe, the store on a real S3 server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_kserve import FakeKServe
from fake_prometheus import FakePrometheus
from tiny_encoder import picture, write_encoder

from stablerep.catalogue import ParquetCatalogue
from stablerep.cluster import HTTP_ROUTE, INFERENCE_SERVICE
from stablerep.config import load_recipe
from stablerep.endpoint import local
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.local import Placement, Served
from stablerep.errors import ConfigError, DataError, GateError, LaunchError
from stablerep.probes.data import identify
from stablerep.records import EndpointRef, Evaluation, GateDecision, ModelRef, Verification
from stablerep.stages import deploy, verify
from stablerep.stages.probe import protocol_of
from stablerep.store import Store

TOKEN = "a-token-of-the-tests"
pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """A store, a model in it, a server of it, and the words of the platform team."""

    store: Store
    model: ModelRef
    kserve: FakeKServe
    prometheus: FakePrometheus
    overrides: str

    @property
    def suite(self) -> str:
        probe = load_recipe("smoke", self.overrides).probe
        return protocol_of(probe).suite(identify(probe.dataset))

    def register(self) -> None:
        evaluation = Evaluation(self.model.model_id, self.suite, self.store.uri_of("evals/x"), 0.8, 0.7, 0.9, ())
        ParquetCatalogue(self.store).register_evaluation(evaluation, "2026-11-23T05:40:00+00:00")

    def deploy(self, overrides: str = "") -> EndpointRef:
        decision = GateDecision(self.model.model_id, True, (), "", 0.0).to_json()
        return deploy.run("smoke", f"{self.overrides} {overrides}", self.store.uri, model=self.model.to_json(), decision=decision)

    def verify(self, endpoint: EndpointRef, overrides: str = "") -> Verification:
        words = f"{self.overrides} {overrides}"
        return verify.run("smoke", words, self.store.uri, model=self.model.to_json(), endpoint=endpoint.to_json())

    def serves_already(self, model_id: str) -> None:
        """An older encoder, put there by hand as `verify` leaves it."""
        annotations = {"stablerep.dev/model-id": model_id, "serving.kserve.io/deploymentMode": "Standard"}
        predictor = {"model": {"storageUri": f"s3://encoders/{model_id}"}}
        document = {"metadata": {"name": "stablerep", "annotations": annotations}, "spec": {"predictor": predictor}}
        self.kserve.cluster.set(INFERENCE_SERVICE, document)
        backends = [{"name": "stablerep-predictor", "weight": 100}]
        route = {"metadata": {"name": "stablerep-traffic", "annotations": {"stablerep.dev/rollout-step": "0"}}}
        self.kserve.cluster.set(HTTP_ROUTE, route | {"spec": {"rules": [{"backendRefs": backends}]}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoder")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, int, int]]:
    """A real server of a tiny encoder, which asks for a token: model id, REST port, gRPC port."""
    model_id = write_encoder(folder, seed=1)
    store = Store((folder / "state").as_uri())
    state = local.serve(
        store, Placement("stablerep", 0, 0, Limits(), ready_timeout_seconds=180.0, token=TOKEN), Served(model_id, folder.as_uri())
    )
    yield model_id, state.port, state.grpc_port
    local.stop(store, "stablerep")


@pytest.fixture
def cluster(
    s3_store_uri: str,
    folder: Path,
    server: tuple[str, int, int],
    fake_kserve: FakeKServe,
    fake_prometheus: FakePrometheus,
    cluster_kubeconfig: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Cluster:
    for number in range(12):
        path = tmp_path / "photographs" / ("train" if number < 4 else "test") / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    model_id, port, grpc_port = server
    store = Store(s3_store_uri)
    for path in folder.iterdir():
        if path.is_file():
            store.put(path, f"models/{model_id}/{path.name}")
    fake_kserve.real[model_id] = (port, grpc_port)
    monkeypatch.setenv("STABLEREP_ENDPOINT_TOKEN", TOKEN)
    monkeypatch.setenv("STABLEREP_CLUSTER", f"deploy.prometheus_url={fake_prometheus.url} deploy.gateway=gateways/public")
    overrides = (
        f"probe.dataset={tmp_path / 'photographs'} gate.has_catalogue=false deploy.num_golden=3 deploy.canary_percents=5,50 "
        "deploy.step_seconds=0.2"
    )
    model = ModelRef(model_id, store.uri_of(f"models/{model_id}"), "0" * 64, "vit_tiny_patch16_224", 48, 32, has_text=True)
    return Cluster(store, model, fake_kserve, fake_prometheus, overrides)


STANDARD, KNATIVE = "deploy.backend=standard_canary", "deploy.backend=knative_canary"


def test_an_encoder_goes_dark_through_the_steps_into_the_catalogue(cluster: Cluster) -> None:
    cluster.serves_already("model-old")
    endpoint = cluster.deploy(STANDARD)
    port, grpc_port = cluster.kserve.real[cluster.model.model_id]
    assert endpoint == EndpointRef(
        cluster.model.model_id,
        f"http://127.0.0.1:{port}/v1/models/stablerep:predict",
        f"127.0.0.1:{grpc_port}",
        0,
        "kubernetes://stablerep/inferenceservices/stablerep",
    )
    assert cluster.kserve.shares() == {"model-old": 100}

    with pytest.raises(DataError, match=f"{cluster.model.model_id} gets no traffic: expected its evaluation on {cluster.suite}"):
        cluster.verify(endpoint, STANDARD)
    assert cluster.kserve.shares() == {"model-old": 100}

    cluster.register()
    found = cluster.verify(endpoint, STANDARD)
    assert all(found.checks.values())
    assert {"rest_embeddings", "grpc_embeddings", "bad_image_refused"} < set(found.checks)
    assert found.max_difference < 1e-4
    shares = [one for one in cluster.kserve.history if cluster.model.model_id in one]
    assert [one[cluster.model.model_id] for one in shares] == [5, 50, 100]
    champion = ParquetCatalogue(cluster.store).champion(cluster.suite)
    assert champion is not None
    assert champion.model_id == cluster.model.model_id
    assert cluster.verify(endpoint, STANDARD).checks == found.checks


def test_without_its_token_the_endpoint_is_not_ready_and_the_error_says_why(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STABLEREP_ENDPOINT_TOKEN")
    with pytest.raises(LaunchError, match=r"serves nothing: .* expected a token that it takes, found none; set STABLEREP_ENDPOINT_TOKEN"):
        cluster.deploy(f"{STANDARD} deploy.ready_timeout_seconds=1")


def test_golden_embeddings_that_differ_bring_the_old_encoder_back(cluster: Cluster) -> None:
    cluster.serves_already("model-old")
    cluster.register()
    endpoint = cluster.deploy(STANDARD)
    with pytest.raises(
        GateError, match=r"before it got any traffic: rest_embeddings, grpc_embeddings at http.* allowed -1\).* serves model-old"
    ):
        cluster.verify(endpoint, f"{STANDARD} deploy.max_difference=-1")
    assert cluster.kserve.shares() == {"model-old": 100}
    assert ParquetCatalogue(cluster.store).champion(cluster.suite) is None


def test_slow_answers_bring_the_old_encoder_back(cluster: Cluster) -> None:
    cluster.serves_already("model-old")
    cluster.register()
    endpoint = cluster.deploy(STANDARD)
    cluster.prometheus.p99_seconds = "3.5"
    with pytest.raises(
        GateError, match=r"failed at 5 % of the traffic: p99 3.5 s of 100 requests .* allowed 1 s; query: .* serves model-old"
    ):
        cluster.verify(endpoint, STANDARD)
    assert cluster.kserve.shares() == {"model-old": 100}
    assert ParquetCatalogue(cluster.store).champion(cluster.suite) is None


def test_through_knative_the_checks_say_that_grpc_is_not_offered(cluster: Cluster) -> None:
    cluster.register()
    found = cluster.verify(cluster.deploy(KNATIVE), KNATIVE)
    assert found.checks["grpc_not_offered"]
    assert "grpc_embeddings" not in found.checks
    assert all(found.checks.values())
    assert cluster.kserve.shares() == {cluster.model.model_id: 100}
    assert cluster.prometheus.queries == []  # nothing to compare a first encoder with


def test_the_endpoint_of_another_model_is_not_verified(cluster: Cluster) -> None:
    endpoint = EndpointRef("model-z", "http://127.0.0.1:1/", "", 0, "kubernetes://stablerep/inferenceservices/stablerep")
    with pytest.raises(GateError, match=f"expected the endpoint of {cluster.model.model_id}, found that of model-z; deploy again"):
        cluster.verify(endpoint, STANDARD)


def test_a_store_on_this_machine_is_refused_before_anything_is_created(cluster: Cluster, store: Store) -> None:
    cluster.store = store
    cluster.model = ModelRef("model-x", store.uri_of("models/model-x"), "0" * 64, "vit_tiny_patch16_224", 48, 32, has_text=True)
    with pytest.raises(ConfigError, match=r"expected a model that pods can read .* found file://"):
        cluster.deploy(STANDARD)
    assert cluster.kserve.cluster.objects(INFERENCE_SERVICE) == []


def test_deploying_on_a_cluster_needs_no_torch() -> None:
    code = "import sys, stablerep.stages.deploy, stablerep.endpoint.rollout_standard, stablerep.integrations.kserve_manifest\n"
    code += "import stablerep.integrations.kubernetes_api, json; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) is False
