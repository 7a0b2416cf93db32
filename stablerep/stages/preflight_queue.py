"""Whether Kueue lets the pipeline's own GPU tasks run, which carry the label kueue.x-k8s.io/queue-name: stablerep.

Without Kueue the label means nothing. Where Kueue manages pods, a task whose queue is not there waits for ever. Whether it does stands in
Kueue's configuration, which pipelines may not read; a person with rights in kueue-system may, but need not mean to run a pipeline: only
in a pod a row fails. What a training job is labelled with is launch.queue, looked for elsewhere.
"""

from typing import Any, cast

import yaml

from stablerep.cluster import CONFIG_MAP, LOCAL_QUEUE, ClusterApi, section
from stablerep.errors import ClusterError
from stablerep.stages.preflight_condition import problem_of
from stablerep.stages.preflight_needs import Scope, in_version
from stablerep.stages.preflight_table import Check, judged, looked, unknown

TASK_QUEUE, GPU_STAGES = "stablerep", frozenset({"generate", "probe"})  # as in pipelines/placement.py
NAME = "queue of GPU tasks"
_CONFIGURATION = ("kueue-manager-config", "kueue-system", "controller_manager_config.yaml")
_REMEDY = "add manifests/components/kueue to the overlay, or take `pod` out of integrations.frameworks in Kueue's configuration"


def check_task_queue(api: ClusterApi, scope: Scope) -> list[Check]:
    """One row where a stage that holds a GPU may be a task of a pipeline here, and the queue of the job is not the same one."""
    launch = scope.recipe.launch
    namespace = api.namespace if scope.is_pod else launch.namespace or api.namespace
    of_job = (launch.queue, launch.namespace or api.namespace) if scope.trains and launch.backend == "trainjob" else ()
    if not (scope.is_cluster and GPU_STAGES & scope.stages) or of_job == (TASK_QUEUE, namespace):
        return []

    def look() -> Check:
        versions = api.served_versions(LOCAL_QUEUE.group)
        if not versions:
            return judged(NAME, True, "Kueue is not installed, the label of the tasks means nothing", "")
        queue = api.get(in_version(LOCAL_QUEUE, versions), TASK_QUEUE, namespace)
        if queue is None:
            return _missing(api, scope, f"Kueue is installed, and there is no LocalQueue {TASK_QUEUE} in namespace {namespace}")
        problem, remedy = problem_of(LOCAL_QUEUE, queue)
        found = f"LocalQueue {TASK_QUEUE}: {problem or f'there in namespace {namespace}'}"
        return unknown(NAME, found, remedy) if problem and not scope.is_pod else judged(NAME, not problem, found, remedy)

    return [looked(NAME, look, _REMEDY)]


def _missing(api: ClusterApi, scope: Scope, text: str) -> Check:
    is_managed = _manages_pods(api)
    if is_managed is False:
        return judged(NAME, True, f"{text}; it does not manage pods", "")
    if is_managed and scope.is_pod:
        return judged(NAME, False, f"{text}; it manages pods, and tasks with that label would wait for ever", _REMEDY)
    doubt = "it manages pods" if is_managed else "whether it manages pods cannot be seen from here"
    return unknown(NAME, f"{text}; {doubt}: if so, GPU tasks of a pipeline there wait for ever", _REMEDY)


def _manages_pods(api: ClusterApi) -> bool | None:
    """As Kueue's configuration says; None where it cannot be read, or is elsewhere."""
    name, namespace, key = _CONFIGURATION
    try:
        found = api.get(CONFIG_MAP, name, namespace)
    except ClusterError:
        return None
    try:
        configuration: Any = yaml.safe_load(str(section(found or {}, "data").get(key, "")))
    except yaml.YAMLError:
        return None
    if not isinstance(configuration, dict):
        return None
    frameworks: Any = section(cast("dict[str, Any]", configuration), "integrations").get("frameworks")
    return "pod" in frameworks if isinstance(frameworks, list) else None
