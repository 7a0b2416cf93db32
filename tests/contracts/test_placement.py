"""Pods of the compiled pipelines: each profile as a golden document, and the rules that hold for all of them."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compiled_pods import COMPILED, pods_of

from stablerep.config.schema import LaunchConfig, PretrainConfig

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))
GOLDEN = PROJECT / "tests" / "golden" / "placement"
SHOWN = {
    "cpu": "preflight",
    "cpu-large": "export",
    "gpu-generate-spot": "generate",
    "gpu-small": "probe",
    "launch": "pretrain",
    "deploy": "deploy",
}
GPU_STAGES = {"generate", "probe"}
PIPELINES = sorted(COMPILED.glob("*.yaml"))
Pods = list[tuple[str, dict[str, Any]]]


def _main(pod: dict[str, Any]) -> dict[str, Any]:
    return pod["spec"]["containers"][0]


def _environment(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in _main(pod)["env"]}


@pytest.mark.parametrize("profile", SHOWN)
def test_pod_of_a_profile(profile: str) -> None:
    from pipelines.placement import PROFILES, images

    assert set(SHOWN) == set(PROFILES)
    pod = dict(pods_of(COMPILED / "stablerep.yaml"))[SHOWN[profile]]
    text = yaml.safe_dump(replace_program(pod), sort_keys=True)
    for role, image in images().items():
        text = text.replace(image, f"stablerep/{role}@sha256:<digest>")
    path = GOLDEN / f"{profile}.yaml"
    assert path.exists(), f"write {path.relative_to(PROJECT)}; it should hold\n{text}"
    assert text == path.read_text(encoding="utf-8")


def replace_program(pod: dict[str, Any]) -> dict[str, Any]:
    """Without the component's source, which test_pipelines compares whole."""
    main = {key: value for key, value in _main(pod).items() if key != "command"}
    return {**pod, "spec": {**pod["spec"], "containers": [main]}}


def test_every_executor_is_a_pod(pipeline_pods: Pods) -> None:
    from pipelines.compile import PIPELINES as NAMES
    from stablerep.stages import STAGES

    found = {name.partition("/")[0] for name, _ in pipeline_pods}
    assert found == set(NAMES)
    assert {name.partition("/")[2] for name, _ in pipeline_pods if name.startswith("stablerep/")} == set(STAGES)


def test_images_are_pinned_and_of_the_lock(pipeline_pods: Pods) -> None:
    from pipelines.placement import images

    for name, pod in pipeline_pods:
        assert re.fullmatch(r"stablerep/[a-z]+@sha256:[0-9a-f]{64}", _main(pod)["image"]), name
        assert _main(pod)["image"] == images()[pod["metadata"]["labels"]["app.kubernetes.io/component"].removeprefix("task-")], name
    given = {name: _environment(pod).get("STABLEREP_TRAIN_IMAGE", {}).get("value") for name, pod in pipeline_pods}
    expected = {name: images()["train"] if name.endswith("/pretrain") else None for name, _ in pipeline_pods}
    assert given == expected


