import pytest

from manifests.monitoring.promql import Selector, selectors


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("up", [Selector("up")]),
        ("sum by (job, le) (rate(a_total[5m]))", [Selector("a_total")]),
        ('sum(rate(a_total{b=~"5..|C", x!="b"}[5m])) by (job)', [Selector("a_total", (("b", "=~", "5..|C"), ("x", "!=", "b")))]),
        ("sum without (pod) (a)", [Selector("a")]),
        ("a offset 5m + on (pod) group_left (node) b unless c", [Selector("a"), Selector("b"), Selector("c")]),
        ('label_replace(a{b="c_total"}, "d", "$1", "e", "(.+)")', [Selector("a", (("b", "=", "c_total"),))]),
        ("a:b:rate5m > 14.4 * 0.001 and 1e3 < 2h30m", [Selector("a:b:rate5m")]),
        ("time() - max(a) > bool 0 # b", [Selector("a")]),
        ("histogram_quantile(0.99, sum by (le) (rate(a_bucket[$__rate_interval])))", [Selector("a_bucket")]),
    ],
)  # fmt: skip
def test_metrics_and_matchers_are_found(expression: str, expected: list[Selector]) -> None:
    assert selectors(expression) == expected


def test_what_is_no_promql_is_refused() -> None:
    with pytest.raises(ValueError, match="expected PromQL, found '\\$x' at 4"):
        selectors("a + $x")
