"""The HTTP side of the fake API server: addresses to verbs, who may do what, streams of a watch, Status documents."""

import json
import sys
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from fake_cluster_objects import Change, Refusal, merge

from stablerep.cluster import Document, Kind

if TYPE_CHECKING:
    from fake_cluster import FakeCluster

REVIEW = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", is_namespaced=False)
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
PAGE_NOT_FOUND = "404 page not found\n"


@dataclass
class Fault:
    code: int
    times: int
    verb: str
    plural: str
    retry_after: int | None
    seconds: float


@dataclass
class Request:
    """One request as the server understood it; `verb` is RBAC's, empty for discovery."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any = None
    verb: str = ""
    group: str = ""
    version: str = ""
    namespace: str = ""
    plural: str = ""
    name: str = ""
    subresource: str = ""


class LostConnectionError(Exception):
    """Close the connection without an answer."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], cluster: "FakeCluster") -> None:
        super().__init__(address, handler)
        self.cluster = cluster

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error and not isinstance(error, (OSError, LostConnectionError)):  # clients may go away
            self.cluster.errors.append(error)


def parse(method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
    address = urlsplit(target)
    request = Request(method, address.path, dict(parse_qsl(address.query)), headers, json.loads(body) if body else None)
    parts = [part for part in address.path.split("/") if part]
    if parts[:2] == ["api", "v1"]:
        request.version, parts = "v1", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        request.group, request.version, parts = parts[1], parts[2], parts[3:]
    else:
        return request
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        request.namespace, parts = parts[1], parts[2:]
    request.plural, request.name, request.subresource = (*parts, "", "", "")[:3]
    watches = request.query.get("watch") in ("true", "1")
    request.verb = VERBS.get(method) or ("get" if request.name else "watch" if watches else "list")
    return request


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests read `cluster.requests`."""

    def do_GET(self) -> None:
        cluster = self.server.cluster
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = parse(self.command, self.path, {key.lower(): value for key, value in self.headers.items()}, body)
        cluster.requests.append(request)
        try:
            fault = self._suffer(request)
            self._authenticate(request)
            code, answer = self._answer(request)
            if fault and fault.code == -1:
                raise LostConnectionError
            if answer is not None:
                self._send(code, answer)
        except Refusal as refusal:
            self._send(refusal.code, refusal.document, refusal.retry_after)

    do_POST = do_PATCH = do_DELETE = do_GET

    # --- who may ---

    def _suffer(self, request: Request) -> Fault | None:
        faults = self.server.cluster.faults
        fault = next((f for f in faults if f.verb in ("", request.verb) and f.plural in ("", request.plural) and f.times > 0), None)
        if fault is None:
            return None
        fault.times -= 1
        self.server.cluster.is_closing.wait(fault.seconds)
        if fault.code == 0:
            raise LostConnectionError
        if fault.code >= 400:
            reason, message = _WORDS.get(fault.code, ("InternalError", "Internal error occurred: the test wants it so"))
            raise Refusal(fault.code, reason, message, retry_after=fault.retry_after)
        return fault

    def _authenticate(self, request: Request) -> None:
        token = self.server.cluster.token
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if token and (scheme.lower(), given) != ("bearer", token):
            raise Refusal(401, "Unauthorized", "Unauthorized")

    def _authorize(self, request: Request, verb: str) -> None:
        plural = f"{request.plural}/{request.subresource}" if request.subresource else request.plural
        if (verb, request.group, plural) not in self.server.cluster.forbidden:
            return
        full = f"{request.plural}.{request.group}" if request.group else request.plural
        object_ = f'{full} "{request.name}"' if request.name else full
        scope = f' in the namespace "{request.namespace}"' if request.namespace else " at the cluster scope"
        message = (
            f'{object_} is forbidden: User "{self.server.cluster.account}" cannot {verb} resource "{plural}" '
            f'in API group "{request.group}"{scope}'
        )
        raise Refusal(403, "Forbidden", message, {"name": request.name, "group": request.group, "kind": request.plural})

    # --- what ---

    def _answer(self, request: Request) -> tuple[int, Document | str | None]:
        """Code and body; None where it has been sent already (a watch)."""
        if not request.verb:
            return self._discover(request.path)
        if (request.group, request.plural) == (REVIEW.group, REVIEW.plural):
            return 201, self._review(request.body)
        kinds = self.server.cluster.kinds
        kind = next((k for k in kinds if (k.group, k.version, k.plural) == (request.group, request.version, request.plural)), None)
        self._authorize(request, request.verb)
        if kind is None or (request.subresource and request.subresource != "log"):
            return 404, PAGE_NOT_FOUND
        for verb, refused, refusal in self.server.cluster.refusals:
            if (verb, refused) == (request.verb, kind):
                raise refusal
        if request.subresource == "log":
            return 200, self._log(request, kind)
        return getattr(self, f"_{request.verb}")(request, kind)

    def _get(self, request: Request, kind: Kind) -> tuple[int, Document]:
        return 200, self.server.cluster.state.get(kind, request.name, request.namespace)

    def _list(self, request: Request, kind: Kind) -> tuple[int, Document]:
        found, version = self.server.cluster.state.find(kind, request.namespace)
        items = [document for document in found if _is_selected(document, request.query)]
        head = {"kind": f"{kind.kind}List", "apiVersion": kind.api_version}
        bare = [{key: value for key, value in item.items() if key not in ("kind", "apiVersion") or kind.group} for item in items]
        return 200, head | {"metadata": {"resourceVersion": str(version)}, "items": bare}

    def _create(self, request: Request, kind: Kind) -> tuple[int, Document]:
        document = {key: value for key, value in (request.body or {}).items() if key != "status"}  # only controllers write it
        is_dry_run = request.query.get("dryRun") == "All"
        return 201, self.server.cluster.state.create(kind, document, request.namespace, is_dry_run=is_dry_run)

    def _patch(self, request: Request, kind: Kind) -> tuple[int, Document]:
        objects, media_type = self.server.cluster.state, request.headers.get("content-type", "")
        change = {key: value for key, value in (request.body or {}).items() if key != "status"}
        if media_type == "application/merge-patch+json":
            return 200, objects.change(kind, request.name, request.namespace, lambda old: merge(old, change))
        if media_type != "application/apply-patch+yaml":
            raise Refusal(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {media_type}")
        if not request.query.get("fieldManager"):
            raise Refusal(400, "BadRequest", "fieldManager: Required value: is required for apply patch")
        if change.get("metadata", {}).get("name") != request.name:
            raise Refusal(400, "BadRequest", f'metadata.name: Invalid value: must match the name on the request ("{request.name}")')
        try:
            objects.get(kind, request.name, request.namespace)
            code = 200
        except Refusal:
            self._authorize(request, "create")  # an apply that creates needs both verbs
            code = 201
        return code, objects.apply(kind, change, request.namespace, request.query["fieldManager"])

    def _delete(self, request: Request, kind: Kind) -> tuple[int, Document]:
        deleted = self.server.cluster.state.delete(kind, request.name, request.namespace)
        if "deletionTimestamp" in deleted["metadata"]:
            return 200, deleted
        details = {"name": request.name, "group": kind.group, "kind": kind.plural, "uid": deleted["metadata"]["uid"]}
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _log(self, request: Request, kind: Kind) -> str:
        self.server.cluster.state.get(kind, request.name, request.namespace)
        container, query = request.query.get("container", ""), request.query
        lines = self.server.cluster.logs.get((request.name, container))
        if lines is None:
            waiting = f'container "{container}" in pod "{request.name}" is waiting to start: ContainerCreating'
            raise Refusal(400, "BadRequest", waiting)
        since = query.get("sinceTime", "")[:19]
        chosen = [line for line in lines if line[:19] >= since]
        chosen = chosen[-int(query["tailLines"]) :] if "tailLines" in query else chosen
        shown = chosen if query.get("timestamps") == "true" else [line.partition(" ")[2] for line in chosen]
        return "".join(f"{line}\n" for line in shown)

    def _review(self, body: Document) -> Document:
        asked = body["spec"]["resourceAttributes"]
        plural = f"{asked['resource']}/{asked['subresource']}" if asked.get("subresource") else asked["resource"]
        allowed = (asked["verb"], asked.get("group", ""), plural) not in self.server.cluster.forbidden
        return body | {"status": {"allowed": allowed} | ({} if allowed else {"reason": "no rule of any Role allows it"})}

    def _discover(self, path: str) -> tuple[int, Document | str]:
        groups: dict[str, list[str]] = {}
        for kind in sorted(self.server.cluster.kinds | {REVIEW}, key=lambda k: ("alpha" in k.version, "beta" in k.version, k.version)):
            versions = groups.setdefault(kind.group, [])
            versions += [] if kind.version in versions else [kind.version]
        parts = [part for part in path.split("/") if part]
        if parts == ["version"]:
            return 200, {"major": "1", "minor": "32", "gitVersion": self.server.cluster.version, "platform": "linux/amd64"}
        if parts == ["apis"]:
            listed = [_group(name, versions) for name, versions in groups.items() if name]
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        if parts[:1] == ["apis"] and len(parts) == 2 and parts[1] in groups:
            return 200, {"kind": "APIGroup", "apiVersion": "v1"} | _group(parts[1], groups[parts[1]])
        return 404, PAGE_NOT_FOUND

    # --- a watch ---

    def _watch(self, request: Request, kind: Kind) -> tuple[int, None]:
        cluster, objects = self.server.cluster, self.server.cluster.state
        with objects.changed:
            expired, since = cluster.num_expired, int(request.query.get("resourceVersion") or objects.version)
            found = []
            if not request.query.get("resourceVersion"):
                found = [Change("ADDED", kind, "", 0, item) for item in objects.find(kind, request.namespace)[0]]
            is_expired = since < (objects.history[0].version - 1 if objects.history else objects.version)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._follow(request, kind, found, since, is_expired, expired)
        self.wfile.write(b"0\r\n\r\n")
        return 200, None

    def _follow(self, request: Request, kind: Kind, found: list[Change], since: int, is_expired: bool, expired: int) -> None:
        cluster, objects = self.server.cluster, self.server.cluster.state
        left = cluster.watch_drops.pop(0) if cluster.watch_drops else -1
        ends_at = time.monotonic() + float(request.query.get("timeoutSeconds", 1800))
        while True:
            for change in (c for c in found if _is_selected(c.document, request.query)):
                if left == 0:
                    break
                self._send_event(change.type, change.document | {"apiVersion": kind.api_version, "kind": kind.kind})
                left -= 1
            if left == 0 or cluster.is_closing.is_set():
                raise LostConnectionError
            if is_expired:
                text = f"too old resource version: {since} ({objects.version})"
                return self._send_event("ERROR", Refusal(410, "Expired", text).document)
            with objects.changed:
                found = [c for c in objects.history if c.version > since and _is_of(c, kind, request.namespace)]
                since = max(since, objects.version)
                is_expired = cluster.num_expired > expired
                if not found and not is_expired and not objects.changed.wait(max(ends_at - time.monotonic(), 0)):
                    break
        if request.query.get("allowWatchBookmarks") == "true":  # the real server sends one about each minute, and at the end
            head = {"apiVersion": kind.api_version, "kind": kind.kind}
            self._send_event("BOOKMARK", head | {"metadata": {"resourceVersion": str(since)}})
        return None

    def _send_event(self, event: str, document: Document) -> None:
        line = json.dumps({"type": event, "object": document}).encode() + b"\n"
        for part in (line[:40], line[40:]):  # as on a real network, an event may come in pieces
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    def _send(self, code: int, answer: Document | str, retry_after: int | None = None) -> None:
        content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(content)


_WORDS = {
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden"),
    409: ("Conflict", "the object has been modified; please apply your changes to the latest version and try again"),
    410: ("Expired", "The resourceVersion for the provided watch is too old."),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "the server was unable to return a response in the time allotted"),
}


def _group(name: str, versions: list[str]) -> Document:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _is_of(change: Change, kind: Kind, namespace: str) -> bool:
    return (change.kind.group, change.kind.plural) == (kind.group, kind.plural) and namespace in ("", change.namespace)


def _is_selected(document: Document, query: dict[str, str]) -> bool:
    labels = document["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, _, wanted = term.replace("==", "=").replace("!=", "=!").partition("=")
        if "(" in term:
            raise Refusal(400, "BadRequest", f"the fake API server knows equality and presence only, not {term!r}")
        if not _is_match(labels.get(key.strip("! ")), key, wanted):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, wanted = term.partition("=")
        value: Any = document
        for part in path.split("."):
            value = (value or {}).get(part)
        if (value or "") != wanted:
            return False
    return True


def _is_match(value: str | None, key: str, wanted: str) -> bool:
    if key.startswith("!"):
        return value is None
    if wanted.startswith("!"):
        return value != wanted[1:]
    return value == wanted if wanted else value is not None
