"""Whether the TrainingRuntime fits the job: what the launcher would refuse before it submits, said before anything else is spent."""

from stablerep.cluster import TRAINING_RUNTIME, ClusterApi
from stablerep.launch import Placement
from stablerep.launch.runtime import runtime_problems
from stablerep.stages.preflight_needs import Scope
from stablerep.stages.preflight_table import Check, judged, looked

NAME = "runtime of the job"
_REMEDY = "mend the TrainingRuntime in the overlay, or set launch.grace_seconds and launch.shared_memory_gib to what it gives"


def check_runtime(api: ClusterApi, scope: Scope) -> list[Check]:
    """One row for a TrainJob; none where the runtime is not there, which has a row of its own."""
    launch = scope.recipe.launch
    if not scope.trains or launch.backend != "trainjob":
        return []
    placement = Placement(grace_seconds=launch.grace_seconds, shared_memory_mib=launch.shared_memory_gib * 1024)
    is_there = True

    def look() -> Check:
        nonlocal is_there
        runtime = api.get(TRAINING_RUNTIME, launch.runtime, launch.namespace or api.namespace)
        is_there = runtime is not None
        problems = list(runtime_problems(runtime or {}, placement))
        fits = f"leaves launch.grace_seconds={launch.grace_seconds} to save in"
        fits += f"; launch.shared_memory_gib={launch.shared_memory_gib} at /dev/shm"
        return judged(NAME, not problems, "; ".join(problems) or fits, _REMEDY)

    found = looked(NAME, look, _REMEDY)
    return [found] if is_there else []
