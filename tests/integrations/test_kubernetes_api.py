"""The client against an API server that breaks, over real HTTP: each promise of ClusterApi, and each refusal's message."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_cluster import FIRST_TOKEN, FakeCluster, ServiceAccount, make_certificate, write_kubeconfig

from stablerep.cluster import CONFIG_MAP, INFERENCE_SERVICE, NAMESPACE, POD, TRAIN_JOB, Document, WatchEvent
from stablerep.errors import AlreadyExistsError, ClusterError, ConfigError
from stablerep.integrations.kubernetes_api import KubernetesApi, connect
from stablerep.integrations.kubernetes_credentials import find_credentials


def job(name: str = "train", namespace: str = "", **labels: str) -> Document:
    metadata: Document = {"name": name} | ({"labels": labels} if labels else {}) | ({"namespace": namespace} if namespace else {})
    return {"metadata": metadata, "spec": {"trainer": {"numNodes": 2}}}


@pytest.fixture
def api(cluster_kubeconfig: Path) -> Iterator[KubernetesApi]:
    with connect(budget_seconds=3.0) as found:
        yield found


@pytest.fixture
def hasty(cluster_kubeconfig: Path) -> Iterator[KubernetesApi]:
    """Gives up after half a second."""
    with connect(budget_seconds=0.5) as found:
        yield found


# --- verbs ---


def test_create_and_get(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    created = api.create(TRAIN_JOB, job())
    assert created["metadata"]["uid"]
    assert (created["apiVersion"], created["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert api.get(TRAIN_JOB, "train") == created == fake_cluster.get(TRAIN_JOB, "train")
    assert fake_cluster.seen("create", TRAIN_JOB)[0].path == "/apis/trainer.kubeflow.org/v1alpha1/namespaces/stablerep/trainjobs"


def test_core_and_cluster_scoped_kinds_have_their_own_paths(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    api.create(CONFIG_MAP, {"metadata": {"name": "settings"}, "data": {"a": "b"}})
    assert api.get(NAMESPACE, "stablerep") is not None
    assert [request.path for request in fake_cluster.requests] == [
        "/api/v1/namespaces/stablerep/configmaps",
        "/api/v1/namespaces/stablerep",
    ]


def test_the_namespace_of_the_call_then_of_the_document_then_of_the_credentials(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    api.create(TRAIN_JOB, job(), "team-a")
    api.apply(TRAIN_JOB, job(namespace="default"))
    api.create(TRAIN_JOB, job("second", namespace="default"))
    assert api.namespace == "stablerep"
    assert [len(fake_cluster.objects(TRAIN_JOB, where)) for where in ("team-a", "default", "stablerep")] == [1, 2, 0]
    with connect("team-a") as elsewhere:
        assert elsewhere.get(TRAIN_JOB, "train") is not None


def test_dry_run_creates_nothing(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    assert api.create(TRAIN_JOB, job(), is_dry_run=True)["metadata"]["uid"]
    assert fake_cluster.objects(TRAIN_JOB) == []


def test_a_second_create_says_that_there_is_one(api: KubernetesApi) -> None:
    api.create(TRAIN_JOB, job())
    with pytest.raises(
        AlreadyExistsError, match=r"create trainjobs.trainer.kubeflow.org train in namespace stablerep.*already exists; use or del"
    ):
        api.create(TRAIN_JOB, job())


def test_a_document_without_a_name_is_not_sent(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    for send in (api.create, api.apply):
        with pytest.raises(ConfigError, match=r"a TrainJob to create must have metadata\.name, found none"):
            send(TRAIN_JOB, {"metadata": {"generateName": "train-"}})
    assert fake_cluster.requests == []


def test_what_is_not_there(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    assert api.get(TRAIN_JOB, "train") is None
    assert api.delete(TRAIN_JOB, "train") is False
    with pytest.raises(ClusterError, match=r'trainjobs.trainer.kubeflow.org "train" not found; see that the name') as missing_object:
        api.patch(TRAIN_JOB, "train", {"spec": {}})
    fake_cluster.kinds.discard(TRAIN_JOB)
    assert api.get(TRAIN_JOB, "train") is None
    assert api.find(TRAIN_JOB) == []
    with pytest.raises(
        ClusterError, match=r"does not serve trainjobs of trainer.kubeflow.org/v1alpha1; install the operator"
    ) as missing_kind:
        api.create(TRAIN_JOB, job())
    assert missing_object.value.status == missing_kind.value.status == 404


def test_a_missing_namespace_is_not_taken_for_a_missing_kind(api: KubernetesApi) -> None:
    with pytest.raises(ClusterError, match=r'namespaces "nowhere" not found; see that the name and the namespace are right'):
        api.create(TRAIN_JOB, job(), "nowhere")


def test_find_by_labels(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    for name, colour, size in (("a", "red", "s"), ("b", "red", "m"), ("c", "blue", "s")):
        fake_cluster.set(POD, {"metadata": {"name": name, "labels": {"colour": colour, "size": size}}})
    found = api.find(POD, labels={"colour": "red", "size": "s"})
    assert [document["metadata"]["name"] for document in found] == ["a"]
    assert (found[0]["kind"], found[0]["apiVersion"]) == ("Pod", "v1"), "the items of a list come without them"
    assert len(api.find(POD)) == 3
    assert api.find(POD, "team-a") == []


def test_patch_merges_and_removes(api: KubernetesApi) -> None:
    created = api.create(TRAIN_JOB, job(keep="1", drop="1"))
    patched = api.patch(TRAIN_JOB, "train", {"metadata": {"labels": {"drop": None}}, "spec": {"suspend": True}})
    assert patched["spec"] == {"trainer": {"numNodes": 2}, "suspend": True}
    assert patched["metadata"]["labels"] == {"keep": "1"}
    with pytest.raises(ClusterError, match="changed by somebody else meanwhile; read it again") as refused:
        api.patch(TRAIN_JOB, "train", {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "spec": {"suspend": False}})
    assert refused.value.status == 409
    assert not isinstance(refused.value, AlreadyExistsError)


def test_apply_creates_changes_and_removes_its_own_fields(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    api.apply(INFERENCE_SERVICE, {"metadata": {"name": "e"}, "spec": {"predictor": {"minReplicas": 1, "canaryTrafficPercent": 10}}})
    fake_cluster.update_status(INFERENCE_SERVICE, "e", {"url": "u"})
    applied = api.apply(INFERENCE_SERVICE, {"metadata": {"name": "e"}, "spec": {"predictor": {"minReplicas": 2}}})
    assert (applied["spec"], applied["status"]) == ({"predictor": {"minReplicas": 2}}, {"url": "u"})
    sent = fake_cluster.seen("patch", INFERENCE_SERVICE)[0]
    assert (sent.query, sent.headers["content-type"]) == ({"fieldManager": "stablerep", "force": "true"}, "application/apply-patch+yaml")


def test_delete_takes_what_is_owned_with_it(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    owner = api.create(TRAIN_JOB, job())["metadata"]
    fake_cluster.set(POD, {"metadata": {"name": "pod", "ownerReferences": [{"uid": owner["uid"]}]}})
    assert api.delete(TRAIN_JOB, "train") is True
    assert fake_cluster.objects(POD) == fake_cluster.objects(TRAIN_JOB) == []
    assert fake_cluster.seen("delete", TRAIN_JOB)[0].body["propagationPolicy"] == "Foreground"


def test_log_lines(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    assert api.log_lines("pod", "node") == [], "no such pod"
    fake_cluster.set(POD, {"metadata": {"name": "pod"}})
    assert api.log_lines("pod", "node") == [], "not started"
    lines = [f"2026-11-23T08:00:0{second}.5Z step {second} \N{CIRCLED DIGIT ONE}\r50 %" for second in range(4)]
    fake_cluster.logs["pod", "node"] = lines
    assert api.log_lines("pod", "node") == lines
    assert api.log_lines("pod", "node", since_time="2026-11-23T08:00:02Z") == lines[2:]
    assert api.log_lines("pod", "node", tail=1) == lines[3:]
    fake_cluster.fail(400, verb="get")
    with pytest.raises(ClusterError, match="get pods/log pod in namespace stablerep"):
        api.log_lines("pod", "node")


def test_is_allowed(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.forbid("create", TRAIN_JOB)
    fake_cluster.forbid("get", POD, "log")
    asked = [("create", TRAIN_JOB, ""), ("get", TRAIN_JOB, ""), ("get", POD, ""), ("get", POD, "log")]
    assert [api.is_allowed(verb, kind, subresource=part) for verb, kind, part in asked] == [False, True, True, False]
    assert fake_cluster.requests[0].body["spec"]["resourceAttributes"]["namespace"] == "stablerep"


def test_what_the_server_serves(api: KubernetesApi) -> None:
    assert api.served_versions("serving.kserve.io") == ["v1beta1", "v1alpha1"]
    assert api.served_versions("nothing.example.org") == []
    assert api.server_version() == "v1.32.0"


# --- refusals ---


def test_a_missing_right_names_account_verb_resource_and_remedy(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.forbid("create", TRAIN_JOB)
    lacks = "system:serviceaccount:stablerep:stablerep-launch .kubeconfig .* lacks the verb create on trainjobs; grant it in the Role"
    with pytest.raises(ClusterError, match=lacks) as refused:
        api.create(TRAIN_JOB, job())
    assert (refused.value.status, len(fake_cluster.requests)) == (403, 1)


def test_admission_speaks_for_itself(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.refuse("create", TRAIN_JOB, "spec.runtimeRef: Invalid value: unknown runtime")
    with pytest.raises(ClusterError, match=r"\(HTTP 422\): spec.runtimeRef: Invalid value: unknown runtime; correct what") as invalid:
        api.create(TRAIN_JOB, job(), is_dry_run=True)
    fake_cluster.refuse("create", POD, "exceeded quota: gpus, requested: 8, used: 4, limited: 8", 403, "Forbidden")
    with pytest.raises(ClusterError, match=r"\(403\): exceeded quota: gpus.*change the object, or the quota or policy"):
        api.create(POD, job())
    assert invalid.value.status == 422


# --- what a cluster does to its clients ---


@pytest.mark.parametrize("code", [0, 429, 500, 502, 503, 504])
def test_a_call_is_repeated(api: KubernetesApi, fake_cluster: FakeCluster, code: int) -> None:
    fake_cluster.fail(code, times=2)
    api.create(TRAIN_JOB, job())
    assert len(fake_cluster.seen("create", TRAIN_JOB)) == 3


def test_retry_after_is_honoured(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.fail(429, retry_after=1)
    started = time.monotonic()
    assert api.find(POD) == []
    assert time.monotonic() - started >= 1.0


def test_the_budget_ends(hasty: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.fail(503, times=1000)
    with pytest.raises(
        ClusterError, match=r"cannot list pods in namespace stablerep: .* 0.5 s, last: HTTP 503, the server is cur.*readyz"
    ) as busy:
        hasty.find(POD)
    assert busy.value.status == 503
    assert len(fake_cluster.requests) >= 3


def test_a_wait_beyond_the_budget_is_not_begun(hasty: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.fail(429, retry_after=600)
    with pytest.raises(ClusterError, match="HTTP 429"):
        hasty.find(POD)


def test_an_unreachable_server(cluster_kubeconfig: Path, fake_cluster: FakeCluster) -> None:
    fake_cluster.url = "http://127.0.0.1:9"  # discard: nobody listens
    write_kubeconfig(cluster_kubeconfig, fake_cluster)
    with connect(budget_seconds=0.2) as nowhere, pytest.raises(ClusterError, match=r"NewConnectionError.*reachable from here") as refused:
        nowhere.find(POD)
    assert refused.value.status == 0


def test_a_create_whose_answer_was_lost_finds_itself(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.fail(-1, verb="create")
    with pytest.raises(AlreadyExistsError):
        api.create(TRAIN_JOB, job())
    assert len(fake_cluster.objects(TRAIN_JOB)) == 1


def test_a_patch_whose_answer_was_lost_is_done_once(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    api.create(TRAIN_JOB, job())
    fake_cluster.fail(-1, verb="patch")
    assert api.patch(TRAIN_JOB, "train", {"spec": {"suspend": True}})["metadata"]["generation"] == 2


def test_a_renewed_kubeconfig_is_read_again(api: KubernetesApi, fake_cluster: FakeCluster, cluster_kubeconfig: Path) -> None:
    assert api.find(POD) == []
    fake_cluster.token = "token-2"
    write_kubeconfig(cluster_kubeconfig, fake_cluster)
    assert api.create(TRAIN_JOB, job())
    assert [request.headers["authorization"] for request in fake_cluster.requests] == ["Bearer token-1"] * 2 + ["Bearer token-2"]


def test_credentials_refused_twice_are_refused(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.token = "of somebody else"
    with pytest.raises(ClusterError, match=r"does not accept kubeconfig .*, context fake \(401\), also after it was read again") as refused:
        api.find(POD)
    assert (refused.value.status, len(fake_cluster.requests)) == (401, 2)


# --- watches: each ends when `z-end` is seen, however slow the machine is ---

LONG_SECONDS = 60.0


def collect(api: KubernetesApi, act: Callable[[WatchEvent], object] = repr, **labels: str) -> list[tuple[str, str]]:
    """(type, name) of the events before `z-end`; `act` is called with each."""
    events: list[tuple[str, str]] = []
    for event in api.watch(TRAIN_JOB, labels=labels, seconds=LONG_SECONDS):
        if event.document["metadata"]["name"] == "z-end":
            return events
        events.append((event.type, event.document["metadata"]["name"]))
        act(event)
    raise AssertionError(f"the watch ended without z-end: {events}")


def on(name: str, *actions: Callable[[], object]) -> Callable[[WatchEvent], None]:
    """Do the next action whenever an event about `name` arrives."""
    todo = list(actions)

    def act(event: WatchEvent) -> None:
        if event.document["metadata"]["name"] == name and todo:
            todo.pop(0)()

    return act


def test_a_watch_begins_with_what_is_there(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.set(TRAIN_JOB, job("a", team="x"))
    fake_cluster.set(TRAIN_JOB, job("other"))

    def end() -> None:
        fake_cluster.set(TRAIN_JOB, job("other-2"))
        fake_cluster.remove(TRAIN_JOB, "a")
        fake_cluster.set(TRAIN_JOB, job("z-end", team="x"))

    act = on("a", lambda: fake_cluster.update_status(TRAIN_JOB, "a", {"conditions": []}), end)
    assert collect(api, act, team="x") == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


def test_a_quiet_watch_ends_after_its_time(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.set(TRAIN_JOB, job("a"))
    started = time.monotonic()
    assert [event.type for event in api.watch(TRAIN_JOB, seconds=0.2)] == ["ADDED"]
    assert time.monotonic() - started >= 0.2
    assert [event.type for event in api.watch(TRAIN_JOB, seconds=0.0)] == ["ADDED"], "no time: what is there, and no watch"
    assert len(fake_cluster.seen("watch", TRAIN_JOB)) == 1


def test_a_watch_that_nobody_answers_ends_in_time(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.fail(200, verb="watch", times=9, seconds=20.0)
    started = time.monotonic()
    assert list(api.watch(TRAIN_JOB, seconds=0.2)) == []
    assert time.monotonic() - started < 15.0


def test_a_dropped_watch_goes_on_where_it_broke(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.set(TRAIN_JOB, job("a"))
    fake_cluster.drop_watches(0, 1)

    def change() -> None:
        for step in range(3):
            fake_cluster.update_status(TRAIN_JOB, "a", {"step": step})
        fake_cluster.set(TRAIN_JOB, job("z-end"))

    assert collect(api, on("a", change)) == [("ADDED", "a")] + [("MODIFIED", "a")] * 3
    assert (len(fake_cluster.seen("list", TRAIN_JOB)), len(fake_cluster.seen("watch", TRAIN_JOB))) == (1, 3)


@pytest.mark.parametrize("form", ["event", "status"])
def test_an_expired_watch_begins_anew(api: KubernetesApi, fake_cluster: FakeCluster, form: str) -> None:
    fake_cluster.set(TRAIN_JOB, job("a"))
    fake_cluster.set(TRAIN_JOB, job("b"))

    def miss_something() -> None:
        fake_cluster.remove(TRAIN_JOB, "a")
        fake_cluster.set(TRAIN_JOB, job("c"))
        if form == "event":
            fake_cluster.expire_watches()
        else:
            fake_cluster.fail(410, verb="watch")

    events = collect(api, on("b", miss_something, lambda: fake_cluster.set(TRAIN_JOB, job("z-end"))))
    assert events == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a"), ("ADDED", "b"), ("ADDED", "c")]


def test_an_expiry_in_a_running_watch(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.set(TRAIN_JOB, job("a"))
    act = on(
        "a",
        lambda: fake_cluster.update_status(TRAIN_JOB, "a", {"step": 1}),
        fake_cluster.expire_watches,
        lambda: fake_cluster.set(TRAIN_JOB, job("z-end")),
    )
    assert collect(api, act) == [("ADDED", "a"), ("MODIFIED", "a"), ("ADDED", "a")]


def test_the_version_moves_on_with_bookmarks(api: KubernetesApi, fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stablerep.integrations.kubernetes_api.WATCH_WINDOW_SECONDS", 1.0)
    fake_cluster.set(TRAIN_JOB, job("a"))

    def on_second_watch() -> None:
        while len(fake_cluster.seen("watch", TRAIN_JOB)) < 2:
            time.sleep(0.01)
        fake_cluster.set(TRAIN_JOB, job("z-end"))

    player = threading.Thread(target=on_second_watch)
    player.start()
    pods = []
    act = on("a", lambda: pods.append(fake_cluster.set(POD, {"metadata": {"name": "p"}})))  # after the list, of another kind
    assert collect(api, act) == [("ADDED", "a")]
    player.join()
    first, second = (int(watch.query["resourceVersion"]) for watch in fake_cluster.seen("watch", TRAIN_JOB))
    assert (first + 1, second) == (int(pods[0]["metadata"]["resourceVersion"]),) * 2


def test_a_token_rotated_between_watches(api: KubernetesApi, fake_cluster: FakeCluster, cluster_kubeconfig: Path) -> None:
    fake_cluster.set(TRAIN_JOB, job("a"))
    fake_cluster.drop_watches(1)

    def rotate() -> None:
        fake_cluster.token = "token-2"
        write_kubeconfig(cluster_kubeconfig, fake_cluster)
        fake_cluster.update_status(TRAIN_JOB, "a", {"step": 1})

    act = on(
        "a", rotate, lambda: fake_cluster.update_status(TRAIN_JOB, "a", {"step": 2}), lambda: fake_cluster.set(TRAIN_JOB, job("z-end"))
    )
    assert collect(api, act) == [("ADDED", "a"), ("MODIFIED", "a"), ("MODIFIED", "a")]


def test_a_watch_that_is_not_allowed(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.forbid("watch", TRAIN_JOB)
    with pytest.raises(ClusterError, match="lacks the verb watch on trainjobs"):
        collect(api)


def test_a_kind_installed_while_it_is_watched(api: KubernetesApi, fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stablerep.integrations.kubernetes_api.MISSING_KIND_SECONDS", 0.05)
    fake_cluster.set(TRAIN_JOB, job("a"))
    fake_cluster.set(TRAIN_JOB, job("z-end"))
    fake_cluster.kinds.discard(TRAIN_JOB)
    threading.Timer(0.15, fake_cluster.kinds.add, (TRAIN_JOB,)).start()
    assert collect(api) == [("ADDED", "a")]
    assert len(fake_cluster.seen("list", TRAIN_JOB)) > 1


# --- credentials ---


def test_in_a_pod(cluster_service_account: ServiceAccount, fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nothing/here")
    fake_cluster.namespace = "team-a"
    (cluster_service_account.folder / "namespace").write_text("team-a\n")
    (cluster_service_account.folder / "token").write_text(f"{FIRST_TOKEN}\n")
    with connect(service_account_folder=cluster_service_account.folder) as api:
        assert api.create(TRAIN_JOB, job())["metadata"]["namespace"] == api.namespace == "team-a"
        cluster_service_account.rotate("token-2")
        assert api.delete(TRAIN_JOB, "train")
    assert [request.headers["authorization"].lower() for request in fake_cluster.requests][1:] == ["bearer token-1", "bearer token-2"]


def test_a_certificate_of_another_authority(
    cluster_service_account: ServiceAccount, fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster_service_account.folder / "ca.crt").write_text(make_certificate()[0])
    with connect(service_account_folder=cluster_service_account.folder) as api:
        with pytest.raises(ClusterError, match="not signed by the authority named in the service account token in"):
            api.find(POD)
    assert fake_cluster.requests == []


def test_a_kubeconfig_that_is_named_comes_first(
    cluster_service_account: ServiceAccount, cluster_kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cluster_service_account.folder
    assert find_credentials(str(cluster_kubeconfig), folder).origin == f"kubeconfig {cluster_kubeconfig}, context fake"
    assert find_credentials("", folder).origin == f"the service account token in {folder}"
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    assert find_credentials("", folder).origin == f"kubeconfig {cluster_kubeconfig}, context fake"


def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    missing = rf"expected a token in {tmp_path} and KUBERNETES_SERVICE_HOST.* no file {tmp_path}/.kube/config; .*set KUBECONFIG"
    with pytest.raises(ConfigError, match=missing):
        connect(service_account_folder=tmp_path)


@pytest.mark.parametrize("content", ["", "{{", "[1]", '{"contexts": []}', '{"current-context": "x", "contexts": []}'])
def test_a_kubeconfig_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "config").write_text(content)
    with pytest.raises(ConfigError, match=r"cannot be read from kubeconfig .*check it with `kubectl config view"):
        connect(kubeconfig=str(tmp_path / "config"))


def test_half_a_service_account(cluster_service_account: ServiceAccount) -> None:
    (cluster_service_account.folder / "ca.crt").unlink()
    with pytest.raises(ConfigError, match=r"certification file does not exist; .*service account volume is mounted whole"):
        connect(service_account_folder=cluster_service_account.folder)
