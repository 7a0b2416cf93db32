"""A fake Kubernetes API server for tests: real HTTP (and TLS) on 127.0.0.1, the paths, verbs and Status documents of the real one.

A test plays the controllers with `set`, `update_status`, `remove`, `on_change`, and breaks things with `fail`, `forbid`, `refuse`,
`drop_watches`, `expire_watches`, `token`. Namespaces `default`, `stablerep` and `team-a` exist; others are made with `set(NAMESPACE, ...)`.
"""

import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_cluster_http import Fault, Handler, Request, Server
from fake_cluster_objects import Objects, Refusal, merge

from stablerep.cluster import Document, Kind

FIRST_TOKEN = "token-1"


@dataclass
class FakeCluster:
    """Attributes a test may set at any time.

    kinds: installed kinds, all of stablerep.cluster at first; `cluster.kinds.discard(TRAIN_JOB)` makes its paths "404 page not found".
    version: what GET /version says.
    token: the only bearer token accepted (401 otherwise); "" accepts everybody.
    account: user name in 403 messages.
    logs: (pod, container) -> lines, each "RFC3339-time text"; a pod without an entry answers 400 "is waiting to start".
    keeps_deleted: DELETE only marks an object (deletionTimestamp, finalizer foregroundDeletion) until `remove`.
    requests: every request in order, see fake_cluster_http.Request.
    """

    url: str = ""
    namespace: str = "stablerep"
    token: str = ""
    version: str = "v1.32.0"
    account: str = "system:serviceaccount:stablerep:stablerep-launch"
    logs: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    state: Objects = field(default_factory=Objects)
    faults: list[Fault] = field(default_factory=list)
    forbidden: set[tuple[str, str, str]] = field(default_factory=set)
    refusals: list[tuple[str, Kind, Refusal]] = field(default_factory=list)
    watch_drops: list[int] = field(default_factory=list)
    num_expired: int = 0
    is_closing: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)

    @property
    def kinds(self) -> set[Kind]:
        return self.state.kinds

    @property
    def keeps_deleted(self) -> bool:
        return self.state.keeps_deleted

    @keeps_deleted.setter
    def keeps_deleted(self, value: bool) -> None:
        self.state.keeps_deleted = value

    # --- what controllers do; none of it appears in `requests` ---

    def set(self, kind: Kind, document: Document, namespace: str = "") -> Document:
        """Create an object, or replace it, status included."""
        where = self._where(document, namespace)
        try:
            return self.state.create(kind, document, where)
        except Refusal as refusal:
            if refusal.code != 409:
                raise
        return self.state.change(kind, document["metadata"]["name"], where, lambda old: document | {"metadata": _kept(old, document)})

    def update_status(self, kind: Kind, name: str, status: Document, namespace: str = "") -> Document:
        """Merge `status` into the object's status (lists are replaced, None removes a field)."""
        where = namespace or self.namespace
        return self.state.change(kind, name, where, lambda old: old | {"status": merge(old.get("status"), status)})

    def get(self, kind: Kind, name: str, namespace: str = "") -> Document | None:
        try:
            return self.state.get(kind, name, namespace or self.namespace)
        except Refusal:
            return None

    def objects(self, kind: Kind, namespace: str = "") -> list[Document]:
        """Of one namespace (the cluster's default where none is named), by name."""
        return self.state.find(kind, (namespace or self.namespace) if kind.is_namespaced else "")[0]

    def remove(self, kind: Kind, name: str, namespace: str = "") -> None:
        """Delete at once, with what it owns (ownerReferences), whatever the finalizers."""
        self.state.delete(kind, name, namespace or self.namespace, is_forced=True)

    def on_change(self, kind: Kind, function: Callable[[str, Document], None]) -> None:
        """Call `function(event, document)` after every ADDED, MODIFIED and DELETED, in the changing thread, before the answer is sent.

        It may call the methods here (its own changes are told to it too: guard against endless play).
        """
        self.state.hooks.append((kind, function))

    # --- what goes wrong ---

    def fail(
        self, code: int, *, times: int = 1, verb: str = "", kind: Kind | None = None, retry_after: int | None = None, seconds: float = 0.0
    ) -> None:
        """Answer the next `times` requests (of this verb and kind, where named) with `code`, `seconds` late.

        200: only late. 0: the connection is closed and nothing is done. -1: it is done, but the answer is lost.
        Verbs as RBAC names them: get list watch create patch delete; `log` is `get` of pods with subresource log.
        """
        self.faults.append(Fault(code, times, verb, kind.plural if kind else "", retry_after, seconds))

    def forbid(self, verb: str, kind: Kind, subresource: str = "") -> None:
        """Take a right away: requests answer 403, SelfSubjectAccessReview says no."""
        self.forbidden.add((verb, kind.group, f"{kind.plural}/{subresource}" if subresource else kind.plural))

    def refuse(self, verb: str, kind: Kind, message: str, code: int = 422, reason: str = "Invalid") -> None:
        """Admission (or the schema) refuses every such request with this message; after authorization, dry runs included."""
        self.refusals.append((verb, kind, Refusal(code, reason, message)))

    def drop_watches(self, *after_events: int) -> None:
        """The next watches break off after so many events each, without a proper end."""
        self.watch_drops.extend(after_events)

    def expire_watches(self) -> None:
        """Running watches get an ERROR event 410 and end; older resource versions are answered so from now on.

        `fail(410, verb="watch")` is the other form: HTTP status 410.
        """
        with self.state.changed:
            self.num_expired += 1
            self.state.history.clear()
            self.state.version += 1
            self.state.changed.notify_all()

    def seen(self, verb: str, kind: Kind, subresource: str = "") -> list[Request]:
        """Requests of this verb and kind so far."""
        return [r for r in self.requests if (r.verb, r.group, r.plural, r.subresource) == (verb, kind.group, kind.plural, subresource)]

    def _where(self, document: Document, namespace: str) -> str:
        return namespace or document.get("metadata", {}).get("namespace", "") or self.namespace


