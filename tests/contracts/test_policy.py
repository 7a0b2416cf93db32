"""Every pod the project can make, under one list of rules (tests/plugins/pod_policies.py), and every rule with a pod that breaks it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pod_policies import EXEMPT, RULES, STANDARD, findings, quantity

from manifests.pods import Document, Pod, pods_of, predictor_pod, train_job_pods

PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = PROJECT / "tests" / "golden"


@pytest.fixture(scope="module")
def runtimes(rendered: dict[str, list[Document]]) -> dict[str, dict[str, Document]]:
    """Overlay -> kind -> runtime."""
    every = {
        name: {d["kind"]: d for d in documents if d["kind"] in ("TrainingRuntime", "ServingRuntime")}
        for name, documents in rendered.items()
    }
    return {name: found for name, found in every.items() if found}


def _goldens(folder: str, kind: str) -> list[Document]:
    paths = sorted((GOLDEN / folder).glob("*.yaml"))
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [document for document in documents if document["kind"] == kind]


def test_pods_of_rendered_manifests(rendered: dict[str, list[Document]]) -> None:
    pods = [pod for documents in rendered.values() for document in documents for pod in pods_of(document)]
    origins = {pod.origin.partition("/")[0] for pod in pods}
    assert origins == {"CronJob", "Deployment", "TrainingRuntime", "ServingRuntime"}
    assert {finding for pod in pods for finding in findings(pod)} == set()


def test_pods_of_train_jobs(runtimes: dict[str, dict[str, Document]]) -> None:
    jobs = _goldens("launch", "TrainJob")
    pods = [pod for job in jobs for found in runtimes.values() for pod in train_job_pods(job, found["TrainingRuntime"])]
    assert len(pods) == len(jobs) * len(runtimes) > 0
    assert {finding for pod in pods for finding in findings(pod)} == set()
    for pod in pods:
        assert "nvidia.com/gpu" in pod.containers[0]["resources"]["limits"]
        assert pod.spec["terminationGracePeriodSeconds"] >= 120
        assert {volume["name"] for volume in pod.spec["volumes"]} == {"shared-memory", "tmp"}


def test_pods_of_volcano_jobs() -> None:
    pods = [pod for job in _goldens("launch", "Job") for pod in pods_of(job)]
    assert len(pods) >= 2
    assert {finding for pod in pods for finding in findings(pod)} == set()


def test_the_probe_pod_of_preflight() -> None:
    (pod,) = [pod for document in _goldens("preflight", "Pod") for pod in pods_of(document)]
    assert findings(pod) == []


def test_pods_of_inference_services(runtimes: dict[str, dict[str, Document]]) -> None:
    services = _goldens("endpoint", "InferenceService")
    pods = [predictor_pod(service, found["ServingRuntime"]) for service in services for found in runtimes.values()]
    assert len(pods) == len(services) * len(runtimes) > 0
    assert {finding for pod in pods for finding in findings(pod)} == set()


def test_pods_of_compiled_pipelines(pipeline_pods: list[tuple[str, Document]]) -> None:
    pods = [Pod(f"pipeline/{name}", document["metadata"].get("labels", {}), document["spec"]) for name, document in pipeline_pods]
    assert len(pods) >= 12
    assert {finding for pod in pods for finding in findings(pod)} == set()


def test_nothing_but_the_monitor_of_tasks_selects_a_task(
    rendered: dict[str, list[Document]], pipeline_pods: list[tuple[str, Document]]
) -> None:
    """A budget over a task stops every drain: a Workflow has no scale, so it allows no disruption at all."""
    kinds = ("PodDisruptionBudget", "Service", "PodMonitor")
    selectors = {
        f"{document['kind']}/{document['metadata']['name']}": document["spec"]["selector"]
        for documents in rendered.values()
        for document in documents
        if document["kind"] in kinds
    }
    wanted = {name: selector.get("matchLabels", selector) for name, selector in selectors.items()}
    assert {"PodDisruptionBudget/stablerep-serve", "PodDisruptionBudget/stablerep-features", "Service/stablerep-features"} <= set(wanted)
    assert all(wanted.values()), "an empty selector selects everything"
    found = {name for name, labels in wanted.items() for _, pod in pipeline_pods if labels.items() <= pod["metadata"]["labels"].items()}
    assert found == {"PodMonitor/stablerep-tasks"}


def test_tasks_are_no_training_and_no_serving_pods(
    runtimes: dict[str, dict[str, Document]], pipeline_pods: list[tuple[str, Document]]
) -> None:
    component = "app.kubernetes.io/component"
    workers = {pod.labels[component] for found in runtimes.values() for runtime in found.values() for pod in pods_of(runtime)}
    assert workers == {"train", "serve"}
    assert not workers & {pod["metadata"]["labels"][component] for _, pod in pipeline_pods}


def _pod(**spec: Any) -> Pod:
    """A pod that every rule accepts."""
    container = {
        "name": "main",
        "image": "stablerep/train@sha256:" + "0" * 64,
        "env": [{"name": "HOME", "value": "/tmp"}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shared", "mountPath": "/dev/shm"}],
        **{probe: {"httpGet": {"path": "/", "port": 8080}} for probe in ("startupProbe", "readinessProbe", "livenessProbe")},
    }
    context = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]
    labels = {f"app.kubernetes.io/{key}": "stablerep" for key in ("name", "part-of", "component")} | {"sidecar.istio.io/inject": "false"}
    pod = {"automountServiceAccountToken": False, "securityContext": context, "containers": [container], "volumes": volumes}
    return Pod("Pod/plain", labels, copy.deepcopy(pod | spec))


def _container(**fields: Any) -> Callable[[Pod], object]:
    return lambda pod: pod.spec["containers"][0].update(fields)


def _security(**fields: Any) -> Callable[[Pod], object]:
    return lambda pod: pod.spec["containers"][0]["securityContext"].update(fields)


def _pod_security(**fields: Any) -> Callable[[Pod], object]:
    return lambda pod: pod.spec["securityContext"].update(fields)


def _spec(**fields: Any) -> Callable[[Pod], object]:
    return lambda pod: pod.spec.update(fields)


def _volume(**fields: Any) -> Callable[[Pod], object]:
    return lambda pod: pod.spec["volumes"].append({"name": "extra", **fields})


def _init(**security: Any) -> Callable[[Pod], object]:
    return lambda pod: pod.spec.update(
        initContainers=[{**copy.deepcopy(pod.spec["containers"][0]), "name": "first", "securityContext": security}]
    )


RESOURCES = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
VIOLATIONS: list[tuple[str, Callable[[Pod], object]]] = [
    ("host-process", _pod_security(windowsOptions={"hostProcess": True})),
    ("host-process", _security(windowsOptions={"hostProcess": True})),
    ("host-namespaces", _spec(hostNetwork=True)),
    ("host-namespaces", _spec(hostPID=True)),
    ("host-namespaces", _spec(hostIPC=True)),
    ("privileged", _security(privileged=True)),
    ("capabilities", _security(capabilities={"drop": ["NET_RAW"]})),
    ("capabilities", _security(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]})),
    ("capabilities", _init(allowPrivilegeEscalation=False)),
    ("host-path", _volume(hostPath={"path": "/dev"})),
    ("host-ports", _container(ports=[{"containerPort": 1, "hostPort": 80}])),
    ("host-probes", _container(livenessProbe={"httpGet": {"path": "/", "port": 1, "host": "10.0.0.1"}})),
    ("host-probes", _container(lifecycle={"preStop": {"tcpSocket": {"host": "10.0.0.1", "port": 1}}})),
    ("app-armor", _security(appArmorProfile={"type": "Unconfined"})),
    ("se-linux", _pod_security(seLinuxOptions={"type": "spc_t"})),
    ("se-linux", _security(seLinuxOptions={"user": "root"})),
    ("proc-mount", _security(procMount="Unmasked")),
    ("seccomp", _pod_security(seccompProfile={"type": "Unconfined"})),
    ("seccomp", _pod_security(seccompProfile=None)),
    ("seccomp", _security(seccompProfile={"type": "Unconfined"})),
    ("sysctls", _pod_security(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    ("volume-types", _volume(nfs={"server": "a", "path": "/"})),
    ("privilege-escalation", _security(allowPrivilegeEscalation=True)),
    ("privilege-escalation", _init(capabilities={"drop": ["ALL"]})),
    ("non-root", _pod_security(runAsNonRoot=None)),
    ("non-root", _security(runAsNonRoot=False)),
    ("non-root-user", _security(runAsUser=0)),
    ("user-65532", _pod_security(runAsUser=1000)),
    ("user-65532", _security(runAsGroup=0)),
    ("read-only-root", _security(readOnlyRootFilesystem=False)),
    ("writable-home", _container(volumeMounts=[])),
    ("limits", _container(resources={})),
    ("limits", _container(resources={**RESOURCES, "limits": {"cpu": "1"}})),
    ("limits", _container(resources={**RESOURCES, "requests": {"cpu": "2", "memory": "1Gi"}})),
    ("pinned-image", _container(image="stablerep/train:latest")),
    ("pinned-image", _container(image="stablerep/train@sha256:abc")),
    ("no-token", _spec(automountServiceAccountToken=True)),
    ("no-token", lambda pod: pod.spec.pop("automountServiceAccountToken")),
    ("no-token", _volume(projected={"sources": [{"serviceAccountToken": {"path": "token"}}]})),
    ("probes", lambda pod: pod.spec["containers"][0].pop("readinessProbe")),
    ("shared-memory", lambda pod: pod.spec["volumes"][1]["emptyDir"].pop("sizeLimit")),
    ("shared-memory", lambda pod: pod.spec["volumes"][1]["emptyDir"].update(sizeLimit="2Gi")),
    ("secrets-by-reference", _container(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}])),
    ("labels", lambda pod: pod.labels.pop("app.kubernetes.io/part-of")),
    ("labels", lambda pod: pod.labels.pop("app.kubernetes.io/component")),
    ("no-sidecar", lambda pod: pod.labels.pop("sidecar.istio.io/inject")),
    ("no-sidecar", lambda pod: pod.labels.update({"sidecar.istio.io/inject": "true"})),
    ("reserved-variables", _container(env=[{"name": "PET_NNODES", "value": "2"}])),
]


def test_a_good_pod_has_no_findings() -> None:
    assert findings(_pod()) == []


@pytest.mark.parametrize(("rule", "spoil"), VIOLATIONS, ids=[f"{number}-{rule}" for number, (rule, _) in enumerate(VIOLATIONS)])
def test_every_rule_catches_what_it_forbids(rule: str, spoil: Callable[[Pod], object]) -> None:
    pod = _pod()
    spoil(pod)
    assert list(RULES[rule](pod)), f"{rule} accepted it"
    assert any(f": {rule}: " in finding for finding in findings(pod))


def test_every_rule_has_a_violation() -> None:
    assert {rule for rule, _ in VIOLATIONS} == set(RULES)
    assert len(STANDARD) == 16  # every control of the standards, baseline and restricted


def test_exemptions_are_of_rules_and_have_reasons() -> None:
    assert {rule for rule, _ in EXEMPT} <= set(RULES) - set(STANDARD), "nothing is exempt from the Pod Security Standards"
    assert all(reason for reason in EXEMPT.values())


def test_exemptions_are_needed(pipeline_pods: list[tuple[str, Document]], runtimes: dict[str, dict[str, Document]]) -> None:
    pipelines = [Pod(f"pipeline/{name}", {}, document["spec"]) for name, document in pipeline_pods]
    pods = [*pipelines, *(pod for found in runtimes.values() for pod in pods_of(found["ServingRuntime"]))]
    for rule, start in EXEMPT:
        assert any(list(RULES[rule](pod)) for pod in pods if pod.origin.startswith(start)), f"{rule} holds for {start}; drop the exemption"


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("2Gi", 2 * 2**30), ("262144Mi", 2**38), (4, 4.0), ("1.5", 1.5)])
def test_quantities(text: str | int, value: float) -> None:
    assert quantity(text) == value


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="no quantity: '1GB'"):
        quantity("1GB")


def test_a_train_job_patches_its_runtime() -> None:
    node = {"name": "node", "image": "a", "env": [{"name": "A", "value": "1"}], "resources": {"limits": {"cpu": "1"}}}
    template = {"metadata": {"labels": {"x": "1"}}, "spec": {"containers": [node], "volumes": [{"name": "v", "emptyDir": {}}]}}
    jobs = [{"name": "node", "template": {"spec": {"template": template}}}]
    runtime = {"kind": "TrainingRuntime", "metadata": {"name": "r"}, "spec": {"template": {"spec": {"replicatedJobs": jobs}}}}
    change = {
        "metadata": {"labels": {"y": "2"}},
        "spec": {"nodeSelector": {"z": "3"}, "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]},
    }
    patches = [
        {"trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": change}}}]}}}}
    ]
    trainer = {
        "image": "b",
        "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
        "resourcesPerNode": {"limits": {"cpu": "9"}},
    }
    before = copy.deepcopy(runtime)
    job = {"kind": "TrainJob", "metadata": {"name": "j"}, "spec": {"trainer": trainer, "runtimePatches": patches}}
    (pod,) = train_job_pods(job, runtime)
    assert runtime == before
    assert (pod.origin, pod.labels) == ("TrainJob/j/node", {"x": "1", "y": "2"})
    assert pod.spec == {
        "containers": [
            {
                "name": "node",
                "image": "b",
                "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
                "resources": {"limits": {"cpu": "9"}},
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
        "nodeSelector": {"z": "3"},
    }


def test_an_inference_service_patches_its_runtime() -> None:
    container = {"name": "kserve-container", "args": ["--a"], "securityContext": {"readOnlyRootFilesystem": True}}
    runtime = {"kind": "ServingRuntime", "metadata": {"name": "r"}, "spec": {"labels": {"x": "1"}, "containers": [container]}}
    model = {
        "modelFormat": {"name": "stablerep"},
        "args": ["--b"],
        "securityContext": {"runAsUser": 1},
        "resources": {"limits": {"cpu": "1"}},
    }
    predictor = {"model": model, "minReplicas": 1, "serviceAccountName": "s"}
    service = {"kind": "InferenceService", "metadata": {"name": "i", "labels": {"y": "2"}}, "spec": {"predictor": predictor}}
    pod = predictor_pod(service, runtime)
    assert (pod.origin, pod.labels) == ("InferenceService/i", {"x": "1", "y": "2"})
    assert pod.spec == {
        "containers": [
            {
                "name": "kserve-container",
                "args": ["--a", "--b"],
                "securityContext": {"readOnlyRootFilesystem": True, "runAsUser": 1},
                "resources": {"limits": {"cpu": "1"}},
            }
        ],
        "serviceAccountName": "s",
    }
