"""Which metrics and labels a PromQL expression names: enough of a lexer for that, since promtool checks the rest.

A name is a metric when it is no function or aggregation (a parenthesis, by or without follows), no keyword, and no label (inside
braces, or in the list after by, on...).
https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)|(?P<range>\[[^\]]*\])"""
    r"""|(?P<number>0x[0-9a-fA-F]+|(?:\d+(?:ms|[smhdwy]))+|\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)"""
    r"""|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<operator>=~|!~|==|!=|<=|>=|[-+*/%^=<>(){},@])|(?P<space>\s+)""",
)
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"}
_LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}


@dataclass(frozen=True)
class Selector:
    """A metric with its matchers `(label, operator, value)`."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()


def selectors(expression: str) -> list[Selector]:
    """Every selector of an expression, in order.

    Raises:
        ValueError: a character that belongs to no token.
    """
    tokens = list(_tokens(expression))
    found: list[Selector] = []
    i = 0
    while i < len(tokens):
        kind, text = tokens[i]
        following = tokens[i + 1][1] if i + 1 < len(tokens) else ""
        if kind == "name" and text.lower() in _LABEL_LISTS:
            i = _closing(tokens, i + 1, ")") if following == "(" else i
        elif kind == "name" and text.lower() not in _KEYWORDS and following not in ("(", "by", "without"):
            end = _closing(tokens, i + 1, "}") if following == "{" else i
            found.append(Selector(text, tuple(_matchers(tokens[i + 2 : end]))))
            i = end
        i += 1
    return found


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise ValueError(f"expected PromQL, found {expression[position : position + 20]!r} at {position} of {expression!r}")
        position = match.end()
        if match.lastgroup not in ("space", "comment"):
            yield str(match.lastgroup), match[0]


def _closing(tokens: list[tuple[str, str]], start: int, bracket: str) -> int:
    return next(i for i in range(start, len(tokens)) if tokens[i][1] == bracket)


def _matchers(tokens: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for (kind, name), (_, operator), (_, value) in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if kind == "name" and operator in ("=", "=~", "!=", "!~"):
            yield name, operator, value[1:-1].replace("\\\\", "\\")
