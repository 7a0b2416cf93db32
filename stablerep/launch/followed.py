"""One job that a launcher follows on a cluster: its last known state, its pods as a watch tells them, the log of its first node.

The watch runs in a thread of its own, so that a pod that fails and is taken away between two looks is still known with its exit code. It is
taken up again after whatever ends it, and each reason is told once. An API server that does not answer for a while changes nothing.
"""

import logging
import threading
import time
from dataclasses import dataclass

from stablerep.cluster import POD, ClusterApi, Document
from stablerep.errors import ClusterError, StablerepError
from stablerep.launch.documents import name_of, part, uid_of
from stablerep.launch.job import JobState, TrainingJob
from stablerep.launch.kinds import JobKind
from stablerep.launch.pods import LogCursor, container_of, newest, state_of

log = logging.getLogger("stablerep")


@dataclass(frozen=True)
class Patience:
    """Seconds between and until; tests shorten them."""

    poll_seconds: float = 2.0  # between looks while an object goes away
    removal_seconds: float = 600.0  # for a finished job and its pods to go away
    silence_seconds: float = 600.0  # for an API server that does not answer while a job runs
    watch_seconds: float = 3600.0  # of one watch of pods


_NUM_ADOPTED_LINES = 1000  # of a log that another launcher has shown before
_PAUSE_SECONDS = 1.0


def is_refused(error: ClusterError) -> bool:
    """Whether the server refused the request, so that asking again soon is of no use."""
    return 400 <= error.status < 500 and error.status != 429


class PodWatch:
    """The pods of a job, also those that are gone, as last seen."""

    def __init__(self, api: ClusterApi, namespace: str, labels: dict[str, str], watch_seconds: float) -> None:
        self._api, self._namespace, self._labels, self._watch_seconds = api, namespace, labels, watch_seconds
        self._pods: dict[str, Document] = {}
        self._gone: set[str] = set()
        self._problem = ""
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="pods", daemon=True).start()

    def stop(self) -> None:
        """The thread ends with its watch."""
        self._stopped.set()

    def pods(self) -> list[Document]:
        """Every pod that was ever seen."""
        with self._lock:
            return list(self._pods.values())

    def is_gone(self, pod: Document) -> bool:
        """Whether the server said that it was deleted."""
        with self._lock:
            return uid_of(pod) in self._gone

    @property
    def problem(self) -> str:
        """Why pods are not seen at present; empty where they are."""
        with self._lock:
            return self._problem

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
                self._note("")
            except Exception as error:  # nobody is above this thread; without it a running job would seem to be pending
                if self._stopped.is_set():
                    return
                said = str(error) if isinstance(error, StablerepError) else f"{type(error).__name__}: {error}"
                self._note(f"its pods cannot be watched: {said}")
                self._stopped.wait(_PAUSE_SECONDS)

    def _follow(self) -> None:
        for event in self._api.watch(POD, self._namespace, self._labels, seconds=self._watch_seconds):
            if self._stopped.is_set():
                return
            uid = uid_of(event.document)
            with self._lock:
                self._problem = ""
                self._pods[uid] = event.document
                if event.type == "DELETED":
                    self._gone.add(uid)

    def _note(self, problem: str) -> None:
        with self._lock:
            self._problem = problem
        if problem and problem not in self._told:
            self._told.add(problem)
            log.warning("%s; trying again every %g s", problem, _PAUSE_SECONDS)


class Followed:
    """What is known of one job.

    Args:
        api: a server.
        kind: how to read the job.
        job: what was submitted.
        namespace: where it is.
        uid: of the object; another one of the same name is not this job.
        is_adopted: another launcher has shown the beginning of its log.
        patience: how long to wait for the server.
    """

    def __init__(
        self,
        api: ClusterApi,
        kind: JobKind,
        job: TrainingJob,
        namespace: str,
        uid: str,
        is_adopted: bool,
        patience: Patience,
    ) -> None:
        self.job, self.uid, self.message = job, uid, ""
        self._api, self._kind, self._namespace, self._patience = api, kind, namespace, patience
        self._state = JobState.QUEUED
        self._watch = PodWatch(api, namespace, kind.pod_labels(job.name), patience.watch_seconds)
        self._log_pod = ""
        self._cursor = LogCursor()
        self._first_tail = _NUM_ADOPTED_LINES if is_adopted else 0
        self._answered_at = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether it was seen to have ended."""
        return self._state.is_final

    @property
    def watch_problem(self) -> str:
        """Why its pods are not seen at present; empty where they are."""
        return self._watch.problem

    def stop_watching(self) -> None:
        """End the thread."""
        self._watch.stop()

    def look(self) -> JobState:
        """Ask the server where the job is.

        Raises:
            ClusterError: it refuses, or did not answer for too long.
        """
        if self.is_over:
            return self._state
        try:
            found = self._api.get(self._kind.kind, self.job.name, self._namespace)
        except ClusterError as error:
            if is_refused(error) or time.monotonic() - self._answered_at > self._patience.silence_seconds:
                raise
            log.warning("job %s: %s", self.job.name, error)
            return self._state
        self._answered_at = time.monotonic()
        self._state = self._state_from(found)
        return self._state

    def current_pods(self) -> list[Document]:
        """The newest pod of every node, in their order; a suspended and resumed job has older ones too."""
        by_node: dict[int, list[Document]] = {}
        for pod in self._watch.pods():
            by_node.setdefault(self._kind.node_index(pod), []).append(pod)
        return [pod for node in sorted(by_node) if (pod := newest(by_node[node]))]

    def new_log_lines(self) -> list[str]:
        """What the first node wrote since the last call."""
        pod = next((pod for pod in self.current_pods() if self._kind.node_index(pod) == 0), None)
        if pod is None or not part(pod, "status").get("containerStatuses"):
            return []
        if uid_of(pod) != self._log_pod:
            self._log_pod, self._cursor = uid_of(pod), LogCursor()
        cursor = self._cursor
        lines = self._read(pod, cursor.since_time, 0 if cursor.since_time else self._first_tail)
        return cursor.new_lines(lines)

    def last_lines(self, pod: Document, num_lines: int) -> tuple[str, ...]:
        """The end of a pod's log, empty where it is gone."""
        return tuple(line.partition(" ")[2] for line in self._read(pod, "", num_lines))

    def _read(self, pod: Document, since_time: str, tail: int) -> list[str]:
        try:
            return self._api.log_lines(name_of(pod), container_of(pod), self._namespace, since_time=since_time, tail=tail)
        except ClusterError as error:
            log.debug("no log of pod %s: %s", name_of(pod), error)
            return []

    def _state_from(self, found: Document | None) -> JobState:
        if found is None or uid_of(found) != self.uid:
            return JobState.CANCELLED
        verdict = self._kind.verdict(found)
        self.message = verdict.message
        if verdict.state is not None:
            return verdict.state
        pods = self._live_pods()
        return state_of(pods, self.job.num_nodes) if pods else verdict.without_pods

    def _live_pods(self) -> list[Document]:
        return [pod for pod in self.current_pods() if not self._watch.is_gone(pod)]
