"""One list of rules over every pod the project can make: Pod Security Standards (baseline and restricted, every field), and ours.

A rule takes a pod and says what is wrong, one line a finding. `EXEMPT` holds what a rule need not see, each with its reason.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from manifests.pods import Pod

Rule = Callable[[Pod], Iterator[str]]
Document = dict[str, Any]

USER = 65532
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
VOLUME_TYPES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
APPARMOR_TYPES = {"RuntimeDefault", "Localhost"}
SECCOMP_TYPES = {"RuntimeDefault", "Localhost"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SECRET_NAME = re.compile(r"(SECRET|TOKEN(?!IZER)|PASSWORD|PASSWD|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL)")
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")

EXEMPT: dict[tuple[str, str], str] = {
    ("no-token", "pipeline/"): "KFP's launcher and Argo's executor in the same pod report to the API server",
    ("no-token", "ServingRuntime/"): "the kind has no such field; the InferenceService says it, and is checked",
    ("read-only-root", "pipeline/"): "kfp-kubernetes 2.17 cannot say it; /tmp is the only place that our code writes",
}
"""(rule, how the pod's origin begins) -> why the rule need not hold there."""


def _security(container: Document) -> Document:
    return container.get("securityContext") or {}


def _pod_security(pod: Pod) -> Document:
    return pod.spec.get("securityContext") or {}


def _contexts(pod: Pod) -> Iterator[tuple[str, Document]]:
    yield "pod", _pod_security(pod)
    for container in pod.containers:
        yield container["name"], _security(container)


def host_process(pod: Pod) -> Iterator[str]:
    yield from (f"{name}: hostProcess" for name, context in _contexts(pod) if (context.get("windowsOptions") or {}).get("hostProcess"))


def host_namespaces(pod: Pod) -> Iterator[str]:
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(field))


def privileged(pod: Pod) -> Iterator[str]:
    yield from (f"{container['name']}: privileged" for container in pod.containers if _security(container).get("privileged"))


