"""Whether an object that is there does its work: a queue that takes jobs, a Gateway that takes traffic.

Read from `status` alone, as the controllers write it; kinds that have no such thing are fine when they are there.
"""

from collections.abc import Iterable

from stablerep.cluster import GATEWAY, LOCAL_QUEUE, VOLCANO_QUEUE, Document, Kind, section

_OPEN = "ask whoever keeps the queue to open it"
_PROGRAM = "see `kubectl describe gateway`: the controller of its GatewayClass must run and give it an address"


def problem_of(kind: Kind, document: Document) -> tuple[str, str]:
    """Why an object does not do its work, and what to do; two empty texts where it does."""
    if _is(kind, VOLCANO_QUEUE):
        state = str(section(document, "status").get("state") or "Open")
        return ("", "") if state == "Open" else (f"its state is {state}", _OPEN)
    if _is(kind, LOCAL_QUEUE):
        return _local_queue(document)
    if _is(kind, GATEWAY):
        programmed = _condition(document, "Programmed")
        if programmed.get("status") == "True":
            return "", ""
        why = programmed.get("message") or programmed.get("reason") or "no controller has taken it"
        return f"not programmed: {why}", _PROGRAM
    return "", ""


def _local_queue(document: Document) -> tuple[str, str]:
    stopped = section(document, "spec").get("stopPolicy") or "None"
    if stopped != "None":
        return f"stopped ({stopped})", _OPEN
    active = _condition(document, "Active")
    if active.get("status") == "False":
        return f"not active: {active.get('message') or active.get('reason')}", _OPEN
    return "", ""


def _condition(document: Document, name: str) -> Document:
    conditions: Iterable[Document] = section(document, "status").get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == name), Document())


def _is(kind: Kind, other: Kind) -> bool:
    """The same kind, of whatever version."""
    return (kind.group, kind.plural) == (other.group, other.plural)
