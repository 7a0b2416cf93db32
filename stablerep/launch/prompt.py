"""The deletion of a job the moment its launcher is told to end, beside the launcher's own wait.

A launcher in a pod may have a fraction of a second: what runs it in the container gets the same signal, ends first, and the container
with it. So a thread that the signal wakes (`stop_signals`) asks for the deletion through a connection of its own. It finds the job by
its name and its attempt, which are known before the job is made; a launcher that lives on waits for the pods as always.
"""

import logging
import threading
import time

from stablerep.cluster import ClusterApi
from stablerep.errors import ClusterError
from stablerep.launch.cluster import ATTEMPT_ANNOTATION
from stablerep.launch.documents import annotation_of, is_being_deleted
from stablerep.launch.followed import is_refused
from stablerep.launch.job import TrainingJob
from stablerep.launch.kinds import JobKind

log = logging.getLogger("stablerep")

_PAUSE_SECONDS = 0.05


class PromptDeletion:
    """Deletes the job that is expected, when called; calls and `expect` may come from different threads.

    Args:
        api: a server, over connections that nobody else uses, and with short times.
        kind: of the job.
        namespace: where it is; empty: that of the credentials.
        patience_seconds: how long to look for a job that is just being made, or to try again; the launcher's own way follows.
    """

    def __init__(self, api: ClusterApi, kind: JobKind, namespace: str = "", patience_seconds: float = 5.0) -> None:
        self._api, self._kind, self._namespace = api, kind, namespace or api.namespace
        self._patience_seconds = patience_seconds
        self._job: TrainingJob | None = None
        self._ended = threading.Event()

    def expect(self, job: TrainingJob) -> None:
        """From now on there may be this job; call it before the job is made."""
        self._job = job

    def close(self) -> None:
        """A call that runs ends soon, others do nothing."""
        self._ended.set()

    def __call__(self) -> None:
        """Delete the job; returns when that is done, or when it was tried for long enough. Never raises."""
        deadline = time.monotonic() + self._patience_seconds
        problem = ""
        while not self._ended.is_set() and time.monotonic() < deadline:
            try:
                if self._is_done():
                    return
            except Exception as error:  # nobody is above this thread; the launcher's own wait tries again
                if str(error) != problem:
                    problem = str(error)
                    log.warning("told to end, but the job is not deleted yet: %s", problem)
                if isinstance(error, ClusterError) and is_refused(error):
                    return
            self._ended.wait(_PAUSE_SECONDS)

    def _is_done(self) -> bool:
        """Whether the job is on its way out."""
        job = self._job
        found = self._api.get(self._kind.kind, job.name, self._namespace) if job else None
        if job is None or found is None or annotation_of(found, ATTEMPT_ANNOTATION) != job.attempt:
            return False
        state = self._kind.verdict(found).state
        if is_being_deleted(found) or (state is not None and state.is_final):
            return True
        self._api.delete(self._kind.kind, job.name, self._namespace)
        log.info("told to end: job %s is deleted, its pods save first", job.name)
        return True
