"""The objects of the fake API server and the rules of the real one about them: names, versions, uids, merging, deletion, history.

Not modelled: schemas and defaults, conflicts between field managers, quota, paging, an object that a watch's selector stops to match.
"""

import copy
import random
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import stablerep.cluster
from stablerep.cluster import NAMESPACE, Document, Kind

EVERY_KIND = frozenset(value for value in vars(stablerep.cluster).values() if isinstance(value, Kind))
NAMESPACES = ("default", "stablerep", "team-a")
Key = tuple[str, str, str, str]


class Refusal(Exception):
    """An answer that is not a success, as a Status document."""

    def __init__(self, code: int, reason: str, message: str, details: Document | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        body: Document = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
        body |= {"reason": reason} if reason else {}
        body |= {"details": details} if details else {}
        self.document = body | {"code": code}


@dataclass(frozen=True)
class Change:
    type: str
    kind: Kind
    namespace: str
    version: int
    document: Document


def resource(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def merge(target: Any, change: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def not_found(kind: Kind, name: str) -> Refusal:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return Refusal(404, "NotFound", f'{resource(kind)} "{name}" not found', details)


class Objects:
    """Thread-safe; `hooks` are called after the lock is released, in the thread that made the change."""

    def __init__(self) -> None:
        self.kinds: set[Kind] = set(EVERY_KIND)
        self.changed = threading.Condition()
        self.history: list[Change] = []
        self.version = 1000
        self.hooks: list[tuple[Kind, Callable[[str, Document], None]]] = []
        self.keeps_deleted = False
        self._objects: dict[Key, Document] = {}
        self._applied: dict[tuple[Key, str], Document] = {}
        for name in NAMESPACES:
            self.create(NAMESPACE, {"metadata": {"name": name}}, "")

    def get(self, kind: Kind, name: str, namespace: str) -> Document:
        with self.changed:
            if found := self._objects.get(_key(kind, name, namespace)):
                return _as_kind(kind, found)
        raise not_found(kind, name)

    def find(self, kind: Kind, namespace: str) -> tuple[list[Document], int]:
        """Objects (of every namespace where none is named) and the version of the list."""
        with self.changed:
            keys = sorted(key for key in self._objects if key[:2] == (kind.group, kind.plural) and namespace in ("", key[2]))
            return [_as_kind(kind, self._objects[key]) for key in keys], self.version

    def create(self, kind: Kind, document: Document, namespace: str, *, is_dry_run: bool = False) -> Document:
        created = _checked(kind, document, namespace)
        metadata = created["metadata"]
        with self.changed:
            if kind.is_namespaced and _key(NAMESPACE, namespace, "") not in self._objects:
                raise not_found(NAMESPACE, namespace)
            if _key(kind, metadata["name"], namespace) in self._objects:
                details = {"name": metadata["name"], "group": kind.group, "kind": kind.plural}
                raise Refusal(409, "AlreadyExists", f'{resource(kind)} "{metadata["name"]}" already exists', details)
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
            if is_dry_run:
                return created
            change = self._record("ADDED", kind, namespace, created)
        self._tell([change])
        return copy.deepcopy(change.document)

    def change(self, kind: Kind, name: str, namespace: str, edit: Callable[[Document], Document]) -> Document:
        """Replace an object by what `edit` makes of it; a change that changes nothing leaves the version as it is."""
        with self.changed:
            old = self.get(kind, name, namespace)
            new = edit(copy.deepcopy(old))
            expected = new["metadata"].get("resourceVersion", old["metadata"]["resourceVersion"])
            if expected != old["metadata"]["resourceVersion"]:
                text = f'Operation cannot be fulfilled on {resource(kind)} "{name}": the object has been modified; please apply your '
                details = {"name": name, "group": kind.group, "kind": kind.plural}
                raise Refusal(409, "Conflict", f"{text}changes to the latest version and try again", details)
            fixed = ("name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion")
            new["metadata"] |= {field: old["metadata"][field] for field in fixed if field in old["metadata"]}
            if new == old:
                return old
            if _without_status(new) != _without_status(old):
                new["metadata"]["generation"] += 1
            is_gone = "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers")
            change = self._record("DELETED" if is_gone else "MODIFIED", kind, namespace, new)
        self._tell([change])
        return copy.deepcopy(change.document)

    def apply(self, kind: Kind, document: Document, namespace: str, manager: str) -> Document:
        """Server-side apply: fields this manager applied before and names no longer are removed."""
        applied = _checked(kind, document, namespace)
        key = _key(kind, applied["metadata"]["name"], namespace)
        with self.changed:
            before, exists = self._applied.get((key, manager), {}), key in self._objects
            self._applied[key, manager] = applied
        if not exists:
            return self.create(kind, document, namespace)
        return self.change(kind, key[3], namespace, lambda live: merge(_drop(live, before, applied), applied))

    def delete(self, kind: Kind, name: str, namespace: str, *, is_forced: bool = False) -> Document:
        """Delete with everything it owns; with a finalizer, or while `keeps_deleted`, only mark it as being deleted."""
        with self.changed:
            old = self.get(kind, name, namespace)
            metadata = old["metadata"]
            if not is_forced and (self.keeps_deleted or metadata.get("finalizers")):
                finalizers = [*metadata.get("finalizers", []), "foregroundDeletion"]
                metadata |= {"deletionTimestamp": _now(), "finalizers": list(dict.fromkeys(finalizers)), "deletionGracePeriodSeconds": 0}
                changes = [self._record("MODIFIED", kind, namespace, old)]
            else:
                changes = [*self._delete_owned(metadata["uid"], namespace), self._record("DELETED", kind, namespace, old)]
        self._tell(changes)
        return copy.deepcopy(old)

    def _delete_owned(self, uid: str, namespace: str) -> list[Change]:
        changes: list[Change] = []
        for (group, plural, where, _), document in list(self._objects.items()):
            owners = [owner["uid"] for owner in document["metadata"].get("ownerReferences", [])]
            if uid in owners and where == namespace:
                kind = next(kind for kind in self.kinds if (kind.group, kind.plural) == (group, plural))
                changes += self._delete_owned(document["metadata"]["uid"], namespace)
                changes.append(self._record("DELETED", kind, namespace, document))
        return changes

    def _record(self, event: str, kind: Kind, namespace: str, document: Document) -> Change:
        self.version += 1
        document = copy.deepcopy(document)
        document["metadata"]["resourceVersion"] = str(self.version)
        key = _key(kind, document["metadata"]["name"], namespace)
        if event == "DELETED":
            del self._objects[key]
            self._applied = {known: value for known, value in self._applied.items() if known[0] != key}
        else:
            self._objects[key] = document
        change = Change(event, kind, namespace, self.version, document)
        self.history.append(change)
        self.changed.notify_all()
        return change

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            for kind, function in list(self.hooks):
                if (kind.group, kind.plural) == (change.kind.group, change.kind.plural):
                    function(change.type, copy.deepcopy(change.document))


def _key(kind: Kind, name: str, namespace: str) -> Key:
    return kind.group, kind.plural, namespace if kind.is_namespaced else "", name


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _as_kind(kind: Kind, document: Document) -> Document:
    return copy.deepcopy(document) | {"apiVersion": kind.api_version, "kind": kind.kind}


def _without_status(document: Document) -> Document:
    return {key: value for key, value in document.items() if key not in ("status", "metadata")}


def _checked(kind: Kind, document: Document, namespace: str) -> Document:
    """A copy with apiVersion, kind, name and namespace; refused as the real server does where they contradict the address."""
    given = (document.get("apiVersion", kind.api_version), document.get("kind", kind.kind))
    if given != (kind.api_version, kind.kind):
        raise Refusal(
            400, "BadRequest", f"the kind of the data ({' '.join(given)}) does not match the expected one ({kind.api_version} {kind.kind})"
        )
    checked = copy.deepcopy(document) | {"apiVersion": kind.api_version, "kind": kind.kind}
    metadata = checked.setdefault("metadata", {})
    if "name" not in metadata and "generateName" in metadata:
        metadata["name"] = metadata["generateName"] + "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
    name = metadata.get("name", "")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name):
        problem = f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case letters'
        raise Refusal(422, "Invalid", f'{kind.kind}.{kind.group} "{name}" is invalid: {problem}')
    if kind.is_namespaced:
        if metadata.setdefault("namespace", namespace) != namespace:
            raise Refusal(400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request")
    else:
        metadata.pop("namespace", None)
    return checked


def _drop(live: Document, before: Document, applied: Document) -> Document:
    """`live` without the fields that were in `before` and are not in `applied`."""
    kept = dict(live)
    for key, value in before.items():
        if key not in applied:
            kept.pop(key, None)
        elif isinstance(value, dict) and isinstance(applied[key], dict) and isinstance(kept.get(key), dict):
            kept[key] = _drop(kept[key], value, applied[key])
    return kept
