"""`ClusterApi` spoken to a real Kubernetes API server: generic REST calls over documents, no class per kind.

Loading of credentials and connections are those of the `kubernetes` package; what is repeated and when is in `kubernetes_transport`, what a
refusal means in `kubernetes_refusal`. A repeated call may meet its own first try, whose answer was lost: a create then raises
AlreadyExistsError, a delete returns False, a patch into one version raises ClusterError 409. Whoever calls compares what is there with
what was meant (the launcher by the digest in its annotation) and needs no other rule for a retried task.
"""

import json
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import quote

from stablerep.cluster import POD, Document, Kind, WatchEvent
from stablerep.errors import ClusterError, ConfigError
from stablerep.integrations.kubernetes_credentials import SERVICE_ACCOUNT_FOLDER, Credentials, find_credentials
from stablerep.integrations.kubernetes_refusal import is_kind_missing, refusal
from stablerep.integrations.kubernetes_transport import READ_SECONDS, Answer, Call, RefusedError, Transport

FIELD_MANAGER = "stablerep"
BUDGET_SECONDS = 60.0
LOG_BUDGET_SECONDS = 10.0  # the kubelet of a lost node answers 500 until the pod is gone: a log is not worth a minute
WATCH_WINDOW_SECONDS = 60.0  # a connection that died without a word is noticed after so long
MISSING_KIND_SECONDS = 2.0

_METHODS = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "patch": "PATCH", "delete": "DELETE"}
_REVIEW = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", is_namespaced=False)
_MERGE, _APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


def connect(
    namespace: str = "",
    *,
    kubeconfig: str = "",
    service_account_folder: Path = SERVICE_ACCOUNT_FOLDER,
    budget_seconds: float = BUDGET_SECONDS,
    read_seconds: float = READ_SECONDS,
) -> "KubernetesApi":
    """The API server that this process has credentials for; see `find_credentials` for where they are looked for.

    Args:
        namespace: used where a call names none; that of the credentials where empty.
        kubeconfig: one or more files, before everything else.
        service_account_folder: where a pod has its token.
        budget_seconds: for how long a call is repeated while the server is unreachable, restarting or busy.
        read_seconds: for how long one answer is waited for.

    Raises:
        ConfigError: there are no credentials, or they cannot be read.
    """
    credentials = find_credentials(kubeconfig, service_account_folder)
    return KubernetesApi(credentials, namespace, budget_seconds=budget_seconds, read_seconds=read_seconds)