@dataclass(frozen=True)
class ServiceAccount:
    """The folder a pod finds its credentials in, for KubernetesApi's service_account_folder; the server speaks TLS there."""

    folder: Path
    cluster: FakeCluster

    def rotate(self, token: str) -> None:
        """As the kubelet and the API server: a new token in the file, the old one is refused."""
        self.cluster.token = token
        (self.folder / "token").write_text(token)


@pytest.fixture
def fake_cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    server = Server(("127.0.0.1", 0), Handler, cluster)
    cluster.url = f"http://127.0.0.1:{server.server_port}"
    yield from _serving(server, cluster)
    assert cluster.errors == [], "the fake API server itself failed"


@pytest.fixture
def cluster_kubeconfig(fake_cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubeconfig file with one context (namespace stablerep, bearer token); KUBECONFIG names it."""
    fake_cluster.token = fake_cluster.token or FIRST_TOKEN
    path = tmp_path / "kubeconfig.json"
    write_kubeconfig(path, fake_cluster)
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
def cluster_service_account(fake_cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceAccount]:
    """token, namespace and ca.crt as in a pod, with the KUBERNETES_SERVICE_* environment of one."""
    fake_cluster.token = fake_cluster.token or FIRST_TOKEN
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    server = Server(("127.0.0.1", 0), Handler, fake_cluster)
    certificate, key = make_certificate()
    for name, content in (("token", fake_cluster.token), ("namespace", fake_cluster.namespace), ("ca.crt", certificate), ("tls.pem", key)):
        (folder / name).write_text(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "tls.pem")
    (folder / "tls.pem").unlink()
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    for _ in _serving(server, fake_cluster):
        yield ServiceAccount(folder, fake_cluster)


def write_kubeconfig(path: Path, cluster: FakeCluster) -> None:
    """Also how a test rotates the token of a kubeconfig."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": cluster.url}}],
        "users": [{"name": "tester", "user": {"token": cluster.token}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "tester", "namespace": cluster.namespace}}],
    }
    path.write_text(json.dumps(document))  # JSON is YAML


def _serving(server: ThreadingHTTPServer, cluster: FakeCluster) -> Iterator[FakeCluster]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        cluster.is_closing.set()
        with cluster.state.changed:
            cluster.state.changed.notify_all()
        server.shutdown()
        server.server_close()
        thread.join()


def _kept(old: Document, new: Document) -> Document:
    """Metadata of a replacement: the new one; the server's own fields are put back by `Objects.change`."""
    metadata = dict(new["metadata"])
    metadata.setdefault("resourceVersion", old["metadata"]["resourceVersion"])
    return metadata


def make_certificate() -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1 and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fake-kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