def capabilities(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        named = _security(container).get("capabilities") or {}
        if "ALL" not in (named.get("drop") or []):
            yield f"{container['name']}: expected capabilities.drop to hold ALL, found {named.get('drop')}"
        if extra := set(named.get("add") or []) - {"NET_BIND_SERVICE"}:
            yield f"{container['name']}: adds {sorted(extra)}"


def host_path(pod: Pod) -> Iterator[str]:
    yield from (f"volume {volume['name']}: hostPath" for volume in pod.spec.get("volumes") or [] if "hostPath" in volume)


def host_ports(pod: Pod) -> Iterator[str]:
    yield from (
        f"{container['name']}: hostPort" for container in pod.containers for port in container.get("ports") or [] if port.get("hostPort")
    )


def host_probes(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        hooks = container.get("lifecycle") or {}
        handlers = [container.get(probe) or {} for probe in PROBES] + [hooks.get(hook) or {} for hook in ("postStart", "preStop")]
        if any((handler.get(kind) or {}).get("host") for handler in handlers for kind in ("httpGet", "tcpSocket")):
            yield f"{container['name']}: a probe or hook names a host"


def app_armor(pod: Pod) -> Iterator[str]:
    for name, context in _contexts(pod):
        kind = (context.get("appArmorProfile") or {"type": "RuntimeDefault"})["type"]
        if kind not in APPARMOR_TYPES:
            yield f"{name}: appArmorProfile {kind}"


def se_linux(pod: Pod) -> Iterator[str]:
    for name, context in _contexts(pod):
        options = context.get("seLinuxOptions") or {}
        if options.get("type", "") not in SELINUX_TYPES or options.get("user") or options.get("role"):
            yield f"{name}: seLinuxOptions {options}"


def proc_mount(pod: Pod) -> Iterator[str]:
    yield from (f"{each['name']}: procMount" for each in pod.containers if _security(each).get("procMount", "Default") != "Default")


def seccomp(pod: Pod) -> Iterator[str]:
    default = (_pod_security(pod).get("seccompProfile") or {}).get("type")
    if default not in {None, *SECCOMP_TYPES}:
        yield f"pod: seccomp {default}"
    for container in pod.containers:
        kind = (_security(container).get("seccompProfile") or {}).get("type", default)
        if kind not in SECCOMP_TYPES:
            yield f"{container['name']}: expected seccomp RuntimeDefault, found {kind}"


def sysctls(pod: Pod) -> Iterator[str]:
    yield from (f"sysctl {each['name']}" for each in _pod_security(pod).get("sysctls") or [] if each["name"] not in SAFE_SYSCTLS)


def volume_types(pod: Pod) -> Iterator[str]:
    for volume in pod.spec.get("volumes") or []:
        if extra := set(volume) - VOLUME_TYPES - {"name"}:
            yield f"volume {volume['name']}: {sorted(extra)}"


def privilege_escalation(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        if _security(container).get("allowPrivilegeEscalation") is not False:
            yield f"{container['name']}: expected allowPrivilegeEscalation false"


def non_root(pod: Pod) -> Iterator[str]:
    default = _pod_security(pod).get("runAsNonRoot")
    for container in pod.containers:
        if _security(container).get("runAsNonRoot", default) is not True:
            yield f"{container['name']}: expected runAsNonRoot true"


def non_root_user(pod: Pod) -> Iterator[str]:
    yield from (f"{name}: runAsUser 0" for name, context in _contexts(pod) if context.get("runAsUser") == 0)


def our_user(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        for field in ("runAsUser", "runAsGroup"):
            found = _security(container).get(field, _pod_security(pod).get(field))
            if found != USER:
                yield f"{container['name']}: expected {field} {USER}, found {found}"


def read_only_root(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        if _security(container).get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']}: expected readOnlyRootFilesystem true"


def writable_home(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        home = next((each.get("value") for each in container.get("env") or [] if each["name"] == "HOME"), None)
        if home and home not in [mount["mountPath"] for mount in container.get("volumeMounts") or []]:
            yield f"{container['name']}: HOME={home} is not a mounted volume"


def limits(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        resources = container.get("resources") or {}
        for kind in ("limits", "requests"):
            if missing := {"cpu", "memory"} - set(resources.get(kind) or {}):
                yield f"{container['name']}: no {kind} of {', '.join(sorted(missing))}"
        for name in set(resources.get("limits") or {}) & set(resources.get("requests") or {}):
            if quantity(resources["requests"][name]) > quantity(resources["limits"][name]):
                yield f"{container['name']}: request of {name} above its limit"


def pinned_image(pod: Pod) -> Iterator[str]:
    yield from (f"{each['name']}: {each.get('image')} has no digest" for each in pod.containers if not DIGEST.search(each.get("image", "")))


def no_token(pod: Pod) -> Iterator[str]:
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "expected automountServiceAccountToken false"
    for volume in pod.spec.get("volumes") or []:
        if any("serviceAccountToken" in source for source in (volume.get("projected") or {}).get("sources") or []):
            yield f"volume {volume['name']}: a service account's token"


def probes(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        if {port.get("name") for port in container.get("ports") or []} & {"http", "http1"}:
            yield from (f"{container['name']}: no {probe}" for probe in PROBES if probe not in container)


def shared_memory(pod: Pod) -> Iterator[str]:
    sizes = {
        v["name"]: v["emptyDir"].get("sizeLimit")
        for v in pod.spec.get("volumes") or []
        if (v.get("emptyDir") or {}).get("medium") == "Memory"
    }
    for container in pod.containers:
        mounted = [mount["name"] for mount in container.get("volumeMounts") or [] if mount["name"] in sizes]
        if unlimited := [name for name in mounted if sizes[name] is None]:
            yield f"{container['name']}: {unlimited} of memory has no sizeLimit"
            continue
        limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
        if mounted and limit and sum(quantity(sizes[name]) for name in mounted) >= quantity(limit):
            yield f"{container['name']}: /dev/shm fills the whole memory limit of {limit}"


def secrets_by_reference(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        yield from (
            f"{container['name']}: value of {e['name']} in plain"
            for e in container.get("env") or []
            if e.get("value") and SECRET_NAME.search(e["name"])
        )


def our_labels(pod: Pod) -> Iterator[str]:
    wanted = {"app.kubernetes.io/name": "stablerep", "app.kubernetes.io/part-of": "stablerep"}
    yield from (f"expected label {key}={value}" for key, value in wanted.items() if pod.labels.get(key) != value)
    if not pod.labels.get("app.kubernetes.io/component"):
        yield "expected label app.kubernetes.io/component"


def no_sidecar(pod: Pod) -> Iterator[str]:
    """Profiles' namespaces inject Istio's proxy: it would outlive a job, and no policy of ours lets it reach istiod."""
    if pod.labels.get("sidecar.istio.io/inject") != "false":
        yield "expected label sidecar.istio.io/inject=false"


def reserved_variables(pod: Pod) -> Iterator[str]:
    names = [each["name"] for container in pod.containers for each in container.get("env") or []]
    yield from (f"variable {name} is reserved for Trainer" for name in names if name.startswith("PET_"))


STANDARD: dict[str, Rule] = {
    "host-process": host_process,
    "host-namespaces": host_namespaces,
    "privileged": privileged,
    "capabilities": capabilities,
    "host-path": host_path,
    "host-ports": host_ports,
    "host-probes": host_probes,
    "app-armor": app_armor,
    "se-linux": se_linux,
    "proc-mount": proc_mount,
    "seccomp": seccomp,
    "sysctls": sysctls,
    "volume-types": volume_types,
    "privilege-escalation": privilege_escalation,
    "non-root": non_root,
    "non-root-user": non_root_user,
}
"""Pod Security Standards, restricted (which contains baseline)."""

OURS: dict[str, Rule] = {
    "user-65532": our_user,
    "read-only-root": read_only_root,
    "writable-home": writable_home,
    "limits": limits,
    "pinned-image": pinned_image,
    "no-token": no_token,
    "probes": probes,
    "shared-memory": shared_memory,
    "secrets-by-reference": secrets_by_reference,
    "labels": our_labels,
    "no-sidecar": no_sidecar,
    "reserved-variables": reserved_variables,
}

RULES = STANDARD | OURS

_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number."""
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"no quantity: {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def exemption(rule: str, pod: Pod) -> str:
    """Why a rule need not hold for a pod; empty where it must."""
    return next((reason for (name, start), reason in EXEMPT.items() if name == rule and pod.origin.startswith(start)), "")


def findings(pod: Pod) -> list[str]:
    """All that is wrong with a pod."""
    return [f"{pod.origin}: {name}: {said}" for name, rule in RULES.items() if not exemption(name, pod) for said in rule(pod)]
