"""What every backend promises: dark first, steps in order, promoted or back, and the same after being killed anywhere."""

import threading
from dataclasses import replace

import pytest
from cluster_rollout import Killed, Rollout
from fake_kserve import ROUTE_TAKEN

from stablerep.cluster import HTTP_ROUTE, INFERENCE_SERVICE, SERVICE, Document
from stablerep.endpoint.observed import route_problem
from stablerep.endpoint.release import ROLLOUT_STEP, RolloutState, previous_of, release_of
from stablerep.errors import GateError, LaunchError

CANARIES = pytest.mark.parametrize("rollout", ["standard_canary", "knative_canary"], indirect=True)


def test_the_first_encoder_is_served_once_it_is_verified(rollout: Rollout) -> None:
    dark = rollout.deploy("model-a")
    # Knative has nothing else to send traffic to; the others have no traffic yet
    assert rollout.kserve.shares() == ({"model-a": 100} if rollout.backend == "knative_canary" else {})
    assert rollout.strategy().read().served is None
    live = rollout.verify("model-a")
    assert rollout.kserve.shares() == {"model-a": 100}
    assert rollout.seen == []
    assert rollout.strategy().read().served == rollout.release("model-a")
    assert dark.url("stablerep").startswith("http://127.0.0.1:")
    assert live.url("stablerep").endswith("/v1/models/stablerep:predict")


def test_a_dark_launch_leaves_the_traffic_where_it_is(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.kserve.history.clear()
    rollout.deploy("model-b")
    state = rollout.strategy().read()
    assert (state.served, state.candidate, state.percent) == (rollout.release("model-a"), rollout.release("model-b"), 0)
    assert rollout.kserve.shares() == {"model-a": 100}
    assert rollout.kserve.history in ([], [{"model-a": 100}])


def test_deploying_again_changes_nothing(rollout: Rollout) -> None:
    first = rollout.deploy("model-a")
    num_changes = rollout.api.num_changes
    assert rollout.deploy("model-a") == first
    rollout.verify("model-a")
    promoted_with = rollout.api.num_changes
    rollout.deploy("model-a")
    rollout.verify("model-a")
    assert rollout.api.num_changes == promoted_with > num_changes


@CANARIES
def test_traffic_moves_in_steps_and_everything_at_the_end(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.promoted("model-b")
    assert rollout.seen == [(5, {"model-a": 95, "model-b": 5}), (50, {"model-a": 50, "model-b": 50})]
    assert rollout.kserve.shares() == {"model-b": 100}
    assert rollout.strategy().read().candidate is None
    assert {document["metadata"]["name"] for document in rollout.kserve.cluster.objects(INFERENCE_SERVICE)} == {"stablerep"}


def test_three_encoders_one_after_the_other(rollout: Rollout) -> None:
    for model_id in ("model-a", "model-b", "model-c"):
        rollout.promoted(model_id)
        assert rollout.kserve.shares() == {model_id: 100}


def test_wrong_golden_embeddings_never_get_traffic(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.kserve.wrong.add("model-b")
    rollout.kserve.history.clear()
    rollout.deploy("model-b")
    with pytest.raises(
        GateError, match=r"model-b failed before it got any traffic: golden embeddings differ.*; it is not promoted and.* serves model-a"
    ):
        rollout.verify("model-b")
    assert all(set(shares) == {"model-a"} for shares in rollout.kserve.history)
    assert rollout.strategy().read().served == rollout.release("model-a")
    rollout.promoted("model-c")
    assert rollout.kserve.shares() == {"model-c": 100}


def test_a_wrong_first_encoder_leaves_nothing(rollout: Rollout) -> None:
    rollout.kserve.wrong.add("model-a")
    rollout.deploy("model-a")
    with pytest.raises(GateError, match=r"model-a failed .*; it is not promoted and endpoint 'stablerep' serves nothing"):
        rollout.verify("model-a")
    cluster = rollout.kserve.cluster
    assert cluster.objects(INFERENCE_SERVICE) == cluster.objects(HTTP_ROUTE) == []
    assert cluster.get(SERVICE, "stablerep") is None
    with pytest.raises(GateError, match="expected model-a as this recipe deploys it, but it serves nothing; deploy again"):
        rollout.verify("model-a")


@CANARIES
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"error_ratio": "0.25"},
            r"failed at 5 % of the traffic: error ratio 0.25 of 100 requests in .* allowed 0.01; query: \(sum.*code=~",
        ),
        ({"p99_seconds": "0.9"}, r"failed at 5 % of the traffic: p99 0.9 s of 100 requests in .* allowed 0.5 s; query: histogram_quantile"),
        ({"p99_seconds": "NaN"}, r"failed at 5 % of the traffic: Prometheus has no data about p99"),
        (
            {"num_requests": None},
            r"failed at 5 % of the traffic: Prometheus has no data about requests .* does it scrape the pods\? query: sum",
        ),
        ({"num_requests": "0"}, r"Prometheus has no data about requests"),
    ],
)
def test_a_bad_step_goes_back(rollout: Rollout, answers: dict[str, str | None], message: str) -> None:
    rollout.promoted("model-a")
    rollout.deploy("model-b")
    rollout.kserve.history.clear()
    for name, number in answers.items():
        setattr(rollout.prometheus, name, number)
    with pytest.raises(GateError, match=message) as caught:
        rollout.verify("model-b")
    assert "serves model-a again" in str(caught.value)
    assert rollout.kserve.history[-1] == rollout.kserve.shares() == {"model-a": 100}
    assert all(shares.get("model-b", 0) <= 5 for shares in rollout.kserve.history)
    assert rollout.strategy().read().candidate is None


