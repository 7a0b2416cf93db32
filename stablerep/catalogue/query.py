"""A small language for choosing groups by their facts: `agreement < 0.2 and not caption contains "dog" as of run quickstart-...`.

    query       := condition ["as of" ("run" NAME | TIME)]
    condition   := and ("or" and)*        and := not ("and" not)*        not := "not" not | "(" condition ")" | comparison
    comparison  := NAME ("<" | "<=" | ">" | ">=" | "=" | "!=") VALUE | NAME "contains" TEXT | NAME "in" "(" VALUE, ... ")"
                 | NAME "is" ["not"] "missing"

Nothing is evaluated by Python. A comparison with a missing value is neither true nor false, as in SQL, and a group is chosen only where
the whole condition is true.
"""

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from stablerep.errors import ConfigError
from stablerep.typed import suggestion

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<text>"[^"]*"|'[^']*')|(?P<name>[A-Za-z_][\w.]*)"""
    r"""|(?P<sign><=|>=|!=|==|=|<|>|\(|\)|,))"""
)
_AS_OF = re.compile(r"(?:^|\s)as\s+of\s+(?:(?P<run>run\s+)(?P<key>[\w.-]+)|(?P<time>\S+))\s*$", re.IGNORECASE)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_MAX_DEPTH = 50
Row = Mapping[str, Any]
Test = Callable[[Row], bool | None]


@dataclass(frozen=True)
class Query:
    """A parsed query: its condition, the names in it, and the moment it is about (`run` or `time`, both empty for now)."""

    text: str
    test: Test
    names: frozenset[str]
    run: str = ""
    time: str = ""

    def matches(self, row: Row) -> bool:
        """Whether the condition is true of a row.

        Raises:
            ConfigError: a number is compared with a text.
        """
        return self.test(row) is True

    def check_names(self, known: Collection[str]) -> None:
        """Refuse names that no row has.

        Raises:
            ConfigError: names the closest that is known, or all of them.
        """
        for name in sorted(self.names - set(known)):
            raise ConfigError(f"query {self.text!r}: no group has {name!r}{suggestion(name, set(known))}")


def parse_query(text: str) -> Query:
    """Parse a query.

    Raises:
        ConfigError: says where it stopped being a query.
    """
    found = _AS_OF.search(text)
    condition = text[: found.start()] if found else text
    parser = _Parser(text, _tokens(text, condition))
    test = parser.condition()
    parser.expect_end()
    run, time = (found["key"] or "", found["time"] or "") if found else ("", "")
    return Query(text, test, frozenset(parser.names), run, time)


def _tokens(text: str, condition: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    place, condition = 0, condition.rstrip()
    while place < len(condition):
        match = _TOKEN.match(condition, place)
        if match is None:
            raise ConfigError(f"query {text!r}: expected a name, a number, a text in quotes or a sign, found {condition[place:].strip()!r}")
        tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
        place = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str, tokens: list[tuple[str, str]]) -> None:
        self._text, self._tokens, self._place, self._depth = text, tokens, 0, 0
        self.names = set[str]()

    def condition(self) -> Test:
        tests = [self._and()]
        while self._takes("or"):
            tests.append(self._and())
        return tests[0] if len(tests) == 1 else lambda row: _any(test(row) for test in tests)

    def expect_end(self) -> None:
        if self._place < len(self._tokens):
            raise self._error("the end, 'and', 'or' or 'as of'")

    def _and(self) -> Test:
        tests = [self._not()]
        while self._takes("and"):
            tests.append(self._not())
        return tests[0] if len(tests) == 1 else lambda row: _all(test(row) for test in tests)

    def _not(self) -> Test:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ConfigError(f"query {self._text[:60]!r}...: expected at most {_MAX_DEPTH} conditions inside each other")
        try:
            if self._takes("not"):
                inner = self._not()
                return lambda row: None if (found := inner(row)) is None else not found
            if self._takes("("):
                inner = self.condition()
                self._expect(")")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Test:
        kind, name = self._peek()
        if kind != "name":
            raise self._error("the name of a fact or score")
        self._place += 1
        self.names.add(name)
        if self._takes("is"):
            is_negated = self._takes("not")
            self._expect("missing")
            return lambda row: (row.get(name) is None) != is_negated
        if self._takes("contains"):
            part = self._value()
            return lambda row: None if row.get(name) is None else str(part) in str(row[name])
        if self._takes("in"):
            return self._membership(name)
        kind, sign = self._peek()
        if sign not in _COMPARE:
            raise self._error("one of < <= > >= = != in contains is")
        self._place += 1
        value = self._value()
        return lambda row: self._compare(sign, name, row.get(name), value)

    def _membership(self, name: str) -> Test:
        self._expect("(")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
        self._expect(")")
        return lambda row: _any(self._compare("=", name, row.get(name), value) for value in values)

    def _compare(self, sign: str, name: str, found: Any, value: Any) -> bool | None:
        if found is None:
            return None
        if isinstance(found, str) != isinstance(value, str):
            kinds = ("a text", "a number") if isinstance(found, str) else ("a number", "a text")
            raise ConfigError(f"query {self._text!r}: {name} is {kinds[0]}, as {found!r}; it is compared with {kinds[1]}, {value!r}")
        return _COMPARE[sign](found, value)

    def _value(self) -> float | str:
        kind, token = self._peek()
        if kind not in ("number", "text"):
            raise self._error("a number or a text in quotes")
        self._place += 1
        return float(token) if kind == "number" else token[1:-1]

    def _takes(self, word: str) -> bool:
        kind, token = self._peek()
        if kind in ("name", "sign") and token.lower() == word:
            self._place += 1
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._takes(word):
            raise self._error(repr(word))

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._place] if self._place < len(self._tokens) else ("end", "")

    def _error(self, expected: str) -> ConfigError:
        found = repr(self._peek()[1]) if self._place < len(self._tokens) else "the end"
        example = "for instance: agreement < 0.2 as of run quickstart-..."
        return ConfigError(f"query {self._text!r}: expected {expected}, found {found}; {example}")


def _any(values: Any) -> bool | None:
    found = list(values)
    return True if True in found else (None if None in found else False)


def _all(values: Any) -> bool | None:
    found = list(values)
    return False if False in found else (None if None in found else True)
