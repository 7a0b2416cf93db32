"""preflight of a cluster against a fake API server: everything there, then each failure alone with its remedy."""

import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fake_cluster import FakeCluster
from whole_cluster import IMAGE, KEDA, look, node, quota, scope, training_runtime

from stablerep.cluster import (
    CONFIG_MAP,
    EVENT,
    GATEWAY,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    JOB_SET,
    LOCAL_QUEUE,
    NODE,
    POD,
    RESOURCE_QUOTA,
    SERVICE_ACCOUNT,
    SERVING_RUNTIME,
    TRAIN_JOB,
    TRAINING_RUNTIME,
    VOLCANO_JOB,
    VOLCANO_QUEUE,
    WORKLOAD_PRIORITY_CLASS,
    Kind,
)
from stablerep.config import load_recipe
from stablerep.errors import ClusterError, ConfigError
from stablerep.integrations.kubernetes_api import KubernetesApi, connect
from stablerep.records import DatasetRef
from stablerep.stages import preflight
from stablerep.stages.preflight_cluster import API_SERVER, check_cluster
from stablerep.stages.preflight_room import QUOTA, job_size, quantity
from stablerep.stages.pretrain_run import plan_run, training_job

PROJECT = Path(__file__).parents[2]


def test_a_cluster_with_everything_passes_and_nothing_in_it_is_changed(api: KubernetesApi, cluster: FakeCluster) -> None:
    checks = look(api)
    groups = "trainer.kubeflow.org jobset.x-k8s.io kueue.x-k8s.io serving.kserve.io gateway.networking.k8s.io keda.sh"
    assert [name for name in checks if name.startswith("API ")] == [f"API {group}" for group in groups.split()]
    optional = {"ConfigMap stablerep-store", "Secret stablerep-store"}
    assert {name: check for name, check in checks.items() if check.state != "ok"}.keys() == optional
    assert checks[API_SERVER].found == "v1.32.0"
    assert checks["API trainer.kubeflow.org"].found == "serves v1alpha1; v1alpha1 is used"
    assert checks["quota"].found == "holds 128 cpu, 512 GiB memory, 16 nvidia.com/gpu, 2 pods in namespace stablerep"
    assert checks["nodes"].found == "2 offer 64 cpu, 256 GiB memory, 8 nvidia.com/gpu; 2 needed"
    assert {request.verb for request in cluster.requests if request.plural != "selfsubjectaccessreviews"} <= {"", "get", "list"}


def _without(*kinds: Kind) -> Callable[[FakeCluster], None]:
    return lambda cluster: cluster.kinds.difference_update(kinds)


def _gone(kind: Kind, name: str, namespace: str = "") -> Callable[[FakeCluster], None]:
    return lambda cluster: cluster.remove(kind, name, namespace)


def _forbid(verb: str, kind: Kind, subresource: str = "") -> Callable[[FakeCluster], None]:
    return lambda cluster: cluster.forbid(verb, kind, subresource)


def _set(kind: Kind, *documents: dict[str, object]) -> Callable[[FakeCluster], None]:
    return lambda cluster: [cluster.set(kind, document) for document in documents] and None


def _old(cluster: FakeCluster) -> None:
    cluster.version = "v1.31.14-eks-1"


def _gateway(*conditions: dict[str, str]) -> Callable[[FakeCluster], None]:
    document = {"metadata": {"name": "public"}, "status": {"conditions": list(conditions)}}
    return lambda cluster: cluster.set(GATEWAY, document, "default") and None


