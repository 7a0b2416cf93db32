"""A job on a Kubernetes cluster: created or adopted under its name, watched, explained when it fails, deleted when it must end.

The name says which run it is, the digest of the document in an annotation which settings: a launcher that finds its own job alive
follows it (the one before was killed), and refuses one with other settings. What is finished is deleted and made anew. Which attempt
the processes are is in the document too, but not in the digest. See `kinds` for what differs between kinds of jobs.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stablerep.cluster import EVENT, POD, ClusterApi, Document
from stablerep.errors import AlreadyExistsError, ClusterError, ConfigError, LaunchError
from stablerep.identity import digest
from stablerep.launch.documents import annotation_of, is_being_deleted, name_of, uid_of
from stablerep.launch.failure import JobFailure
from stablerep.launch.followed import Followed, Patience
from stablerep.launch.job import JobState, TrainingJob
from stablerep.launch.kinds import JobKind
from stablerep.launch.pods import event_lines, pod_end, trouble_of

log = logging.getLogger("stablerep")

DIGEST_ANNOTATION = "stablerep.dev/spec-sha256"
ATTEMPT_ANNOTATION = "stablerep.dev/attempt"
_NUM_TAIL_LINES = 40


class ClusterBackend:
    """Backend on a cluster; a context manager, for its watches. It leaves no job running, unless it is killed.

    Args:
        api: a server.
        kind: how to read jobs of this kind.
        document: makes the job's document.
        namespace: where; empty: that of the credentials.
        patience: how long to wait for the cluster.
    """

    def __init__(
        self,
        api: ClusterApi,
        kind: JobKind,
        document: Callable[[TrainingJob], Document],
        namespace: str = "",
        patience: Patience | None = None,
    ) -> None:
        self._api, self._kind, self._document = api, kind, document
        self._namespace = namespace or api.namespace
        self._patience = patience or Patience()
        self._jobs: dict[str, Followed] = {}

    def __enter__(self) -> "ClusterBackend":
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs.values():
            job.stop_watching()

    def describe(self, job: TrainingJob) -> dict[str, Any]:
        """The document, with its digest."""
        document = copy.deepcopy(self._document(job))
        annotations = document["metadata"].setdefault("annotations", {})
        annotations[DIGEST_ANNOTATION] = digest(self._document(replace(job, attempt="")))
        if job.attempt:
            annotations[ATTEMPT_ANNOTATION] = job.attempt
        return document

    def running_attempt(self, job: TrainingJob) -> str:
        """The attempt of a launcher that was killed while its job runs on; empty where there is no such job.

        Raises:
            ConfigError: a job of this name and other settings is alive.
        """
        found = self._alive(job, self._api.get(self._kind.kind, job.name, self._namespace))
        return annotation_of(found, ATTEMPT_ANNOTATION) if found else ""

    def submit(self, job: TrainingJob, log_folder: Path) -> str:
        """Create the job, or adopt it where it is there and alive.

        Raises:
            ConfigError: a job of this name and other settings is alive.
            LaunchError: another launcher was faster, or a finished job does not go away.
        """
        created, is_adopted = self._create_or_adopt(job)
        handle = f"{self._namespace}/{job.name}"
        if old := self._jobs.get(handle):
            old.stop_watching()
        self._jobs[handle] = Followed(self._api, self._kind, job, self._namespace, uid_of(created), is_adopted, self._patience)
        log.info("job %s: %s in namespace %s", job.name, "adopted, it runs on" if is_adopted else "submitted", self._namespace)
        return handle

    def state(self, handle: str) -> JobState:
        """Where the job is; what the server said last while it does not answer."""
        return self._jobs[handle].look()

    def new_log_lines(self, handle: str) -> list[str]:
        """What the first node's pod wrote since the last call, also after it was replaced."""
        return self._jobs[handle].new_log_lines()

    def situation(self, handle: str) -> str:
        """Conditions, pods that do not get on, and warnings."""
        followed = self._jobs[handle]
        parts = [followed.message, followed.watch_problem, *(trouble_of(pod) for pod in followed.current_pods())]
        try:
            events = [event for event in self._api.find(EVENT, self._namespace) if event.get("type") != "Normal"]
        except ClusterError as error:
            events = []
            parts.append(f"the events cannot be read: {error}")
        names = [followed.job.name, *(name_of(pod) for pod in followed.current_pods())]
        parts += [line for name in names for line in event_lines(events, name)]
        said = "; ".join(dict.fromkeys(part for part in parts if part))
        return f"the cluster says: {said}" if said else ""

    def failure(self, handle: str) -> JobFailure | None:
        """The pods that failed, each with the end of its log and its events."""
        followed = self._jobs[handle]
        try:
            there = {uid_of(pod): pod for pod in self._api.find(POD, self._namespace, self._kind.pod_labels(followed.job.name))}
            events = self._api.find(EVENT, self._namespace)
        except ClusterError as error:
            log.warning("job %s failed, and its pods cannot be read: %s", followed.job.name, error)
            return JobFailure(followed.job.name, followed.message, ())
        newest = [there.get(uid_of(pod), pod) for pod in followed.current_pods()]  # the watch may be a moment behind
        ends = [(pod, pod_end(pod, is_gone=uid_of(pod) not in there)) for pod in newest]
        told = [
            replace(end, tail=followed.last_lines(pod, _NUM_TAIL_LINES), events=event_lines(events, end.pod)) for pod, end in ends if end
        ]
        message = "; ".join(filter(None, (followed.message, followed.watch_problem)))
        return JobFailure(followed.job.name, message, tuple(told))

    def cancel(self, handle: str) -> None:
        """Delete the job: its pods get SIGTERM and save. Nothing happens when it has ended, or is somebody else's by now."""
        followed = self._jobs[handle]
        if followed.is_over:
            return
        name = followed.job.name
        try:
            found = self._api.get(self._kind.kind, name, self._namespace)
            if found and uid_of(found) == followed.uid and not is_being_deleted(found):
                self._api.delete(self._kind.kind, name, self._namespace)
        except ClusterError as error:
            command = f"kubectl delete {self._kind.kind.plural}.{self._kind.kind.group} {name} -n {self._namespace}"
            log.error("job %s may still run: %s; the next launcher adopts it, or end it with `%s`", name, error, command)

    def _create_or_adopt(self, job: TrainingJob) -> tuple[Document, bool]:
        kind, document = self._kind.kind, self.describe(job)
        deadline = time.monotonic() + self._patience.removal_seconds
        while True:
            try:
                return self._api.create(kind, document, self._namespace), False
            except AlreadyExistsError:
                found = self._api.get(kind, job.name, self._namespace)
            if alive := self._alive(job, found):
                attempt = annotation_of(alive, ATTEMPT_ANNOTATION)
                if job.attempt not in ("", attempt):
                    raise LaunchError(f"job {job.name}: another launcher started it just now (attempt {attempt}); run again to follow it")
                return alive, True
            if found and not is_being_deleted(found):
                log.info("job %s: a finished one of this name is deleted first", job.name)
                self._api.delete(kind, job.name, self._namespace)
            if time.monotonic() > deadline:
                where = f"{kind.plural}.{kind.group} {job.name} -n {self._namespace}"
                raise LaunchError(
                    f"job {job.name}: expected the finished job of this name to go away within {self._patience.removal_seconds:g} s, it is "
                    f"still there; look at its finalizers: `kubectl get {where} -o yaml`"
                )
            time.sleep(self._patience.poll_seconds)

    def _alive(self, job: TrainingJob, found: Document | None) -> Document | None:
        """`found` where it is this job and not finished.

        Raises:
            ConfigError: it is alive and another.
        """
        if found is None or is_being_deleted(found):
            return None
        state = self._kind.verdict(found).state
        if state is not None and state.is_final:
            return None
        theirs, ours = annotation_of(found, DIGEST_ANNOTATION), self.describe(job)["metadata"]["annotations"][DIGEST_ANNOTATION]
        if theirs != ours:
            kind = self._kind.kind
            raise ConfigError(
                f"job {job.name}: expected none or this one in namespace {self._namespace}, found one alive with other settings (spec "
                f"{theirs[:12] or 'unknown'}, ours {ours[:12]}); wait for its end, or end it (it saves first) with "
                f"`kubectl delete {kind.plural}.{kind.group} {job.name} -n {self._namespace}`, then run again"
            )
        return found
