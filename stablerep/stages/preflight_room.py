"""Whether a training job finds room: the namespace's ResourceQuota, and nodes with the accelerator.

A quota counts what is held now; pods of StableRep that train in the namespace are named, because a run that is continued takes over its
own. Nodes are only seen as they are: a pool that scales from zero shows none, so missing nodes stop nothing, wrong ones do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stablerep.cluster import NODE, POD, RESOURCE_QUOTA, ClusterApi, Document, section
from stablerep.stages.preflight_needs import Scope
from stablerep.stages.preflight_table import Check, judged, looked, unknown

QUOTA, NODES = "quota", "nodes"
TRAINING_LABELS = {"app.kubernetes.io/name": "stablerep", "app.kubernetes.io/component": "train"}
_DECIMAL = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SUFFIXES = _DECIMAL | {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)}


@dataclass(frozen=True)
class Size:
    """What one node of the job asks for, and how many nodes there are."""

    num_nodes: int
    gpus: int
    cpus: int
    memory_bytes: int
    gpu_resource: str

    @property
    def per_pod(self) -> dict[str, float]:
        """By resource name, zero left out."""
        asked = {"cpu": float(self.cpus), "memory": float(self.memory_bytes), self.gpu_resource: float(self.gpus)}
        return {name: amount for name, amount in asked.items() if amount}

    @property
    def total(self) -> dict[str, float]:
        """Of all pods, by resource name; `pods` among them."""
        return {name: amount * self.num_nodes for name, amount in self.per_pod.items()} | {"pods": float(self.num_nodes)}


def job_size(scope: Scope) -> Size:
    """What the training job of a recipe asks for (as stablerep.stages.pretrain_run makes it)."""
    pretrain, launch = scope.recipe.pretrain, scope.recipe.launch
    per_node = pretrain.num_processes // pretrain.num_nodes
    gpus = per_node * launch.gpus_per_process
    memory_gib = launch.memory_gib_per_process or (32 if launch.gpus_per_process else 4)
    cpus = launch.cpus_per_process or 1 + pretrain.num_workers
    return Size(pretrain.num_nodes, gpus, per_node * cpus, per_node * memory_gib << 30, launch.gpu_resource)


def quantity(text: str | float) -> float:
    """A Kubernetes quantity as a number: `500m` is 0.5, `64Gi` is 64 * 2**30, `1e3` is 1000."""
    word = str(text)
    suffix = next((suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if word.endswith(suffix)), "")
    return float(word.removesuffix(suffix)) * _SUFFIXES.get(suffix, 1.0)


def check_quota(api: ClusterApi, scope: Scope) -> Check:
    """Every ResourceQuota of the namespace against what the job asks for."""
    size, namespace = job_size(scope), scope.recipe.launch.namespace or api.namespace
    remedy = (
        "ask for a larger ResourceQuota, wait for what holds it, or ask for less: pretrain.num_processes, launch.cpus_per_process, "
        "launch.memory_gib_per_process"
    )

    def look() -> Check:
        found = api.find(RESOURCE_QUOTA, namespace)
        quotas = [quota for quota in found if not ({"scopes", "scopeSelector"} & set(section(quota, "spec")))]
        others = f"; {len(found) - len(quotas)} with scopes not measured" if len(found) > len(quotas) else ""
        if not quotas:
            return judged(QUOTA, True, f"none in namespace {namespace}{others}", "")
        short = [text for quota in quotas for text in _shortages(quota, size.total)]
        if not short:
            return judged(QUOTA, True, f"holds {_asked(size.total)} in namespace {namespace}{others}", "")
        ours = api.find(POD, namespace, TRAINING_LABELS)
        never = [text for quota in quotas for text in _shortages(quota, size.total, is_empty=True)]
        if ours and not never:
            text = f"{'; '.join(short)}; {len(ours)} pods of StableRep train there now, and a run that is continued takes over its own"
            return unknown(QUOTA, text, remedy)
        return judged(QUOTA, False, f"namespace {namespace}: {'; '.join(never or short)}", remedy)

    return looked(QUOTA, look, remedy)


def _shortages(quota: Document, asked: Mapping[str, float], *, is_empty: bool = False) -> list[str]:
    """What of a quota the job does not fit in, as sentences; `is_empty`: were nothing else there."""
    hard = section(quota, "status", "hard") or section(quota, "spec", "hard")
    used = {} if is_empty else section(quota, "status", "used")
    texts: list[str] = []
    for key, limit in hard.items():
        resource = key.removeprefix("requests.").removeprefix("limits.").removeprefix("count/")
        free = quantity(limit) - quantity(used.get(key, "0"))
        if asked.get(resource, 0.0) > free + 1e-6:
            held = f"of {limit} {key}, {used[key]} are held" if key in used else f"there are {limit} {key}"
            texts.append(f"{quota['metadata']['name']}: {held}, the job asks for {_amount(resource, asked[resource])}")
    return texts


def check_nodes(api: ClusterApi, scope: Scope, version: str) -> Check:
    """Nodes that a pod of the job may be placed on, and whether they are large enough."""
    size, launch = job_size(scope), scope.recipe.launch
    tolerated = {word.rpartition(":")[0].partition("=")[0] for word in launch.tolerations}
    if "-gke." in version:  # GKE adds this toleration to every pod that asks for an accelerator
        tolerated.add(launch.gpu_resource)

    def look() -> Check:
        selector = dict(word.split("=", 1) for word in launch.node_selector)
        chosen = api.find(NODE, labels=selector or None)
        return _judge_nodes(chosen, size, tolerated)

    return looked(NODES, look, "nothing is lost: the launcher says why a pod waits. `--probe-pod` finds out now")


def _judge_nodes(chosen: list[Document], size: Size, tolerated: set[str]) -> Check:
    resource, asked = size.gpu_resource, _asked(size.per_pod)
    ready = [node for node in chosen if not any(taint.startswith("node.kubernetes.io/") for taint in _taints(node))]
    having = [node for node in ready if _allocatable(node, resource) > 0] if size.gpus else ready
    if not having:
        return unknown(
            NODES,
            f"none of {len(chosen)} nodes that fit launch.node_selector is ready and offers {resource if size.gpus else 'room'} now",
            f"right for a pool that scales from zero; else correct launch.node_selector or install what makes nodes offer {resource}",
        )
    open_ = [node for node in having if not _taints(node) - tolerated]
    if not open_:
        taints = ",".join(sorted({f"{taint}:{effect}" for node in having for taint, effect in _taint_effects(node)}))
        return judged(NODES, False, f"all {len(having)} have a taint that is not tolerated: {taints}", f"set launch.tolerations={taints}")
    large = [node for node in open_ if all(_allocatable(node, name) >= amount for name, amount in size.per_pod.items())]
    if not large:
        best = max(open_, key=lambda node: tuple(_allocatable(node, name) for name in (resource, "cpu", "memory")))
        has = ", ".join(_amount(name, _allocatable(best, name)) for name in size.per_pod)
        remedy = "spread the job over more nodes (pretrain.num_nodes), ask for less a process (launch.*), or select larger nodes"
        return judged(NODES, False, f"a pod asks for {asked}; the largest of {len(open_)} nodes offers {has}", remedy)
    if len(large) < size.num_nodes:
        remedy = "right where the pool grows by itself; else lower pretrain.num_nodes"
        return unknown(NODES, f"{len(large)} of {size.num_nodes} nodes that offer {asked} are there now", remedy)
    return judged(NODES, True, f"{len(large)} offer {asked}; {size.num_nodes} needed", "")


def _taint_effects(node: Document) -> set[tuple[str, str]]:
    taints: list[Document] = section(node, "spec").get("taints") or []
    return {(str(taint["key"]), str(taint["effect"])) for taint in taints if taint.get("effect") != "PreferNoSchedule"}


def _taints(node: Document) -> set[str]:
    return {key for key, _ in _taint_effects(node)}


def _allocatable(node: Document, resource: str) -> float:
    return quantity(section(node, "status", "allocatable").get(resource, "0"))


def _asked(amounts: Mapping[str, float]) -> str:
    return ", ".join(_amount(name, amount) for name, amount in amounts.items())


def _amount(resource: str, amount: float) -> str:
    return f"{amount / 2**30:.4g} GiB {resource}" if resource == "memory" else f"{amount:.4g} {resource}"