class KubernetesApi:
    """See `stablerep.cluster.ClusterApi` for the verbs. Threads may share one; a context manager, for the connections.

    Args:
        credentials: of the account that acts.
        namespace: where a call names none; that of the credentials where empty.
        budget_seconds: for how long a call is repeated while the server is unreachable, restarting or busy.
        read_seconds: for how long one answer is waited for.
    """

    def __init__(
        self,
        credentials: Credentials,
        namespace: str = "",
        *,
        budget_seconds: float = BUDGET_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._transport = Transport(credentials, budget_seconds, read_seconds)
        self._namespace = namespace or credentials.namespace

    def __enter__(self) -> "KubernetesApi":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._transport.close()

    @property
    def namespace(self) -> str:
        """Used wherever a call names none."""
        return self._namespace

    def get(self, kind: Kind, name: str, namespace: str = "") -> Document | None:
        """The object, or None where there is none, or its kind is not installed."""
        return self._ask(self._call("get", kind, namespace, name), kind, is_missing_fine=True)

    def find(self, kind: Kind, namespace: str = "", labels: Mapping[str, str] | None = None) -> list[Document]:
        """All objects with these labels; empty where the kind is not installed."""
        return self._list(kind, namespace, labels)[0]

    def create(self, kind: Kind, document: Document, namespace: str = "", *, is_dry_run: bool = False) -> Document:
        """Create an object; it must have a name, else a repeated call would make two.

        Raises:
            AlreadyExistsError: there is one of this name (perhaps of this very call: see the module).
            ConfigError: it has no name.
            ClusterError: the server refused.
        """
        _name_of(kind, document)
        query = {"dryRun": "All"} if is_dry_run else {}
        call = self._call("create", kind, namespace or _namespace_of(document), query=query, body=_complete(kind, document))
        return self._answered(call, kind)

    def patch(self, kind: Kind, name: str, change: Document, namespace: str = "") -> Document:
        """Merge `change` into an object (RFC 7396); with metadata.resourceVersion in it, only into that version.

        Raises:
            ClusterError: there is no such object, or the server refused.
        """
        return self._answered(self._call("patch", kind, namespace, name, body=change, media_type=_MERGE), kind)

    def apply(self, kind: Kind, document: Document, namespace: str = "") -> Document:
        """Server-side apply under the field manager `stablerep`, taking over the fields named.

        Raises:
            ConfigError: the document has no name.
            ClusterError: the server refused.
        """
        name, query = _name_of(kind, document), {"fieldManager": FIELD_MANAGER, "force": "true"}
        where, body = namespace or _namespace_of(document), _complete(kind, document)
        return self._answered(self._call("patch", kind, where, name, query=query, body=body, media_type=_APPLY), kind)

    def delete(self, kind: Kind, name: str, namespace: str = "") -> bool:
        """Ask for deletion with everything it owns (foreground); False where there was none."""
        options: Document = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        return self._ask(self._call("delete", kind, namespace, name, body=options), kind, is_missing_fine=True) is not None

    def watch(
        self, kind: Kind, namespace: str = "", labels: Mapping[str, str] | None = None, *, seconds: float = 30.0
    ) -> Iterator[WatchEvent]:
        """First every object as ADDED, then changes, for about `seconds`.

        A dropped watch goes on where it broke. After an expired one (410) what is there comes again as ADDED, and what went away
        meanwhile as DELETED, as it was last seen. A kind that is not installed is looked for again every two seconds.
        """
        ends_at = time.monotonic() + seconds
        known: dict[str, Document] = {}
        version = ""
        while True:
            if not version:
                found, version = self._list(kind, namespace, labels)
                listed = {_uid(document): document for document in found}
                yield from (WatchEvent("DELETED", known[uid]) for uid in known.keys() - listed.keys())
                yield from (WatchEvent("ADDED", document) for document in found)
                known = listed
            remaining = ends_at - time.monotonic()
            if remaining <= 0:
                return
            if not version:
                time.sleep(min(remaining, MISSING_KIND_SECONDS))
                continue
            started = time.monotonic()
            with closing(self._events(kind, namespace, labels, version, remaining)) as events:
                for event in events:
                    version = _version(event.document)
                    if event.type in ("ADDED", "MODIFIED"):
                        known[_uid(event.document)] = event.document
                        yield event
                    elif event.type == "DELETED":
                        known.pop(_uid(event.document), None)
                        yield event
                    if time.monotonic() >= ends_at:
                        return
            if time.monotonic() - started < 0.1:
                time.sleep(0.1)  # a server that drops every watch at once is not asked in a tight loop

    def log_lines(self, pod: str, container: str, namespace: str = "", *, since_time: str = "", tail: int = 0) -> list[str]:
        """Lines of a container's log, each "time text"; empty where there is none yet, or no such pod (any more).

        Raises:
            ClusterError: the server refused, or the node of the pod does not answer.
        """
        query = {"container": container, "timestamps": "true"}
        query |= {"sinceTime": since_time} if since_time else {}
        query |= {"tailLines": str(tail)} if tail else {}
        call = self._call("get", POD, namespace, pod, "log", query=query)
        answer = self._transport.send(call, budget_seconds=min(LOG_BUDGET_SECONDS, self._transport.budget_seconds))
        if answer.status == 404 or (answer.status == 400 and _has_no_log_yet(answer.message)):
            return []
        if answer.status >= 400:
            raise self._refusal(answer, call, POD)
        return [line for line in answer.text.split("\n") if line]

    def is_allowed(self, verb: str, kind: Kind, namespace: str = "", *, subresource: str = "") -> bool:
        """SelfSubjectAccessReview: may these credentials do this?"""
        asked = {"verb": verb, "group": kind.group, "version": kind.version, "resource": kind.plural, "subresource": subresource}
        asked |= {"namespace": namespace or self._namespace} if kind.is_namespaced else {}
        body = _complete(_REVIEW, {"spec": {"resourceAttributes": asked}})
        return bool(self._answered(self._call("create", _REVIEW, body=body), _REVIEW)["status"]["allowed"])

    def served_versions(self, group: str) -> list[str]:
        """Versions of an API group, most preferred first; empty where it is not installed."""
        call = Call("GET", f"/apis/{quote(group, safe='')}", f"look up the API group {group}")
        found = self._ask(call, None, is_missing_fine=True)
        if found is None:
            return []
        versions = [str(entry["version"]) for entry in found["versions"]]
        preferred = str((found.get("preferredVersion") or found["versions"][0])["version"])
        return [preferred, *(version for version in versions if version != preferred)]

    def server_version(self) -> str:
        """As in `v1.32.1`.

        Raises:
            ClusterError: the server cannot be reached, or refuses these credentials.
        """
        return str(self._answered(Call("GET", "/version", "ask for its version"), None)["gitVersion"])

    # --- one call ---

    def _call(
        self,
        verb: str,
        kind: Kind,
        namespace: str = "",
        name: str = "",
        subresource: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Document | None = None,
        media_type: str = "application/json",
    ) -> Call:
        where = (namespace or self._namespace) if kind.is_namespaced else ""
        parts = ["apis", kind.group, kind.version] if kind.group else ["api", kind.version]
        parts += ["namespaces", where] if where else []
        path = "/" + "/".join(quote(part, safe="") for part in [*parts, kind.plural, name, subresource] if part)
        resource = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
        shown = name or str((body or {}).get("metadata", {}).get("name", ""))
        words = [verb, f"{resource}/{subresource}" if subresource else resource, shown, f"in namespace {where}" if where else ""]
        return Call(_METHODS[verb], path, " ".join(word for word in words if word), query or {}, body, media_type)

    def _ask(self, call: Call, kind: Kind | None, *, is_missing_fine: bool = False) -> Document | None:
        answer = self._transport.send(call)
        if answer.status == 404 and is_missing_fine:
            return None
        if answer.status >= 400:
            raise self._refusal(answer, call, kind)
        return answer.document

    def _answered(self, call: Call, kind: Kind | None) -> Document:
        return cast("Document", self._ask(call, kind))

    def _refusal(self, answer: Answer, call: Call, kind: Kind | None) -> ClusterError:
        return refusal(answer, call, kind, self._transport.credentials.origin)

    # --- lists and watches ---

    def _list(self, kind: Kind, namespace: str, labels: Mapping[str, str] | None) -> tuple[list[Document], str]:
        """Objects and the version of the list; no version where the kind is not installed."""
        call = self._call("list", kind, namespace, query=_selector(labels))
        found = self._ask(call, kind, is_missing_fine=True)
        if found is None:
            return [], ""
        items = cast("list[Document]", found.get("items") or [])
        return [_complete(kind, item) for item in items], str(found["metadata"]["resourceVersion"])

    def _events(
        self, kind: Kind, namespace: str, labels: Mapping[str, str] | None, version: str, seconds: float
    ) -> Generator[WatchEvent, None, None]:
        """Events of one connection. One of type EXPIRED, without a version, says that the list must be read again."""
        window = min(seconds, WATCH_WINDOW_SECONDS)
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": str(math.ceil(window))}
        call = self._call("watch", kind, namespace, query=_selector(labels) | query)
        grace = 0.0 if window == seconds else 5.0  # at the end of our time silence is the end; before it, the server ends the window
        try:
            for line in self._transport.lines(call, window + grace):
                event = cast("dict[str, Any]", json.loads(line))
                if event["type"] == "ERROR":
                    yield WatchEvent("EXPIRED", {})
                    return
                yield WatchEvent(str(event["type"]), _complete(kind, event["object"]))
        except RefusedError as refused:
            if refused.answer.status != 410 and not is_kind_missing(refused.answer):
                raise self._refusal(refused.answer, call, kind) from refused
            yield WatchEvent("EXPIRED", {})


def _selector(labels: Mapping[str, str] | None) -> dict[str, str]:
    return {"labelSelector": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))} if labels else {}


def _complete(kind: Kind, document: Document) -> Document:
    """With apiVersion and kind, which the items of a list lack."""
    return {"apiVersion": kind.api_version, "kind": kind.kind} | document


def _name_of(kind: Kind, document: Document) -> str:
    if name := str(document.get("metadata", {}).get("name", "")):
        return name
    raise ConfigError(f"a {kind.kind} to create must have metadata.name, found none: a repeated request would make a second one; name it")


def _namespace_of(document: Document) -> str:
    return str(document.get("metadata", {}).get("namespace", ""))


def _uid(document: Document) -> str:
    return str(document["metadata"]["uid"])


def _version(document: Document) -> str:
    return str(document.get("metadata", {}).get("resourceVersion", ""))


def _has_no_log_yet(message: str) -> bool:
    return any(words in message for words in ("is waiting to start", "does not have a host assigned", "is not available"))