def test_nobody_is_root_and_everybody_has_limits(pipeline_pods: Pods) -> None:
    for name, pod in pipeline_pods:
        context = _main(pod)["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (65532, 65532, True), name
        resources = _main(pod)["resources"]
        assert {"cpu", "memory"} <= set(resources["limits"]), name
        assert set(resources["requests"]) == {"cpu", "memory"}, name
        volumes = {each["name"]: each["emptyDir"] for each in pod["spec"]["volumes"]}
        mounts = {each["mountPath"]: volumes[each["name"]] for each in _main(pod)["volumeMounts"]}
        assert "/tmp" in mounts, name
        assert all("sizeLimit" in volume for volume in volumes.values()), name
        assert _environment(pod)["HOME"]["value"] == "/tmp", name


def test_accelerators_and_their_tolerations_are_where_they_are_needed(pipeline_pods: Pods) -> None:
    for name, pod in pipeline_pods:
        is_gpu = name.partition("/")[2] in GPU_STAGES
        limits, tolerations = _main(pod)["resources"]["limits"], {each["key"] for each in pod["spec"]["tolerations"]}
        assert limits.get("nvidia.com/gpu") == ("1" if is_gpu else None), name
        assert ("nvidia.com/gpu" in tolerations) == is_gpu, name
        assert ("cloud.google.com/gke-spot" in tolerations) == name.endswith("/generate"), name
        assert ("/dev/shm" in {each["mountPath"] for each in _main(pod)["volumeMounts"]}) == is_gpu, name
        assert ("kueue.x-k8s.io/queue-name" in pod["metadata"]["labels"]) == is_gpu, name


def test_no_secret_is_written_down(pipeline_pods: Pods) -> None:
    for name, pod in pipeline_pods:
        variables = _environment(pod)
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            reference = {"name": "stablerep-store", "key": key, "optional": True}
            assert variables[key] == {"name": key, "valueFrom": {"secretKeyRef": reference}}, name
        token = {"name": "stablerep-endpoint", "key": "token", "optional": True}
        asks = name.partition("/")[2] in ("deploy", "verify")
        assert variables.get("STABLEREP_ENDPOINT_TOKEN", {}).get("valueFrom") == ({"secretKeyRef": token} if asks else None), name
        assert variables["STABLEREP_CLUSTER"]["valueFrom"]["configMapKeyRef"]["optional"], name
        inline = {key for key, each in variables.items() if "value" in each}
        assert inline <= {
            "HOME",
            "STABLEREP_METRICS_PORT",
            "STABLEREP_METRICS_HOST",
            "STABLEREP_METRICS_LINGER_SECONDS",
            "STABLEREP_TRAIN_IMAGE",
        }, name


def test_metrics_are_exported_where_the_work_is(pipeline_pods: Pods) -> None:
    for name, pod in pipeline_pods:
        is_watched = name.partition("/")[2] in ("generate", "pretrain")
        assert (_environment(pod).get("STABLEREP_METRICS_PORT", {}).get("value") == "9090") == is_watched, name
        assert (pod["metadata"].get("annotations", {}).get("prometheus.io/port") == "9090") == is_watched, name


def test_every_attempt_ends(pipeline_pods: Pods) -> None:
    assert all(pod["spec"]["activeDeadlineSeconds"] > 0 for _, pod in pipeline_pods)
    launch, pretrain = LaunchConfig(), PretrainConfig()
    budget = launch.queue_timeout_seconds + launch.start_timeout_seconds + pretrain.launch_timeout_seconds
    waits = [pod["spec"]["activeDeadlineSeconds"] for name, pod in pipeline_pods if name.endswith("/pretrain")]
    assert min(waits) > budget, "the launcher is stopped before the job that it watches may have ended"


def test_what_a_user_passes_reaches_the_pods() -> None:
    selector, toleration = {"cloud.google.com/gke-accelerator": "nvidia-l4"}, {"key": "pool", "operator": "Exists"}
    pods = dict(
        pods_of(
            COMPILED / "stablerep.yaml",
            accelerator="amd.com/gpu",
            gpu_node_selector=selector,
            gpu_tolerations=[toleration],
            spot_node_selector={"spot": "yes"},
            spot_tolerations=[],
        )
    )
    assert _main(pods["probe"])["resources"]["limits"]["amd.com/gpu"] == "1"
    assert pods["probe"]["spec"]["nodeSelector"] == selector
    assert pods["probe"]["spec"]["tolerations"] == pods["generate"]["spec"]["tolerations"] == [toleration]
    assert pods["generate"]["spec"]["nodeSelector"] == {"spot": "yes"}
    without = dict(pods_of(COMPILED / "stablerep.yaml", accelerator=""))
    assert set(_main(without["generate"])["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_parameters_of_the_pods_reach_their_graph(path: Path) -> None:
    """What an executor names must be an input of its task (image, resources) or of the graph around it (selectors, tolerations)."""
    specification, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    asked = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    graphs = [specification["root"], *(each for each in specification["components"].values() if "dag" in each)]
    num_named = 0
    for graph in graphs:
        inputs = set(graph.get("inputDefinitions", {}).get("parameters", {}))
        for task in graph["dag"]["tasks"].values():
            label = specification["components"][task["componentRef"]["name"]].get("executorLabel")
            if label is None:
                continue
            container = yaml.safe_dump(specification["deploymentSpec"]["executors"][label]["container"].get("resources", {}))
            of_task = set(re.findall(r"inputs\.parameters\[''(.+?)''\]", container))
            of_graph = set(re.findall(r"componentInputParameter: (\S+)", yaml.safe_dump(asked[label])))
            assert of_task <= set(task["inputs"]["parameters"]), label
            assert of_graph <= inputs, label
            num_named += len(of_task) + len(of_graph)
    assert num_named == {"stablerep": 7, "generate_dataset": 4, "pretrain_and_probe": 3, "promote_encoder": 0}[path.stem]


def test_accelerators_need_a_pool() -> None:
    from pipelines.placement import NO_SELECTOR, Pool, place

    with pytest.raises(ValueError, match=r"profile 'gpu-small': expected a pool with accelerators"):
        place(None, "gpu-small", "train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"profile 'cpu': expected a pool with accelerators and none without"):
        place(None, "cpu", "runtime", Pool("nvidia.com/gpu", NO_SELECTOR, ()))  # type: ignore[arg-type]


def test_one_file_knows_kfp_kubernetes() -> None:
    users = [path.name for folder in ("pipelines", "components") for path in (PROJECT / folder).rglob("*.py") if _uses_kubernetes(path)]
    assert users == ["placement.py"]


def _uses_kubernetes(path: Path) -> bool:
    return re.search(r"^\s*(from|import) (kfp.*kubernetes|kfp_kubernetes)", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_a_registry_goes_before_every_image(tmp_path: Path) -> None:
    from pipelines.compile import compile_all

    for path in compile_all(tmp_path, registry="registry.example.org/team/"):
        for name, pod in pods_of(path):
            assert _main(pod)["image"].startswith("registry.example.org/team/stablerep/"), name
            if name == "pretrain":
                assert _environment(pod)["STABLEREP_TRAIN_IMAGE"]["value"].startswith("registry.example.org/team/stablerep/train@")
