"""The manifests: they render, fit the API's schemas, agree with the code and with each other, and give away no more than is used."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pod_policies import quantity

from manifests import render
from manifests.pods import Document
from stablerep import errors
from stablerep.config import load_recipe
from stablerep.config.recipes import RECIPES
from stablerep.config.schema import LaunchConfig
from stablerep.stages.preflight_needs import DEPLOY_ROLE, LAUNCH_ROLE, Scope, objects, rights
from stablerep.store import Store

PROJECT = Path(__file__).resolve().parents[2]
MANIFESTS = PROJECT / "manifests"
GOLDEN = PROJECT / "tests" / "golden"
OVERLAYS = {"kind": "stablerep", "gpu": "stablerep", "knative": "stablerep", "kubeflow": "team-a"}
CLUSTER_SCOPED = {"Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor", "WorkloadPriorityClass", "Queue", "LocalModelNodeGroup"}
NOT_APPLIED = {"secret.example.yaml", "storage-container.patch.yaml", "checkov.yaml"}
TASKS = {"key": "workflows.argoproj.io/workflow", "operator": "Exists"}

Rendered = dict[str, list[Document]]


def _of(documents: list[Document], kind: str) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def _words(documents: list[Document]) -> str:
    return str(_of(documents, "ConfigMap")["stablerep-cluster"]["data"]["cluster"])


def test_there_is_what_was_promised(rendered: Rendered) -> None:
    components = {
        "kueue",
        "volcano",
        "keda",
        "knative",
        "feast",
        "feast-operator",
        "feast-postgres",
        "modelcache",
        "spot",
        "pushgateway",
        "gpu",
        "cpu",
        "images",
        "single-user",
    }
    scoped = {"cluster-kueue", "cluster-volcano", "cluster-modelcache"}
    single = {f"single-user-{name}" for name in ("kind", "gpu", "knative")}
    assert set(rendered) == set(OVERLAYS) | {f"component-{name}" for name in components} | scoped | single
    assert all(rendered.values())


def test_built_in_kinds_fit_the_schemas(manifests_folder: Path, tmp_path: Path) -> None:
    once = render.distinct(sorted(manifests_folder.glob("*.yaml")), tmp_path / "all.yaml")
    assert render.schema_problems(once, render.KUBERNETES_VERSIONS[:1]) == []  # `make manifests` tries the others


def test_an_unknown_field_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\nautomountToken: false\n")
    assert any("automountToken" in line for line in render.schema_problems(wrong, render.KUBERNETES_VERSIONS[:1]))


def test_what_kustomize_refuses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(render.ManifestError, match="kustomization"):
        render.render(tmp_path)


def test_every_file_is_used() -> None:
    def referenced(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            node = list(node.values())
        for each in node if isinstance(node, list) else [node]:
            yield from referenced(each) if isinstance(each, dict | list) else [str(each)]

    used: set[Path] = set()
    for path in MANIFESTS.rglob("kustomization.yaml"):
        words = set(referenced(yaml.safe_load(path.read_text(encoding="utf-8"))))
        assert not [word for word in words if "://" in word and "kustomize.config" not in word and not word.startswith("STORE=")], (
            "no network"
        )
        used |= {(path.parent / word).resolve() for word in words if word.endswith((".yaml", ".py"))} | {path}
    programs = MANIFESTS / "monitoring"  # what writes dashboards and rules
    patterns = ("*.yaml", "*/*.py")
    files = {path for pattern in patterns for path in MANIFESTS.rglob(pattern) if "__pycache__" not in path.parts}
    files -= set(programs.glob("*.py"))
    assert {path.relative_to(MANIFESTS).as_posix() for path in files - used if path.name not in NOT_APPLIED} == set()


def test_yaml_words_mean_the_same_to_every_parser() -> None:
    """Unquoted n, y, on, off, yes, no are booleans to some."""
    trap = re.compile(r"^(y|n|yes|no|on|off)$", re.IGNORECASE)
    found = []
    for path in MANIFESTS.rglob("*.yaml"):
        tokens = yaml.scan(path.read_text(encoding="utf-8"))
        found += [f"{path.name}: {t.value}" for t in tokens if isinstance(t, yaml.ScalarToken) and t.plain and trap.match(t.value)]
    assert found == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_have_the_namespace_and_labels(overlay: str, rendered: Rendered) -> None:
    documents = rendered[overlay]
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        expected = None if document["kind"] in CLUSTER_SCOPED else OVERLAYS[overlay]
        assert document["metadata"].get("namespace") == expected, name
        labels = document["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/name") == labels.get("app.kubernetes.io/part-of") == "stablerep", name
        assert document["metadata"]["name"].startswith("stablerep"), name
    identities = [(document["apiVersion"], document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(set(identities)) == len(identities)
    assert "Secret" not in {document["kind"] for document in documents}


def test_cluster_scoped_objects_are_apart(rendered: Rendered) -> None:
    for name, documents in rendered.items():
        kinds = {document["kind"] for document in documents} & CLUSTER_SCOPED
        if name.startswith("cluster-"):
            assert {document["kind"] for document in documents} == kinds
            assert not [document for document in documents if "namespace" in document["metadata"]]
        else:
            assert kinds <= {"Namespace"}
    assert "Namespace" not in {document["kind"] for document in rendered["kubeflow"]}, "a profile's namespace is its controller's"


@pytest.mark.parametrize("overlay", ["kind", "gpu", "knative"])
def test_the_namespace_enforces_restricted(overlay: str, rendered: Rendered) -> None:
    (namespace,) = _of(rendered[overlay], "Namespace").values()
    assert namespace["metadata"]["name"] == OVERLAYS[overlay]
    labels = {key.partition("/")[2]: value for key, value in namespace["metadata"]["labels"].items() if key.startswith("pod-security")}
    assert labels == {
        **dict.fromkeys(("enforce", "audit", "warn"), "restricted"),
        **{"enforce-version": "v1.32", "audit-version": "latest", "warn-version": "latest"},
    }


# Configuration


@pytest.mark.parametrize("recipe", RECIPES)
def test_words_of_the_cluster_are_configuration(recipe: str, rendered: Rendered) -> None:
    for name, documents in rendered.items():
        if "stablerep-cluster" in _of(documents, "ConfigMap"):
            configuration = load_recipe(recipe, cluster=_words(documents))
            assert configuration.launch.backend in ("trainjob", "volcano"), name
            assert configuration.deploy.backend != "local", name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kind", {"gpus_per_process": 0, "shared_memory_gib": 1, "queue": ""}),
        ("gpu", {"gpus_per_process": 1, "queue": "stablerep", "max_preemptions": 100, "priority_class": "stablerep-train"}),
        ("kubeflow", {"gpus_per_process": 1, "queue": "stablerep", "tolerations": ("nvidia.com/gpu:NoSchedule",)}),
        ("component-volcano", {"backend": "volcano", "queue": "stablerep"}),
        ("single-user-gpu", {"namespace": "stablerep", "queue": "stablerep", "gpus_per_process": 1}),
        ("single-user-kind", {"namespace": "stablerep", "gpus_per_process": 0}),
    ],
)
def test_words_come_from_components_and_overlays(name: str, expected: dict[str, Any], rendered: Rendered) -> None:
    launch = load_recipe("quickstart", cluster=_words(rendered[name])).launch
    assert {key: getattr(launch, key) for key in expected} == expected


@pytest.mark.parametrize("overlay", ["kind", "gpu", "knative"])
def test_a_single_user_has_the_words_of_the_overlay(overlay: str, rendered: Rendered) -> None:
    single = rendered[f"single-user-{overlay}"]
    assert {document["metadata"]["namespace"] for document in single} == {"kubeflow"}
    kinds = {"ServiceAccount", "Role", "RoleBinding", "ConfigMap"} | ({"LocalQueue"} if overlay == "gpu" else set())
    assert {document["kind"] for document in single} == kinds
    here, there = (load_recipe("quickstart", cluster=_words(documents)) for documents in (rendered[overlay], single))
    assert (there.launch.namespace, there.deploy.namespace) == ("stablerep", "stablerep")
    assert (here.launch, here.deploy) == (replace(there.launch, namespace=""), replace(there.deploy, namespace=""))
    stores = [_of(documents, "ConfigMap")["stablerep-store"]["data"] for documents in (rendered[overlay], single)]
    assert stores[0] == stores[1]
    assert ("AWS_ENDPOINT_URL" in stores[0]) == (overlay == "kind")


def _composed(folder: Path, *components: str, base: str, namespace: str) -> list[Document]:
    """An overlay of a user's own, as manifests/README.md shows one: everything of `base`, and some components."""
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [os.path.relpath(MANIFESTS / base, folder)],
        "components": [os.path.relpath(MANIFESTS / "components" / name, folder) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return list(yaml.safe_load_all(render.render(folder)))


@pytest.mark.parametrize(
    ("base", "namespace"),
    [
        ("overlays/kind", "stablerep"),
        ("overlays/knative", "stablerep"),
        ("single-user/kind", "kubeflow"),
        ("single-user/knative", "kubeflow"),
    ],
)
def test_a_queue_can_be_added_where_there_is_none(base: str, namespace: str, tmp_path: Path, rendered: Rendered) -> None:
    """Kueue holds back every task with its label that has no queue in its namespace (manifests/README.md, Kueue)."""
    from pipelines.placement import QUEUE

    documents = _composed(tmp_path.resolve(), "kueue", base=base, namespace=namespace)
    (queue,) = [document for document in documents if document["kind"] == "LocalQueue"]
    assert (queue["metadata"]["name"], queue["metadata"]["namespace"]) == (QUEUE, namespace)
    cluster_queue = _of(rendered["cluster-kueue"], "ClusterQueue")[queue["spec"]["clusterQueue"]]
    assert namespace in cluster_queue["spec"]["namespaceSelector"]["matchExpressions"][0]["values"]
    assert load_recipe("quickstart", cluster=_words(documents)).launch.queue == QUEUE
    bindings = [_of(found, "RoleBinding") for found in (documents, rendered[base.removeprefix("overlays/").replace("/", "-")])]
    assert bindings[0] == bindings[1]


def test_endpoints_scale_as_the_overlay_says(rendered: Rendered) -> None:
    found = {name: load_recipe("quickstart", cluster=_words(rendered[name])).deploy for name in OVERLAYS}
    scaling = {name: (deploy.backend, deploy.autoscaler, deploy.min_replicas) for name, deploy in found.items()}
    assert scaling == {
        "kind": ("blue_green", "none", 1),
        "gpu": ("blue_green", "keda", 1),
        "knative": ("knative_canary", "knative", 0),
        "kubeflow": ("blue_green", "none", 1),
    }
    assert found["knative"].has_steps
    assert {deploy.ready_timeout_seconds for deploy in found.values()} == {1800.0}, "images of several GB, on nodes that come first"
    annotations = _of(rendered["knative"], "ServingRuntime")["stablerep-encoder"]["spec"]["annotations"]
    assert annotations["serving.knative.dev/progress-deadline"] == "1800s"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_preflight_looks_for_is_there(overlay: str, rendered: Rendered) -> None:
    documents = rendered[overlay]
    recipe = load_recipe("quickstart", cluster=_words(documents))
    scope = Scope(recipe, Store("s3://bucket/store"), is_pod=True, stages=frozenset({"pretrain", "deploy"}))
    wanted = [each for each in objects(scope, OVERLAYS[overlay]) if not each.is_optional]
    assert len(wanted) >= 4
    scoped = [document for name, found in rendered.items() if name.startswith("cluster-") for document in found]
    for each in wanted:
        assert each.namespace == (OVERLAYS[overlay] if each.kind.is_namespaced else "")
        assert each.name in _of(documents if each.kind.is_namespaced else scoped, each.kind.kind), f"{each.kind.kind} {each.name}"
    for queue in _of(documents, "LocalQueue").values():
        cluster_queue = _of(rendered["cluster-kueue"], "ClusterQueue")[queue["spec"]["clusterQueue"]]
        assert OVERLAYS[overlay] in cluster_queue["spec"]["namespaceSelector"]["matchExpressions"][0]["values"]


def test_images_are_those_of_the_lock(rendered: Rendered) -> None:
    component = MANIFESTS / "components" / "images" / "kustomization.yaml"
    assert component.read_text(encoding="utf-8") == render.images_component(), "images.lock changed; run `make compile`"
    locked = set(json.loads(render.DIGESTS.read_text(encoding="utf-8")).values())
    used = {image for documents in rendered.values() for image in re.findall(r'"image": "(stablerep/[^"]+)"', json.dumps(documents))}
    assert used <= locked
    assert {image.partition("@")[0] for image in used} == {"stablerep/train", "stablerep/serve", "stablerep/features"}


# Rights


def _role_rules(role: Document) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of every rule."""
    return {(g, r, verb) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"] for verb in rule["verbs"]}


def test_no_role_has_a_wildcard(rendered: Rendered) -> None:
    for documents in rendered.values():
        assert not [d for d in documents if d["kind"].startswith("ClusterRole")]
        for role in _of(documents, "Role").values():
            assert not [field for rule in role["rules"] for values in rule.values() for field in values if "*" in field]
            assert not [triple for triple in _role_rules(role) if triple[2] in ("escalate", "bind", "impersonate", "deletecollection")]
            assert ("", "secrets", "list") not in _role_rules(role)


def _asked_by_preflight(role: str) -> set[tuple[str, str, str]]:
    words = ["launch.backend=trainjob deploy.backend=blue_green"]
    words += ["launch.backend=volcano deploy.backend=standard_canary deploy.gateway=a/b deploy.prometheus_url=http://p"]
    scopes = [
        Scope(load_recipe("quickstart", cluster=word), Store("s3://bucket/store"), is_pod=True, stages=frozenset({"pretrain", "deploy"}))
        for word in words
    ]
    wanted = [right for scope in scopes for right in rights(scope, "stablerep") if right.role == role]
    resources = [(right, f"{right.kind.plural}/{right.subresource}" if right.subresource else right.kind.plural) for right in wanted]
    return {(right.kind.group, resource, verb) for right, resource in resources for verb in right.verbs}


@pytest.mark.parametrize("role", [LAUNCH_ROLE, DEPLOY_ROLE])
def test_a_role_gives_what_the_stages_use(role: str, rendered: Rendered) -> None:
    """test_rights.py compares what preflight asks for with the calls in the code."""
    asked = _asked_by_preflight(role)
    assert len(asked) >= 8
    for overlay in OVERLAYS:
        assert _role_rules(_of(rendered[overlay], "Role")[role]) == asked


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_bindings_name_what_exists(overlay: str, rendered: Rendered) -> None:
    documents, namespace = rendered[overlay], OVERLAYS[overlay]
    accounts = {(namespace, name) for name in _of(documents, "ServiceAccount")}
    single = {("kubeflow", name) for name in _of(rendered["single-user-kind"], "ServiceAccount")} | {("kubeflow", "pipeline-runner")}
    accounts |= {("team-a", "default-editor")} if overlay == "kubeflow" else single
    bound: dict[str, set[str]] = {}
    for binding in _of(documents, "RoleBinding").values():
        assert binding["roleRef"]["name"] in _of(documents, "Role")
        for subject in binding["subjects"]:
            assert (subject["namespace"], subject["name"]) in accounts
            bound.setdefault(subject["name"], set()).add(binding["roleRef"]["name"])
    kfp = {"stablerep-kfp-task", "stablerep-preflight"}
    assert bound["stablerep-launch"] == kfp | {LAUNCH_ROLE}
    assert bound["stablerep-deploy"] == kfp | {DEPLOY_ROLE}
    assert bound["stablerep-pipeline"] == kfp | {LAUNCH_ROLE, DEPLOY_ROLE}
    assert not set(bound) & {"stablerep-train", "stablerep-serve", "stablerep-generate", "default"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_tokens_are_mounted_only_where_they_are_used(overlay: str, rendered: Rendered) -> None:
    mounted = {name for name, account in _of(rendered[overlay], "ServiceAccount").items() if account["automountServiceAccountToken"]}
    assert mounted == {"stablerep-pipeline", "stablerep-launch", "stablerep-deploy"}


# Network


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_denied_but_what_is_named(overlay: str, rendered: Rendered) -> None:
    policies = _of(rendered[overlay], "NetworkPolicy")
    deny = policies.pop("stablerep-deny")["spec"]
    everyone = {"matchLabels": {"app.kubernetes.io/part-of": "stablerep"}} if overlay == "kubeflow" else {}
    assert deny == {"podSelector": everyone, "policyTypes": ["Ingress", "Egress"]}
    assert len(policies) >= 8
    for name, policy in policies.items():
        spec = policy["spec"]
        assert spec["policyTypes"] == [direction for direction in ("Ingress", "Egress") if direction.lower() in spec], name
        for rule, peers in [(r, r.get("from")) for r in spec.get("ingress", [])] + [(r, r.get("to")) for r in spec.get("egress", [])]:
            assert peers, f"{name}: a rule without peers allows everybody"
            assert all(peer and peer != {"namespaceSelector": {}} for peer in peers), name
            assert rule.get("ports"), f"{name}: a rule without ports allows every port"
            for block in [peer["ipBlock"] for peer in peers if "ipBlock" in peer]:
                assert block["cidr"] != "0.0.0.0/0" or "169.254.0.0/16" in block["except"], f"{name} reaches the node's metadata service"


def test_a_shared_namespace_keeps_its_own_pods(rendered: Rendered) -> None:
    for name, policy in _of(rendered["kubeflow"], "NetworkPolicy").items():
        labels = policy["spec"]["podSelector"].get("matchLabels", {})
        assert {"app.kubernetes.io/part-of", "app.kubernetes.io/name"} & set(labels), f"{name} selects pods that are not ours"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_tasks_reach_the_api_server(overlay: str, rendered: Rendered) -> None:
    policies = _of(rendered[overlay], "NetworkPolicy")
    open_6443 = {n for n, p in policies.items() for r in p["spec"].get("egress", []) for port in r["ports"] if port["port"] == 6443}
    assert open_6443 == {"stablerep-egress-api-server"}
    assert TASKS in policies["stablerep-egress-api-server"]["spec"]["podSelector"]["matchExpressions"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_prometheus_reaches_every_port_it_scrapes(overlay: str, rendered: Rendered) -> None:
    documents = rendered[overlay]
    allowed = {
        port["port"] for rule in _of(documents, "NetworkPolicy")["stablerep-ingress-metrics"]["spec"]["ingress"] for port in rule["ports"]
    }
    scraped = {name: each["spec"]["podMetricsEndpoints"][0] for name, each in _of(documents, "PodMonitor").items()}
    train = _node(_of(documents, "TrainingRuntime")["stablerep-deepspeed"])["containers"][0]["ports"]
    serve = _of(documents, "ServingRuntime")["stablerep-encoder"]["spec"]["containers"][0]["ports"]
    assert {port["name"]: port["containerPort"] for port in train}[scraped["stablerep-training"]["port"]] in allowed
    assert scraped["stablerep-tasks"]["relabelings"][-1]["replacement"] == "$1:9090"
    names = ("user-port", "http1") if overlay == "knative" else ("http", "http")  # what Knative calls the only port of a pod
    assert (scraped["stablerep-endpoint"]["port"], serve[0]["name"]) == names
    assert {9090, serve[0]["containerPort"]} == allowed


def test_tasks_that_export_are_scraped(rendered: Rendered, pipeline_pods: list[tuple[str, Document]]) -> None:
    monitor = _of(rendered["kind"], "PodMonitor")["stablerep-tasks"]["spec"]
    exporting = [pod for _, pod in pipeline_pods if any(e["name"] == "STABLEREP_METRICS_PORT" for e in pod["spec"]["containers"][0]["env"])]
    assert exporting
    for pod in exporting:
        assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert pod["metadata"]["annotations"]["prometheus.io/scrape"] == "true"
        assert [container["name"] for container in pod["spec"]["containers"]] == ["main"]


# Runtimes


def _node(runtime: Document) -> Document:
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_training_runtime_fits_trainer_and_launcher(overlay: str, rendered: Rendered) -> None:
    runtime = _of(rendered[overlay], "TrainingRuntime")[LaunchConfig().runtime]
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    spec, pod = job["template"]["spec"], _node(runtime)
    assert job["name"] == pod["containers"][0]["name"] == "node"
    assert job["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 1, "torch": {}}
    assert pod["restartPolicy"] == "Never"
    assert (spec["backoffLimit"], runtime["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"]) == (0, 0)
    assert pod["serviceAccountName"] == LaunchConfig().service_account
    assert pod["terminationGracePeriodSeconds"] > LaunchConfig().grace_seconds
    assert [each["action"] for each in spec["podFailurePolicy"]["rules"]] == ["FailJob", "Ignore"]
    fatal = (errors.ConfigError, errors.DataError, errors.CheckpointError, errors.DivergenceError)
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [each.exit_code for each in fatal]
    assert {each[next(iter(each))]["name"] for each in pod["containers"][0]["envFrom"]} == {LaunchConfig().store_secret}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_serving_runtime_fits_server_and_endpoint(overlay: str, rendered: Rendered) -> None:
    from stablerep.integrations.kserve_server import _parser

    runtime = _of(rendered[overlay], "ServingRuntime")["stablerep-encoder"]["spec"]
    (container,) = runtime["containers"]
    assert container["command"][1:] == ["-m", "stablerep.integrations.kserve_server"]
    options = _parser().parse_args(container["args"])
    ports = [port["containerPort"] for port in container["ports"]]
    assert ports == [options.port, options.grpc_port][: 1 if overlay == "knative" else 2]
    assert (options.folder, options.host, options.name) == ("/mnt/models", "0.0.0.0", "{{.Name}}")
    (served,) = runtime["supportedModelFormats"]
    services = [d for path in (GOLDEN / "endpoint").glob("*.yaml") for d in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    formats = {
        json.dumps(d["spec"]["predictor"]["model"]["modelFormat"], sort_keys=True) for d in services if d["kind"] == "InferenceService"
    }
    assert formats == {json.dumps({"name": served["name"], "version": served["version"]})}, "KServe compares name and version"
    threads = next(each["value"] for each in container["env"] if each["name"] == "OMP_NUM_THREADS")
    assert threads == container["resources"]["limits"]["cpu"]
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")} == {"/v2/health/ready"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_draining_nodes_keeps_the_endpoint(overlay: str, rendered: Rendered) -> None:
    budget = _of(rendered[overlay], "PodDisruptionBudget")["stablerep-serve"]["spec"]
    labels = _of(rendered[overlay], "ServingRuntime")["stablerep-encoder"]["spec"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert budget["maxUnavailable"] == 1


def test_a_shared_namespace_has_no_limits_of_ours(rendered: Rendered) -> None:
    """They would hold for the team's notebooks, too: see overlays/kubeflow."""
    assert not {"ResourceQuota", "LimitRange"} & {document["kind"] for document in rendered["kubeflow"]}
    assert {"ResourceQuota", "LimitRange"} <= {document["kind"] for document in rendered["gpu"]}


@pytest.mark.parametrize("overlay", ["kind", "gpu", "knative"])
def test_the_quota_holds_a_training_node(overlay: str, rendered: Rendered) -> None:
    hard = _of(rendered[overlay], "ResourceQuota")["stablerep"]["spec"]["hard"]
    limits = _node(_of(rendered[overlay], "TrainingRuntime")["stablerep-deepspeed"])["containers"][0]["resources"]["limits"]
    assert quantity(hard["limits.cpu"]) >= quantity(limits["cpu"])
    assert quantity(hard["limits.memory"]) >= quantity(limits["memory"])
    assert quantity(hard["requests.nvidia.com/gpu"]) >= quantity(limits.get("nvidia.com/gpu", 0))
    assert (overlay == "kind") == ("nvidia.com/gpu" not in limits)