@CANARIES
def test_the_queries_are_about_the_pods_of_the_candidate(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.promoted("model-b")
    pods = "stablerep-canary-predictor-.*" if rollout.backend == "standard_canary" else "stablerep-predictor-00002-.*"
    assert rollout.prometheus.queries
    assert all(f'namespace="stablerep",pod=~"{pods}"' in query for query in rollout.prometheus.queries)


def test_an_encoder_that_does_not_get_ready_is_explained_and_the_old_one_serves(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.kserve.broken.add("model-b")
    rollout.ready_timeout_seconds = 0.1
    rollout.kserve.history.clear()
    with pytest.raises(LaunchError, match=r"with model-b was not ready after 0 s; what was served before still is") as caught:
        rollout.deploy("model-b")
    for words in ("PredictorReady=False (RevisionFailed: container exited)", "kserve-container waiting: CrashLoopBackOff", "exit code 4"):
        assert words in str(caught.value)
    assert "event: BackOff: Warning: restarting" in str(caught.value)
    assert "Normal: restarting" not in str(caught.value)
    assert all(shares == {"model-a": 100} for shares in rollout.kserve.history)
    rollout.ready_timeout_seconds = 3.0
    rollout.promoted("model-c")
    assert rollout.kserve.shares() == {"model-c": 100}


def test_pods_that_take_their_time_are_waited_for(rollout: Rollout) -> None:
    rollout.kserve.start_seconds = 0.15
    rollout.promoted("model-a")
    rollout.kserve.history.clear()
    rollout.promoted("model-b")
    history = rollout.kserve.history
    assert all(sum(shares.values()) == 100 and set(shares) <= {"model-a", "model-b"} for shares in history)
    everything = history.index({"model-b": 100})
    assert history[everything:] == [{"model-b": 100}], "the new encoder had all of the traffic and lost some again"


def test_a_slow_controller_is_not_believed(rollout: Rollout) -> None:
    rollout.kserve.lag_seconds = 0.1
    rollout.promoted("model-a")
    rollout.promoted("model-b")
    rollout.kserve.history.clear()
    rollout.deploy("model-c")
    assert rollout.kserve.shares() == {"model-b": 100}
    rollout.verify("model-c")
    assert all(set(shares) <= {"model-b", "model-c"} for shares in rollout.kserve.history)


def test_a_roll_back_is_complete_before_the_next_deployment(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.promoted("model-b")
    rollout.kserve.lag_seconds = 0.1
    rollout.kserve.wrong.add("model-b")
    with pytest.raises(GateError, match="serves model-a again"):
        rollout.verify("model-b")
    rollout.kserve.history.clear()
    rollout.deploy("model-c")
    assert rollout.kserve.shares() == {"model-a": 100}
    assert all(shares == {"model-a": 100} for shares in rollout.kserve.history)


@CANARIES
def test_the_same_model_in_other_pods_is_rolled_out_too(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.kserve.lag_seconds = rollout.kserve.start_seconds = 0.1
    rollout.service = replace(rollout.service, max_batch=8)
    rollout.deploy("model-a")
    expected = {"knative_canary": (2, "stablerep-predictor-00002"), "standard_canary": (1, "stablerep-canary-predictor-00001")}
    found = rollout.kserve.ready_revisions("stablerep" if rollout.backend == "knative_canary" else "stablerep-canary")
    assert found == expected[rollout.backend], "the pods of before were taken for the new ones"
    rollout.verify("model-a")
    document = rollout.kserve.cluster.get(INFERENCE_SERVICE, "stablerep")
    assert document is not None
    assert "--max-batch=8" in document["spec"]["predictor"]["model"]["args"]


@pytest.mark.parametrize("rollout", ["standard_canary"], indirect=True)
def test_the_stable_pods_change_only_while_the_canary_serves_everything(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    steps: list[str] = []

    def note(event: str, document: Document) -> None:
        if document["metadata"]["name"] == "stablerep" and release_of(document).model_id == "model-b":
            steps.append((rollout.kserve.cluster.get(HTTP_ROUTE, "stablerep-traffic") or {})["metadata"]["annotations"][ROLLOUT_STEP])

    rollout.kserve.cluster.on_change(INFERENCE_SERVICE, note)
    rollout.promoted("model-b")
    assert steps
    assert set(steps) == {"100"}


@pytest.mark.parametrize("rollout", ["blue_green"], indirect=True)
def test_a_colour_that_is_down_is_not_switched_to(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.promoted("model-b")
    service = rollout.kserve.cluster.get(SERVICE, "stablerep")
    assert service is not None
    assert service["metadata"]["annotations"]["stablerep.dev/live"] == "stablerep-green"
    assert "stablerep.dev/candidate" not in service["metadata"]["annotations"]
    rollout.kserve.server("stablerep-blue").model_id = ""
    rollout.kserve.wrong.add("model-b")
    rollout.ready_timeout_seconds = 0.1
    with pytest.raises(LaunchError, match="stablerep-blue with model-a was not ready"):
        rollout.verify("model-b")
    assert rollout.kserve.shares() == {"model-b": 100}


def test_a_roll_back_with_slow_pods_never_sends_traffic_to_the_bad_encoder(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.kserve.start_seconds = 0.15
    rollout.deploy("model-b")
    rollout.kserve.wrong.add("model-b")
    rollout.kserve.history.clear()
    with pytest.raises(GateError, match="serves model-a again"):
        rollout.verify("model-b")
    assert all(shares == {"model-a": 100} for shares in rollout.kserve.history)


def test_an_encoder_that_went_wrong_after_its_promotion_goes_back_to_the_one_before(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.promoted("model-b")
    rollout.kserve.wrong.add("model-b")
    with pytest.raises(GateError, match=r"model-b failed while it was served: golden .* serves model-a again"):
        rollout.verify("model-b")
    assert rollout.kserve.shares() == {"model-a": 100}
    rollout.kserve.wrong.add("model-a")
    with pytest.raises(GateError, match="still serves it, because nothing is kept to fall back to"):
        rollout.verify("model-a")
    assert rollout.kserve.shares() == {"model-a": 100}


def test_another_deployment_in_between_is_noticed(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.deploy("model-b")
    rollout.deploy("model-c")
    with pytest.raises(GateError, match="expected model-b as this recipe deploys it, but it serves model-a, has the candidate model-c"):
        rollout.verify("model-b")
    assert rollout.kserve.shares() == {"model-a": 100}
    rollout.deploy("model-a")  # back to what is served: the candidate goes
    assert rollout.strategy().read().candidate is None
    assert rollout.kserve.shares() == {"model-a": 100}


def test_a_deployment_that_was_overtaken_while_it_waits_says_so(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.kserve.broken.add("model-b")
    later = threading.Timer(0.2, lambda: rollout.strategy().launch(rollout.release("model-c")))
    later.start()
    with pytest.raises(LaunchError, match="expected model-b, found model-c; another deployment has changed it; deploy again"):
        rollout.deploy("model-b")
    later.join()
    assert rollout.kserve.shares() == {"model-a": 100}


@pytest.mark.parametrize("rollout", ["standard_canary"], indirect=True)
def test_a_canary_that_is_still_being_deleted_is_waited_for(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    cluster = rollout.kserve.cluster
    cluster.keeps_deleted = True
    rollout.promoted("model-b")
    assert rollout.strategy().read().candidate is None
    rollout.ready_timeout_seconds = 0.05
    with pytest.raises(LaunchError, match=r"stablerep-canary is still being deleted after 0 s \(finalizers: foregroundDeletion\)"):
        rollout.deploy("model-c")
    rollout.ready_timeout_seconds = 3.0
    threading.Timer(0.1, lambda: cluster.remove(INFERENCE_SERVICE, "stablerep-canary")).start()
    rollout.deploy("model-c")
    assert rollout.kserve.shares() == {"model-b": 100}
    assert rollout.strategy().read().candidate == rollout.release("model-c")


NOT_ALLOWED: Document = {"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners", "message": "namespace not allowed"}
NO_BACKEND: Document = {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound"}
ACCEPTED, RESOLVED = ROUTE_TAKEN
GATEWAYS = [
    ((NOT_ALLOWED, RESOLVED), r"Accepted=False \(NotAllowedByListeners: namespace not allowed\)"),
    ((ACCEPTED, NO_BACKEND), r"ResolvedRefs=False \(BackendNotFound\)"),
    ((ACCEPTED,), "ResolvedRefs=Unknown"),
    ((), "no Gateway has answered: is it there"),
]


@pytest.mark.parametrize("rollout", ["standard_canary"], indirect=True)
@pytest.mark.parametrize(("says", "words"), GATEWAYS)
def test_a_first_encoder_is_not_promoted_without_its_gateway(rollout: Rollout, says: tuple[Document, ...], words: str) -> None:
    rollout.deploy("model-a")
    rollout.kserve.gateway, rollout.ready_timeout_seconds = says, 0.1
    message = rf"stablerep-traffic: not taken by Gateway gateways/public after 0 s: {words}.*; model-a is not promoted .* nothing is served"
    with pytest.raises(LaunchError, match=message):
        rollout.verify("model-a")
    assert rollout.kserve.shares() == {}
    assert rollout.strategy().read() == RolloutState(None, rollout.release("model-a"))
    rollout.kserve.gateway, rollout.ready_timeout_seconds = ROUTE_TAKEN, 3.0
    rollout.verify("model-a")
    assert rollout.kserve.shares() == {"model-a": 100}


@pytest.mark.parametrize("rollout", ["standard_canary"], indirect=True)
@pytest.mark.parametrize("steps", [(5, 50), ()], ids=["steps", "at once"])
@pytest.mark.parametrize(("says", "words"), GATEWAYS[:2])
def test_a_step_that_the_gateway_refuses_is_taken_back(
    rollout: Rollout, steps: tuple[int, ...], says: tuple[Document, ...], words: str
) -> None:
    rollout.promoted("model-a")
    rollout.deploy("model-b")
    rollout.steps, rollout.kserve.gateway, rollout.ready_timeout_seconds = steps, says, 0.1
    with pytest.raises(LaunchError, match=rf"{words}.*; model-b is not promoted and stays dark, model-a has all of the traffic"):
        rollout.verify("model-b")
    assert rollout.seen == []
    assert rollout.kserve.shares() == {"model-a": 100}
    assert rollout.strategy().read() == RolloutState(rollout.release("model-a"), rollout.release("model-b"), 0)
    rollout.kserve.gateway, rollout.ready_timeout_seconds = ROUTE_TAKEN, 3.0
    rollout.verify("model-b")
    assert rollout.kserve.shares() == {"model-b": 100}


@pytest.mark.parametrize("rollout", ["standard_canary"], indirect=True)
def test_a_slow_gateway_is_waited_for_at_every_move(rollout: Rollout) -> None:
    rollout.kserve.gateway_lag_seconds = 0.1
    rollout.promoted("model-a")
    taken: list[str] = []

    def note(event: str, document: Document) -> None:
        route = rollout.kserve.cluster.get(HTTP_ROUTE, "stablerep-traffic") or {}
        if event in ("ADDED", "DELETED") or document["metadata"]["name"] == "stablerep":
            taken.append(route_problem(route))

    rollout.kserve.cluster.on_change(INFERENCE_SERVICE, note)
    rollout.promoted("model-b")
    assert len(taken) >= 3, "the canary came, the stable one changed, the canary went"
    assert set(taken) == {""}
    assert rollout.kserve.shares() == {"model-b": 100}


@pytest.mark.parametrize("rollout", ["standard_canary"], indirect=True)
def test_pods_that_may_still_get_traffic_are_not_deleted(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.deploy("model-b")
    rollout.strategy().set_percent(50)
    rollout.kserve.gateway, rollout.ready_timeout_seconds = (), 0.1
    for move in (rollout.strategy().withdraw, lambda: rollout.strategy().launch(rollout.release("model-c"))):
        with pytest.raises(LaunchError, match="Accepted is of an earlier state of the route"):
            move()
        canary = rollout.kserve.cluster.get(INFERENCE_SERVICE, "stablerep-canary")
        assert canary is not None
        assert release_of(canary).model_id == "model-b"


@pytest.mark.parametrize("rollout", ["standard_canary"], indirect=True)
def test_a_route_that_somebody_deletes_is_missed(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.kserve.cluster.remove(HTTP_ROUTE, "stablerep-traffic")
    rollout.ready_timeout_seconds = 0.1
    with pytest.raises(LaunchError, match=r"stablerep-traffic: not taken by .*: it is gone;"):
        rollout.strategy().wait_served(rollout.release("model-a"))


@CANARIES
def test_a_candidate_with_traffic_is_replaced_dark(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.deploy("model-b")
    rollout.strategy().set_percent(50)
    assert rollout.kserve.shares() == {"model-a": 50, "model-b": 50}
    rollout.deploy("model-c")
    assert rollout.kserve.shares() == {"model-a": 100}
    rollout.verify("model-c")
    assert rollout.kserve.shares() == {"model-c": 100}


@CANARIES
def test_a_task_that_was_killed_in_a_step_goes_on_with_it(rollout: Rollout) -> None:
    rollout.promoted("model-a")
    rollout.deploy("model-b")

    def die_at_50(_: object, percent: int) -> str:
        if percent == 50:
            raise Killed
        return ""

    with pytest.raises(Killed):
        rollout.verify("model-b", die_at_50)
    assert rollout.kserve.shares() == {"model-a": 50, "model-b": 50}
    rollout.verify("model-b")
    assert [percent for percent, _ in rollout.seen] == [50]
    assert rollout.kserve.shares() == {"model-b": 100}


@pytest.mark.parametrize("is_done_first", [False, True], ids=["before", "after"])
def test_killed_at_every_change_and_started_again(rollout: Rollout, is_done_first: bool) -> None:
    rollout.step_seconds = 0.01
    rollout.promoted("model-0")
    rollout.api.is_done_first = is_done_first
    for number in range(1, 20):
        old, new = f"model-{number - 1}", f"model-{number}"
        rollout.kserve.history.clear()
        rollout.api.num_changes, rollout.api.dies_at = 0, number
        try:
            rollout.promoted(new)
        except Killed:
            assert all(sum(shares.values()) == 100 and set(shares) <= {old, new} for shares in rollout.kserve.history)
            rollout.promoted(new)
        assert all(sum(shares.values()) == 100 and set(shares) <= {old, new} for shares in rollout.kserve.history), number
        assert rollout.kserve.shares() == {new: 100}
        state = rollout.strategy().read()
        assert (state.served, state.candidate) == (rollout.release(new), None)
        if rollout.backend != "blue_green":
            assert previous_of(rollout.kserve.cluster.get(INFERENCE_SERVICE, "stablerep")) == rollout.release(old), number
        if rollout.api.num_changes < number:
            break
    assert number > 2, "nothing was interrupted"
    assert rollout.api.num_changes < number, "some change was not interrupted"


@pytest.mark.parametrize("is_done_first", [False, True], ids=["before", "after"])
def test_killed_at_every_change_of_a_roll_back(rollout: Rollout, is_done_first: bool) -> None:
    rollout.promoted("model-0")
    rollout.api.is_done_first = is_done_first
    for number in range(1, 20):
        bad = f"model-{number}"
        rollout.deploy(bad)
        rollout.kserve.wrong.add(bad)
        rollout.kserve.history.clear()
        rollout.api.num_changes, rollout.api.dies_at = 0, number
        with pytest.raises((Killed, GateError)):
            rollout.verify(bad)
        num_changes, rollout.api.dies_at = rollout.api.num_changes, -1
        with pytest.raises(GateError):  # golden embeddings differ, or it was withdrawn already
            rollout.verify(bad)
        assert all(shares == {"model-0": 100} for shares in rollout.kserve.history), number
        assert rollout.kserve.shares() == {"model-0": 100}
        if num_changes < number:
            break
    assert 1 < number < 19
    rollout.promoted("model-last")
    assert rollout.kserve.shares() == {"model-last": 100}
