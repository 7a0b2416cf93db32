"""preflight: the queue that the pipeline's own GPU tasks are labelled with."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_cluster import FakeCluster
from whole_cluster import look

from stablerep.cluster import CONFIG_MAP, LOCAL_QUEUE, NAMESPACE, WORKLOAD_PRIORITY_CLASS
from stablerep.integrations.kubernetes_api import KubernetesApi
from stablerep.stages.preflight_queue import GPU_STAGES, NAME, TASK_QUEUE

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"
NO_CLUSTER_BUT_THE_POD = "launch.backend=local deploy.backend=local deploy.autoscaler=none"


def _configure(cluster: FakeCluster, text: str) -> None:
    cluster.set(NAMESPACE, {"metadata": {"name": "kueue-system"}})
    document = {"metadata": {"name": "kueue-manager-config"}, "data": {"controller_manager_config.yaml": text}}
    cluster.set(CONFIG_MAP, document, "kueue-system")


def test_the_tasks_that_are_labelled_and_the_label_are_those_of_the_pipelines() -> None:
    labels: dict[str, str] = {}
    for path in COMPILED.glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            executors: dict[str, Any] = document.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
            for executor in executors.values():
                pod = executor["podMetadata"]["labels"]
                if "kueue.x-k8s.io/queue-name" in pod:
                    labels[pod["stablerep.dev/stage"]] = pod["kueue.x-k8s.io/queue-name"]
    assert labels == dict.fromkeys(GPU_STAGES, TASK_QUEUE)


@pytest.mark.parametrize(
    ("configuration", "state", "found"),
    [
        ("integrations: {frameworks: [batch/job, pod]}", "failed", "it manages pods, and tasks with that label would wait for ever"),
        ("integrations: {frameworks: [batch/job]}", "ok", "it does not manage pods"),
        ("manageJobsWithoutQueueName: false", "not checked", "whether it manages pods cannot be seen from here"),
        ("integrations: {frameworks: [", "not checked", "whether it manages pods cannot be seen from here"),
    ],
)
def test_without_the_queue_it_matters_whether_kueue_manages_pods(
    api: KubernetesApi, cluster: FakeCluster, configuration: str, state: str, found: str
) -> None:
    cluster.remove(LOCAL_QUEUE, TASK_QUEUE)
    _configure(cluster, configuration)
    check = look(api, NO_CLUSTER_BUT_THE_POD, is_pod=True)[NAME]
    assert (check.state, check.found.rpartition("; ")[2].partition(": if so")[0]) == (state, found)
    assert check.found.startswith("Kueue is installed, and there is no LocalQueue stablerep in namespace stablerep; ")
    assert ("manifests/components/kueue" in check.remedy) == (state != "ok")


def test_a_configuration_that_may_not_be_read_says_nothing(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.remove(LOCAL_QUEUE, TASK_QUEUE)
    _configure(cluster, "integrations: {frameworks: [pod]}")
    cluster.forbid("get", CONFIG_MAP)
    check = look(api, NO_CLUSTER_BUT_THE_POD, is_pod=True)[NAME]
    assert check.state == "not checked"
    assert "cannot be seen" in check.found


def test_a_person_at_a_terminal_may_not_run_a_pipeline_at_all(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.remove(LOCAL_QUEUE, TASK_QUEUE)
    _configure(cluster, "integrations: {frameworks: [pod]}")
    cluster.set(LOCAL_QUEUE, {"metadata": {"name": "gpu"}})
    checks = look(api, "launch.queue=gpu")
    assert checks[NAME].state == "not checked"
    assert "it manages pods: if so, GPU tasks of a pipeline there wait for ever" in checks[NAME].found
    cluster.set(LOCAL_QUEUE, {"metadata": {"name": TASK_QUEUE}, "spec": {"stopPolicy": "Hold"}})
    checks |= look(api, "launch.queue=gpu")
    assert (checks[NAME].state, checks[NAME].found) == ("not checked", "LocalQueue stablerep: stopped (Hold)")
    assert all(check.is_ok for check in checks.values())


def test_the_queue_of_the_job_is_looked_at_once(api: KubernetesApi, cluster: FakeCluster) -> None:
    assert NAME not in look(api, "launch.queue=stablerep")
    assert NAME in look(api, "launch.queue=stablerep launch.namespace=team-a", is_pod=True)
    assert NAME in look(api, "launch.queue=stablerep", is_pod=True, stages=("generate", "probe"))


def test_a_queue_that_is_there_must_be_open(api: KubernetesApi, cluster: FakeCluster) -> None:
    check = look(api, NO_CLUSTER_BUT_THE_POD, is_pod=True)[NAME]
    assert (check.state, check.found) == ("ok", "LocalQueue stablerep: there in namespace stablerep")
    cluster.set(LOCAL_QUEUE, {"metadata": {"name": TASK_QUEUE}, "spec": {"stopPolicy": "HoldAndDrain"}})
    check = look(api, NO_CLUSTER_BUT_THE_POD, is_pod=True)[NAME]
    assert (check.state, check.found) == ("failed", "LocalQueue stablerep: stopped (HoldAndDrain)")
    assert "open it" in check.remedy


def test_without_kueue_and_without_gpu_tasks_there_is_nothing_to_want(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.kinds.difference_update({LOCAL_QUEUE, WORKLOAD_PRIORITY_CLASS})
    check = look(api, NO_CLUSTER_BUT_THE_POD, is_pod=True)[NAME]
    assert (check.state, check.found) == ("ok", "Kueue is not installed, the label of the tasks means nothing")
    assert NAME not in look(api, NO_CLUSTER_BUT_THE_POD, is_pod=True, stages=("prepare", "pretrain"))


def test_the_queue_may_not_be_looked_at(api: KubernetesApi, cluster: FakeCluster) -> None:
    cluster.forbid("get", LOCAL_QUEUE)
    assert look(api, NO_CLUSTER_BUT_THE_POD, is_pod=True)[NAME].state == "not checked"
