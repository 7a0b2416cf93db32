"""Pods as the launcher reads them: where they are, how they ended, what the cluster says about them, and their log without repeats.

Functions take documents in the API's own field names. Nothing here talks to a server.
"""

import re
from collections import Counter
from collections.abc import Iterable

from stablerep.cluster import Document
from stablerep.launch.documents import is_being_deleted, name_of, part, rows
from stablerep.launch.failure import PodEnd
from stablerep.launch.job import JobState

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ")
_DULL_EVENTS = ("Scheduled", "Pulling", "Pulled", "Created", "Started", "SuccessfulCreate", "AddedInterface")
_NUM_EVENTS = 5


def container_of(pod: Document) -> str:
    """The training container: sidecars that a webhook adds may come first."""
    names = [str(container["name"]) for container in pod["spec"]["containers"]]
    return next((name for name in names if name.partition("-")[0] == "node"), names[0])


def newest(pods: Iterable[Document]) -> Document | None:
    """The last made of these, in doubt the last told: a replaced pod and its successor may both be there."""
    ordered = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    return ordered[-1] if ordered else None


def state_of(pods: list[Document], num_nodes: int) -> JobState:
    """Where a job is whose pods (one a node, the newest; at least one) these are."""
    if any(_phase(pod) == "Pending" and not _is_placed(pod) for pod in pods):
        return JobState.QUEUED
    if len(pods) < num_nodes or any(_phase(pod) == "Pending" for pod in pods):
        return JobState.PENDING
    return JobState.RUNNING


def pod_end(pod: Document, *, is_gone: bool) -> PodEnd | None:
    """How a pod ended, None where it runs, waits or ended well.

    Args:
        pod: as last seen.
        is_gone: it is not there any more.
    """
    status = part(pod, "status")
    terminated = _terminated(pod)
    code = int(terminated.get("exitCode", -1))
    disruption = _condition(pod, "DisruptionTarget")
    is_failed = _phase(pod) == "Failed" or code > 0 or (is_gone and _phase(pod) != "Succeeded" and code != 0)
    if not is_failed and not disruption:
        return None
    reasons = (status.get("reason"), terminated.get("reason"), disruption.get("reason"), "Deleted" if is_gone else "")
    words = (status.get("message"), terminated.get("message"), disruption.get("message"))
    return PodEnd(
        pod=name_of(pod),
        node=str(pod["spec"].get("nodeName", "")),
        exit_code=code,
        reason=str(next(filter(None, ("OOMKilled" if "OOMKilled" in reasons else "", *reasons)), "")),
        message="; ".join(dict.fromkeys(str(word).strip() for word in words if word)),
        finished_at=str(terminated.get("finishedAt") or ""),
        is_disrupted=bool(disruption),
        is_deleted=is_gone or is_being_deleted(pod),
    )


def trouble_of(pod: Document) -> str:
    """Why a pod does not get on: no place, no image, a container that does not start; empty where nothing is said."""
    waiting = [part(status, "state", "waiting") for status in rows(pod, "status", "containerStatuses")]
    unplaced = _condition(pod, "PodScheduled", "False")
    said = [f"{entry.get('reason', '')}: {entry.get('message', '')}".strip(": ") for entry in (unplaced, *waiting)]
    text = "; ".join(words for words in said if words and words != "ContainerCreating")
    return f"pod {name_of(pod)}: {text}" if text else ""


def event_lines(events: Iterable[Document], name: str) -> tuple[str, ...]:
    """The last telling events about an object of this name, oldest first."""
    of_it = [event for event in events if part(event, "involvedObject").get("name") == name]
    of_it = [event for event in of_it if event.get("reason") not in _DULL_EVENTS]
    of_it.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return tuple(f"{event.get('reason', '')}: {event.get('message', '')}" for event in of_it[-_NUM_EVENTS:])


class LogCursor:
    """Remembers how far a container's log was read.

    The server takes up a log at a full second only, so the lines of the last second come again; they are counted and left out.
    """

    def __init__(self) -> None:
        self.since_time = ""
        self._last_second: Counter[str] = Counter()

    def new_lines(self, lines: list[str]) -> list[str]:
        """The lines that were not here before, without their time stamps.

        Args:
            lines: as the server gave them for `since_time`, each "time text".
        """
        seen = Counter(self._last_second)
        fresh: list[str] = []
        for line in lines:
            if seen[line] > 0:
                seen[line] -= 1
                continue
            fresh.append(line.partition(" ")[2])
            self._remember(line)
        return fresh

    def _remember(self, line: str) -> None:
        stamp = _STAMP.match(line)
        if stamp is None:  # part of a line that came without a time
            return
        second = "".join(stamp.groups())
        if second != self.since_time:
            self.since_time, self._last_second = second, Counter()
        self._last_second[line] += 1


def _phase(pod: Document) -> str:
    return str(part(pod, "status").get("phase", "Pending"))


def _condition(pod: Document, name: str, status: str = "True") -> Document:
    found = (c for c in rows(pod, "status", "conditions") if c.get("type") == name and c.get("status") == status)
    return next(found, Document())


def _is_placed(pod: Document) -> bool:
    return bool(pod["spec"].get("nodeName")) or bool(_condition(pod, "PodScheduled"))


def _terminated(pod: Document) -> Document:
    name = container_of(pod)
    for status in rows(pod, "status", "containerStatuses"):
        if status.get("name") == name:
            return part(status, "state", "terminated") or part(status, "lastState", "terminated")
    return {}