FAILURES: list[tuple[str, Callable[[FakeCluster], None], str, str]] = [
    (API_SERVER, _old, "v1.31.14", "Kubernetes 1.32 and later"),
    ("API jobset.x-k8s.io", _without(JOB_SET), "not installed (JobSet)", "install JobSet in a release that serves v1alpha2"),
    ("API keda.sh", _without(KEDA), "not installed (KEDA)", "install KEDA"),
    (
        "API serving.kserve.io",
        _without(INFERENCE_SERVICE),
        "serves v1alpha1; v1beta1 is used",
        "install KServe in a release that serves v1beta1",
    ),
    (
        "TrainingRuntime stablerep-deepspeed",
        _gone(TRAINING_RUNTIME, "stablerep-deepspeed"),
        "none in namespace stablerep",
        "kubectl apply -k",
    ),
    ("ServingRuntime stablerep-encoder", _gone(SERVING_RUNTIME, "stablerep-encoder"), "none in namespace stablerep", "set deploy.runtime"),
    ("ServiceAccount stablerep-train", _gone(SERVICE_ACCOUNT, "stablerep-train"), "none in namespace", "set launch.service_account"),
    ("ServiceAccount stablerep-serve", _gone(SERVICE_ACCOUNT, "stablerep-serve"), "none in namespace", "set deploy.service_account"),
    ("LocalQueue stablerep", _gone(LOCAL_QUEUE, "stablerep"), "none in namespace", "add manifests/components/kueue"),
    (
        "LocalQueue stablerep",
        _set(LOCAL_QUEUE, {"metadata": {"name": "stablerep"}, "spec": {"stopPolicy": "Hold"}}),
        "stopped (Hold)",
        "whoever keeps the queue",
    ),
    (
        "LocalQueue stablerep",
        _set(
            LOCAL_QUEUE,
            {
                "metadata": {"name": "stablerep"},
                "status": {"conditions": [{"type": "Active", "status": "False", "message": "no ClusterQueue"}]},
            },
        ),
        "not active: no ClusterQueue",
        "whoever keeps the queue",
    ),
    ("Gateway public", _gone(GATEWAY, "public", "default"), "none in namespace default", "create the Gateway"),
    ("Gateway public", _gateway(), "not programmed: no controller has taken it", "controller of its GatewayClass"),
    (
        "Gateway public",
        _gateway({"type": "Accepted", "status": "True"}, {"type": "Programmed", "status": "False", "reason": "AddressNotAssigned"}),
        "not programmed: AddressNotAssigned",
        "kubectl describe gateway",
    ),
    (
        "rights on trainjobs.trainer.kubeflow.org",
        _forbid("create", TRAIN_JOB),
        "missing in namespace stablerep: create",
        "Role stablerep-launch",
    ),
    ("may get pods/log", _forbid("get", POD, "log"), "missing in namespace stablerep: get", "Role stablerep-launch"),
    ("may list events", _forbid("list", EVENT), "missing in namespace stablerep: list", "bind Role stablerep-"),
    ("rights on httproutes.gateway.networking.k8s.io", _forbid("patch", HTTP_ROUTE), "stablerep: patch", "Role stablerep-deploy"),
    (
        QUOTA,
        _set(RESOURCE_QUOTA, quota({"requests.nvidia.com/gpu": "8"})),
        "team: there are 8 requests.nvidia.com/gpu, the job asks for 16 nvidia.com/gpu",
        "ask for a larger ResourceQuota",
    ),
    (
        QUOTA,
        _set(RESOURCE_QUOTA, quota({"limits.memory": "600Gi", "pods": "4"}, {"limits.memory": "100Gi", "pods": "3"})),
        "team: of 600Gi limits.memory, 100Gi are held, the job asks for 512 GiB memory; team: of 4 pods, 3 are held, the job asks for 2",
        "wait for what holds it",
    ),
    (
        "nodes",
        _set(NODE, node("node-0", taint="team"), node("node-1", taint="team")),
        "all 2 have a taint that is not tolerated: team:NoSchedule",
        "set launch.tolerations=team:NoSchedule",
    ),
    (
        "nodes",
        _set(NODE, node("node-0", gpus=4), node("node-1", gpus=4, cpus="48")),
        "a pod asks for 64 cpu, 256 GiB memory, 8 nvidia.com/gpu; the largest of 2 nodes offers 96 cpu, 700 GiB memory, 4 nvidia.com/gpu",
        "pretrain.num_nodes",
    ),
]


@pytest.mark.parametrize(("name", "break_", "found", "remedy"), FAILURES, ids=[f"{i}-{failure[0]}" for i, failure in enumerate(FAILURES)])
def test_each_failure_alone_has_its_remedy(
    api: KubernetesApi, cluster: FakeCluster, name: str, break_: Callable[[FakeCluster], None], found: str, remedy: str
) -> None:
    break_(cluster)
    checks = look(api)
    assert [check.name for check in checks.values() if not check.is_ok] == [name]
    assert found in checks[name].found
    assert remedy in checks[name].remedy


RUNTIME = "runtime of the job"


