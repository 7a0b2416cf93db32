"""What differs between a TrainJob and a Volcano job once the document is made: their pods, and how they say where they are.

An adapter reads documents of the API server only; making them is the business of `stablerep.integrations`.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from stablerep.cluster import TRAIN_JOB, VOLCANO_JOB, Document, Kind
from stablerep.launch.documents import annotation_of, part, rows
from stablerep.launch.job import JobState


@dataclass(frozen=True)
class Verdict:
    """What a job's document says; without a state the pods decide."""

    state: JobState | None
    message: str
    without_pods: JobState = JobState.PENDING  # what it means that there is none


class JobKind(Protocol):
    """A kind of job."""

    @property
    def kind(self) -> Kind:
        """As the API server names it."""
        ...

    def pod_labels(self, job: str) -> dict[str, str]:
        """What selects the pods of a job."""
        ...

    def node_index(self, pod: Document) -> int:
        """Which node of the job a pod is."""
        ...

    def verdict(self, document: Document) -> Verdict:
        """Where the job is, as far as its document says."""
        ...


class TrainJobKind:
    """Kubeflow Trainer: conditions Suspended, Complete and Failed; pods are those of a JobSet."""

    kind = TRAIN_JOB
    _STATES = (("Failed", JobState.FAILED), ("Complete", JobState.SUCCEEDED), ("Suspended", JobState.QUEUED))

    def pod_labels(self, job: str) -> dict[str, str]:
        """The JobSet of a TrainJob has its name."""
        return {"jobset.sigs.k8s.io/jobset-name": job}

    def node_index(self, pod: Document) -> int:
        """The completion index; a label since Kubernetes 1.28, an annotation always."""
        key = "batch.kubernetes.io/job-completion-index"
        return int(part(pod, "metadata", "labels").get(key) or annotation_of(pod, key) or 0)

    def verdict(self, document: Document) -> Verdict:
        """A suspended job waits for its queue: that is no failure. Kueue may suspend a running one."""
        conditions = rows(document, "status", "conditions")
        true = {str(c["type"]): str(c.get("message", "")) for c in conditions if c.get("status") == "True"}
        for name, state in self._STATES:
            if name in true:
                return Verdict(state, true[name])
        return Verdict(JobState.QUEUED if document["spec"].get("suspend") else None, "")


class VolcanoKind:
    """Volcano: a phase; every node is a task of its own, as TorchX writes it."""

    kind = VOLCANO_JOB
    _STATES: ClassVar[dict[str, JobState]] = {
        "Completed": JobState.SUCCEEDED,
        "Failed": JobState.FAILED,
        "Terminated": JobState.FAILED,
        "Aborted": JobState.FAILED,
    }

    def pod_labels(self, job: str) -> dict[str, str]:
        """Set by Volcano's job controller."""
        return {"volcano.sh/job-name": job}

    def node_index(self, pod: Document) -> int:
        """The number at the end of the task's name."""
        task = str(part(pod, "metadata", "labels").get("volcano.sh/task-spec", ""))
        number = task.rpartition("-")[2]
        return int(number) if number.isdigit() else 0

    def verdict(self, document: Document) -> Verdict:
        """Pending lasts until all pods run; without pods the job waits for its queue."""
        state = part(document, "status", "state")
        message = ": ".join(str(state[key]) for key in ("reason", "message") if state.get(key))
        phase = str(state.get("phase", ""))
        return Verdict(self._STATES.get(phase), message, JobState.QUEUED if phase == "Pending" else JobState.PENDING)
