"""The judge's questions, its patience, and what it makes of answers that are none."""

import re

import pytest
from fake_prometheus import FakePrometheus

from stablerep.endpoint.judge import ERROR_RATIO, NUM_REQUESTS, P99_SECONDS, Allowed, Judge, Prometheus
from stablerep.errors import LaunchError
from stablerep.telemetry import METRICS

PODS = "stablerep-canary-predictor-.*"


def _judge(prometheus: FakePrometheus) -> Judge:
    return Judge(Prometheus(prometheus.url), "team-a", Allowed(error_ratio=0.01, p99_seconds=0.5))


def _right() -> str:
    return ""


def test_queries_name_metrics_and_labels_of_the_server() -> None:
    for query in (NUM_REQUESTS, ERROR_RATIO, P99_SECONDS):
        names = set(re.findall(r"stablerep_[a-z0-9_]+", query))
        assert {name.removesuffix("_bucket") for name in names} <= set(METRICS)
        labels = set(re.findall(r"[{,]([a-z]+)=", query))
        assert {"namespace", "pod"} <= labels <= {"namespace", "pod", "code"}
    assert "code" in METRICS["stablerep_endpoint_requests_total"].labels
    assert METRICS["stablerep_endpoint_request_seconds"].kind == "histogram"


def test_queries_as_prometheus_gets_them(fake_prometheus: FakePrometheus) -> None:
    assert _judge(fake_prometheus).watch(PODS, 0.05, _right) == ""
    pods = 'namespace="team-a",pod=~"stablerep-canary-predictor-.*"'
    series = f"stablerep_endpoint_request_seconds_bucket{{{pods}}}"
    expected = f"histogram_quantile(0.99, sum by (le) ((clamp_min({series} - {series} offset 50ms, 0) or {series})))"
    assert fake_prometheus.queries[-1] == expected
    faults = "5..|UNKNOWN|INTERNAL|UNAVAILABLE|UNIMPLEMENTED|DATA_LOSS|DEADLINE_EXCEEDED|ABORTED"
    faulty, every = (f"stablerep_endpoint_requests_total{{{pods}{more}}}" for more in (f',code=~"{faults}"', ""))
    since = [f"sum((clamp_min({series} - {series} offset 50ms, 0) or {series}))" for series in (faulty, every)]
    assert fake_prometheus.queries[-3:-1] == [since[1], f"({since[0]} or vector(0)) / {since[1]}"]


def test_limits_are_reached_and_not_passed(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.error_ratio, fake_prometheus.p99_seconds = "0.01", "0.5"
    assert _judge(fake_prometheus).watch(PODS, 0.02, _right) == ""
    fake_prometheus.error_ratio = "0.0101"
    found = _judge(fake_prometheus).watch(PODS, 0.02, _right)
    assert found.startswith(
        "error ratio 0.0101 of 100 requests in 0 s, allowed 0.01; query: (sum((clamp_min(stablerep_endpoint_requests_total"
    )


def test_a_bad_step_ends_early_where_there_are_enough_requests(fake_prometheus: FakePrometheus) -> None:
    asked: list[int] = []
    fake_prometheus.p99_seconds = "+Inf"
    found = _judge(fake_prometheus).watch(PODS, 4.0, lambda: asked.append(1) or "" if len(asked) < 8 else "too late")
    assert found.startswith("p99 inf s of 100 requests in 1 s")


def test_a_wrong_answer_ends_the_step_at_once(fake_prometheus: FakePrometheus) -> None:
    assert _judge(fake_prometheus).watch(PODS, 30.0, lambda: "a golden embedding differs") == "a golden embedding differs"
    assert fake_prometheus.queries == []


def test_few_requests_are_judged_at_the_end_only(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.num_requests, fake_prometheus.error_ratio = "19", "0.5"
    assert _judge(fake_prometheus).watch(PODS, 0.2, _right).startswith("error ratio 0.5 of 19 requests")
    assert len([query for query in fake_prometheus.queries if "/" in query]) == 1


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"num_requests": None}, "Prometheus has no data about requests of the last 0 s: does it scrape the pods? query: sum("),
        ({"num_requests": "0"}, "Prometheus has no data about requests"),
        ({"error_ratio": "NaN"}, "Prometheus has no data about error ratio"),
        ({"p99_seconds": None}, "Prometheus has no data about p99"),
    ],
)
def test_no_data_is_no_good_news(fake_prometheus: FakePrometheus, answers: dict[str, str | None], expected: str) -> None:
    for name, number in answers.items():
        setattr(fake_prometheus, name, number)
    assert _judge(fake_prometheus).watch(PODS, 0.02, _right).startswith(expected)


def test_a_prometheus_that_stumbles_is_asked_again(fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.errors = [503, 500]
    assert Prometheus(fake_prometheus.url).value("sum(x)") == 100.0
    fake_prometheus.errors = [400]
    with pytest.raises(LaunchError, match=r"answered 400: .*parse error"):
        Prometheus(fake_prometheus.url).value("sum(x")
    fake_prometheus.errors = [503] * 3
    with pytest.raises(LaunchError, match="answered 503"):
        Prometheus(fake_prometheus.url).value("sum(x)")


def test_a_prometheus_out_of_reach_fails_the_step(fake_prometheus: FakePrometheus) -> None:
    judge = Judge(Prometheus("http://127.0.0.1:1", num_tries=1), "team-a", Allowed(0.01, 0.5))
    assert re.match(r"Prometheus at http://127.0.0.1:1 gave no answer \(.*refused", judge.watch(PODS, 0.02, _right))


def test_several_series_are_a_mistake_in_the_query() -> None:
    from stablerep.endpoint.judge import _number

    with pytest.raises(LaunchError, match="expected one number from Prometheus, found 2 series; query: x"):
        _number([{"value": ["0", "1"]}, {"value": ["0", "2"]}], "x")