def _patched(grace_seconds: int, volume: str, size: str) -> dict[str, Any]:
    runtime = training_runtime()
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = grace_seconds
    pod["volumes"][0] = {"name": volume, "emptyDir": {"medium": "Memory", "sizeLimit": size}}
    pod["containers"][0]["volumeMounts"][0]["name"] = volume
    return runtime


def test_what_the_launcher_would_refuse_in_a_runtime_is_a_row(api: KubernetesApi, cluster: FakeCluster) -> None:
    assert look(api)[RUNTIME].found == "leaves launch.grace_seconds=120 to save in; launch.shared_memory_gib=16 at /dev/shm"
    check = look(api, "launch.grace_seconds=300")[RUNTIME]
    assert check.state == "failed"
    assert "launch.grace_seconds=300 to save in" in check.found
    assert "found 150" in check.found
    assert "launch.grace_seconds" in check.remedy
    cluster.set(TRAINING_RUNTIME, _patched(150, "shared-memory", "1Gi"))
    assert look(api)[RUNTIME].state == "ok", "the job sets the size of this volume"
    cluster.set(TRAINING_RUNTIME, _patched(150, "dshm", "1Gi"))
    assert "expected launch.shared_memory_gib=16 at /dev/shm, found volume dshm of 1Gi" in look(api)[RUNTIME].found
    cluster.forbid("get", TRAINING_RUNTIME)
    assert look(api)[RUNTIME].state == "not checked"
    assert RUNTIME not in look(api, stages=("deploy",))
    assert RUNTIME not in look(api, "launch.backend=volcano launch.queue=''")


def test_a_runtime_that_would_refuse_is_that_of_the_job(api: KubernetesApi, cluster: FakeCluster) -> None:
    other = _patched(30, "shared-memory", "16Gi") | {"metadata": {"name": "other"}}
    cluster.set(TRAINING_RUNTIME, other, "team-a")
    assert "found 30" in look(api, "launch.runtime=other launch.namespace=team-a")[RUNTIME].found
    assert RUNTIME not in look(api, "launch.runtime=other")


def test_what_may_not_be_looked_at_is_not_checked_and_stops_nothing(api: KubernetesApi, cluster: FakeCluster) -> None:
    for verb, kind in (("list", NODE), ("list", RESOURCE_QUOTA), ("get", GATEWAY), ("get", CONFIG_MAP)):
        cluster.forbid(verb, kind)
    checks = look(api)
    assert {name for name, check in checks.items() if check.state == "not checked"} == {
        "nodes",
        "quota",
        "Gateway public",
        "ConfigMap stablerep-store",
        "Secret stablerep-store",
    }
    assert checks["nodes"].found == "these credentials are not allowed to look"
    assert all(check.is_ok for check in checks.values())
    assert cluster.seen("get", CONFIG_MAP) == []


