"""The pods that the compiled pipelines ask for, as plain Pod documents: what a policy looks at.

A pod is put together as the driver of Kubeflow Pipelines 2.17 does it: the container of the executor, then its Kubernetes settings, with
the pipeline's parameters resolved to their defaults (or what a test passes), then `ADDED_BY_KUBEFLOW`, which its compiler gives to every
executor. The service-account token stays: the launcher that Kubeflow puts in front of our command reports to the API with it.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

COMPILED = Path(__file__).resolve().parents[2] / "pipelines" / "compiled"
ADDED_BY_KUBEFLOW: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_PARAMETER = re.compile(r"\$\.inputs\.parameters\['(.+?)'\]")


@pytest.fixture(scope="session")
def pipeline_pods() -> list[tuple[str, dict[str, Any]]]:
    """Every pod of every compiled pipeline, as (`<pipeline>/<stage>`, Pod)."""
    return [(f"{path.stem}/{name}", pod) for path in sorted(COMPILED.glob("*.yaml")) for name, pod in pods_of(path)]


def pods_of(path: Path, **arguments: Any) -> list[tuple[str, dict[str, Any]]]:
    """(stage, Pod) of every executor of a compiled pipeline, run with `arguments`."""
    specification, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    given = {name: each.get("defaultValue") for name, each in specification["root"]["inputDefinitions"]["parameters"].items()}
    asked = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = specification["deploymentSpec"]["executors"]
    return [
        (label.removeprefix("exec-"), _pod(asked.get(label, {}), each["container"], given | arguments)) for label, each in executors.items()
    ]


def _pod(asked: dict[str, Any], container: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    mounts = asked.get("emptyDirMounts", [])
    main = {
        "name": "main",
        "image": _resolve(container["image"], given),
        "command": container["command"],
        "args": container["args"],
        "env": [*container.get("env", []), *_references(asked)],
        "resources": _resources(container.get("resources", {}), given),
        "securityContext": {
            **ADDED_BY_KUBEFLOW,
            **{key: value if isinstance(value, bool) else int(value) for key, value in asked.get("securityContext", {}).items()},
        },
        "volumeMounts": [{"name": each["volumeName"], "mountPath": each["mountPath"]} for each in mounts],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": dict(asked.get("podMetadata", {})),
        "spec": {
            "containers": [main],
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": each["volumeName"], "emptyDir": _empty_dir(each)} for each in mounts],
            "nodeSelector": _value(asked.get("nodeSelector", {}).get("nodeSelectorJson", {}), given) or {},
            "tolerations": [each for tolerations in asked.get("tolerations", []) for each in _tolerations(tolerations, given)],
            **({"activeDeadlineSeconds": int(asked["activeDeadlineSeconds"])} if "activeDeadlineSeconds" in asked else {}),
            "restartPolicy": "Never",
        },
    }


def _resources(asked: dict[str, Any], given: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Limits and requests; a resource whose name resolves to nothing is not asked for, as in the driver."""
    found: dict[str, dict[str, str]] = {"limits": {}, "requests": {}}
    for kind in ("Limit", "Request"):
        for name in ("cpu", "memory"):
            if text := asked.get(f"resource{name.title()}{kind}"):
                found[f"{kind.lower()}s"][name] = text
    accelerator = asked.get("accelerator", {})
    name = _resolve(accelerator.get("resourceType", ""), given)
    count = _resolve(accelerator.get("resourceCount", ""), given)
    if name and count:
        found["limits"][name] = count
    return found


def _references(asked: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = (
        ("configMapAsEnv", "configMapName", "configMapKey", "configMapKeyRef"),
        ("secretAsEnv", "secretName", "secretKey", "secretKeyRef"),
    )
    return [
        {"name": pair["envVar"], "valueFrom": {kind: {"name": each[name], "key": pair[key], "optional": each.get("optional", False)}}}
        for field, name, key, kind in kinds
        for each in asked.get(field, [])
        for pair in each["keyToEnv"]
    ]


def _tolerations(asked: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
    if "tolerationJson" not in asked:
        return [asked]
    value = _value(asked["tolerationJson"], given)
    return value if isinstance(value, list) else [value] if value else []


def _empty_dir(mount: dict[str, Any]) -> dict[str, str]:
    return {key: mount[key] for key in ("medium", "sizeLimit") if key in mount}


def _value(reference: dict[str, Any], given: dict[str, Any]) -> Any:
    name = reference.get("componentInputParameter")
    return reference.get("runtimeValue", {}).get("constant") if name is None else given[name.removeprefix("pipelinechannel--")]


def _resolve(text: str, given: dict[str, Any]) -> str:
    """A text of the pod, or the parameter that it names; only a string reaches a pod, as in the driver."""
    match = _PARAMETER.search(text)
    if match is None:
        return text
    value = given[match[1].removeprefix("pipelinechannel--")]
    return value if isinstance(value, str) else ""