def test_a_server_that_breaks_while_it_is_asked_is_a_failure(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.fail(500, times=100, verb="list", kind=NODE)
    assert look(api)["nodes"].state == "failed"


def test_only_what_the_stages_use_is_asked_for(api: KubernetesApi, cluster: FakeCluster) -> None:
    trains, serves = look(api, stages=("pretrain",)), look(api, stages=("deploy", "verify"))
    assert not [name for name in trains if re.search("kserve|gateway|keda|-serve|services", name)]
    assert not [name for name in serves if re.search("train|jobset|kueue|quota|nodes|queue", name)]
    assert list(look(api, stages=("generate",), is_pod=True)) == [API_SERVER, "queue of GPU tasks"]
    assert list(look(api, stages=("commit",), is_pod=True)) == [API_SERVER]


def test_the_priority_of_a_train_job_is_kueues(api: KubernetesApi, cluster: FakeCluster) -> None:
    words = "launch.priority_class=stablerep-train"
    assert look(api, words)["WorkloadPriorityClass stablerep-train"].state == "failed"
    cluster.set(WORKLOAD_PRIORITY_CLASS, {"metadata": {"name": "stablerep-train"}})
    assert look(api, words)["WorkloadPriorityClass stablerep-train"].state == "ok"


def test_volcano_asks_for_its_own_kinds(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.set(VOLCANO_QUEUE, {"metadata": {"name": "stablerep"}, "status": {"state": "Closed"}})
    checks = look(api, "launch.backend=volcano launch.priority_class=high", stages=("pretrain",))
    assert {"API batch.volcano.sh", "API scheduling.volcano.sh", "rights on jobs.batch.volcano.sh"} <= set(checks)
    assert "API trainer.kubeflow.org" not in checks
    assert checks["Queue stablerep"].found == "its state is Closed"
    assert "manifests/cluster/volcano" in checks["PriorityClass high"].remedy
    cluster.update_status(VOLCANO_QUEUE, "stablerep", {"state": "Open"})
    cluster.kinds.discard(VOLCANO_JOB)
    checks = look(api, "launch.backend=volcano", stages=("pretrain",))
    assert [name for name, check in checks.items() if not check.is_ok] == ["API batch.volcano.sh"]


def test_no_server_and_nothing_behind_it_is_checked(cluster_kubeconfig: Path, cluster: FakeCluster) -> None:
    cluster.fail(503, times=1000)
    with connect(budget_seconds=0.1) as api:
        checks = look(api)
        assert [(check.name, check.state) for check in checks.values()] == [(API_SERVER, "failed"), ("cluster", "not checked")]
        assert "kubeconfig" in checks[API_SERVER].remedy
        asked_for_nothing = check_cluster(
            scope("launch.backend=local deploy.backend=local deploy.autoscaler=none", is_pod=True), lambda: api
        )
    assert [(check.name, check.state) for check in asked_for_nothing] == [(API_SERVER, "not checked")]


# --- room ---


def test_quota_counts_pods_of_a_run_that_is_continued(api: KubernetesApi, cluster: FakeCluster) -> None:
    full = quota({"requests.nvidia.com/gpu": "16"}, {"requests.nvidia.com/gpu": "16"})
    cluster.set(RESOURCE_QUOTA, full)
    cluster.set(POD, {"metadata": {"name": "notebook-0"}})
    assert look(api)[QUOTA].state == "failed"
    labels = {"app.kubernetes.io/name": "stablerep", "app.kubernetes.io/component": "train"}
    cluster.set(POD, {"metadata": {"name": "node-0-0", "labels": labels}})
    assert look(api)[QUOTA].state == "not checked"
    assert "1 pods of StableRep train there now" in look(api)[QUOTA].found
    assert look(api, "pretrain.num_processes=32 pretrain.num_nodes=4 pretrain.captions_per_batch=32")[QUOTA].state == "failed"


def test_quota_with_scopes_is_said_not_to_be_measured(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.set(RESOURCE_QUOTA, quota({"pods": "0"}, scopes=["BestEffort"]))
    assert look(api)[QUOTA].found == "none in namespace stablerep; 1 with scopes not measured"


def test_quota_is_that_of_the_namespace_of_the_job(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.set(RESOURCE_QUOTA, quota({"pods": "1"}), "team-a")
    check = look(api, "launch.namespace=team-a")[QUOTA]
    assert "namespace team-a: team: there are 1 pods" in check.found


def test_a_pool_that_scales_from_zero_stops_nothing(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.remove(NODE, "node-1")
    assert look(api)["nodes"].state == "not checked"
    assert "1 of 2 nodes" in look(api)["nodes"].found
    cluster.remove(NODE, "node-0")
    cluster.set(NODE, node("cpu-0", gpus=0, taint=""))
    assert look(api)["nodes"].state == "not checked"
    assert "none of 1 nodes that fit launch.node_selector is ready and offers nvidia.com/gpu" in look(api)["nodes"].found


def test_nodes_that_are_cordoned_or_of_another_pool_do_not_count(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.set(NODE, node("node-0", taint="node.kubernetes.io/unschedulable"))
    assert "1 of 2 nodes" in look(api)["nodes"].found
    assert "none of 0 nodes" in look(api, "launch.node_selector=pool=another")["nodes"].found
    cluster.set(NODE, node("node-1", taint="node.kubernetes.io/unschedulable"))
    assert look(api)["nodes"].state == "not checked"  # uncordoned tomorrow: nobody should tolerate that taint


def test_a_taint_that_only_prefers_stops_nothing(api: KubernetesApi, cluster: FakeCluster) -> None:
    for name in ("node-0", "node-1"):
        cluster.set(NODE, node(name) | {"spec": {"taints": [{"key": "team", "effect": "PreferNoSchedule"}]}})
    assert look(api)["nodes"].state == "ok"


def test_gke_tolerates_the_taint_of_an_accelerator_by_itself(api: KubernetesApi, cluster: FakeCluster) -> None:
    words = "launch.tolerations=[]"
    assert look(api, words)["nodes"].state == "failed"
    cluster.version = "v1.33.1-gke.1183000"
    assert look(api, words)["nodes"].state == "ok"


@pytest.mark.parametrize(
    "words", ["", "launch.gpus_per_process=0", "launch.cpus_per_process=0 launch.memory_gib_per_process=0", "pretrain.num_workers=5"]
)
def test_the_size_is_that_of_the_job_that_is_launched(words: str) -> None:
    asked = scope(words)
    dataset = DatasetRef("groups-1", "memory://groups", "00", "prompts-1", "generator-1", 2, 10, 40, 4, {})
    job = training_job(plan_run("smoke", asked.recipe.pretrain, dataset), "memory://store", asked.recipe.launch, IMAGE)
    size = job_size(asked)
    assert (size.num_nodes, size.gpus, size.cpus) == (job.num_nodes, job.gpus_per_node, job.cpus_per_node)
    assert size.memory_bytes == job.memory_mib_per_node << 20


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 0.5), ("64Gi", 64 * 2**30), ("1e3", 1000), ("2k", 2000), ("16", 16), ("1Ti", 2.0**40)]
)
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == value


# --- Prometheus ---


class _Prometheus(BaseHTTPRequestHandler):
    answer = b'{"status": "success"}'

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/v1/query?query=vector%281%29" else 404)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_prometheus_is_asked_where_it_judges_steps(api: KubernetesApi, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Prometheus)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    words = f"deploy.canary_percents=[50] deploy.prometheus_url=http://127.0.0.1:{server.server_port}"
    try:
        assert look(api, words)["Prometheus"].state == "ok"
        monkeypatch.setattr(_Prometheus, "answer", b'{"status": "error"}')
        assert look(api, words)["Prometheus"].state == "failed"
        assert "answers error" in look(api, words)["Prometheus"].found
        monkeypatch.setattr(_Prometheus, "answer", b"<html>a login page")
        assert look(api, words)["Prometheus"].state == "failed"
    finally:
        server.shutdown()
        server.server_close()
    check = look(api, words)["Prometheus"]
    assert "does not answer a query" in check.found
    assert "deploy.prometheus_url" in check.remedy


# --- the whole stage ---


def test_the_stage_shows_all_and_raises_the_first_failure(
    cluster: FakeCluster, cluster_kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from whole_cluster import WORDS

    passed = preflight.run("smoke", WORDS, "memory://stage", stages="pretrain deploy", table_path=str(tmp_path / "table.md"))
    assert any(check.name == "nodes" and check.state == "ok" for check in passed.checks)
    assert "| ok | API trainer.kubeflow.org |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    cluster.remove(TRAINING_RUNTIME, "stablerep-deepspeed")
    cluster.forbid("delete", TRAIN_JOB)
    message = r"^preflight: 2 failed: TrainingRuntime stablerep-deepspeed, rights on trainjobs\.trainer\.kubeflow\.org$"
    with pytest.raises(ConfigError, match=message):
        preflight.run("smoke", WORDS, "memory://stage", stages="pretrain deploy")
    printed = " ".join(capsys.readouterr().err.split())
    assert re.search(r"FAILED TrainingRuntime stablerep-deepspeed none .*-> kubectl apply", printed)
    assert re.search(r"missing in namespace stablerep: delete -> bind Role", printed)
    monkeypatch.setattr(preflight, "_FIRST_SECONDS", 0.1)
    cluster.fail(503, times=1000)
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"^preflight: 1 failed: Kubernetes API server$"):
        preflight.run("smoke", WORDS, "memory://stage", stages="pretrain deploy")
    assert time.monotonic() - started < preflight._BUDGET_SECONDS / 2


def test_a_recipe_without_a_cluster_asks_no_server(cluster: FakeCluster, cluster_kubeconfig: Path) -> None:
    preflight.run("smoke", "", "memory://stage")
    assert cluster.requests == []
    assert load_recipe("smoke").launch.backend == "local"
