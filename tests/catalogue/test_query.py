"""The language of `stablerep curate`: what it chooses, what it refuses, and that nothing is evaluated."""

import random
from typing import Any

import pytest

from stablerep.catalogue.query import parse_query
from stablerep.errors import ConfigError

ROWS: list[dict[str, Any]] = [
    {"group_id": "a", "agreement": 0.1, "num_images": 6, "caption": "a red bus"},
    {"group_id": "b", "agreement": 0.2, "num_images": 4, "caption": "a 'blue' dog"},
    {"group_id": "c", "agreement": None, "num_images": 6, "caption": "a cat"},
    {"group_id": "d", "agreement": 0.9, "num_images": 2, "caption": "A red car"},
]


def chosen(text: str) -> str:
    query = parse_query(text)
    return "".join(row["group_id"] for row in ROWS if query.matches(row))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("agreement < 0.2", "a"),
        ("agreement <= .2", "ab"),
        ("agreement > 2e-1", "d"),
        ("agreement >= 0.2", "bd"),
        ("agreement = 0.9", "d"),
        ("agreement != 0.9", "ab"),
        ("not agreement < 0.2", "bd"),  # what is missing is neither below nor not below
        ("agreement is missing", "c"),
        ("agreement is not missing", "abd"),
        ("agreement < 0.5 and num_images = 6", "a"),
        ("agreement < 0.2 or num_images < 3 and caption contains 'car'", "ad"),
        ("(agreement < 0.2 or num_images < 3) and caption contains 'car'", "d"),
        ("agreement < 0.5 or num_images >= 0", "abcd"),  # true wins over missing
        ("agreement < 0.5 and num_images > 100", ""),
        ("not (agreement < 0.5 and num_images > 100)", "abcd"),  # false wins over missing
        ('caption contains "red"', "ad"),
        ("caption contains \"'blue'\"", "b"),
        ("group_id in ('a', 'd')", "ad"),
        ("num_images in (2, 4)", "bd"),
        ("not num_images in (2, 4)", "ac"),
        ("AGREEMENT is missing", "abcd"),  # names are as they are; this one nobody has
        ("not not agreement < 0.2", "a"),
    ],
)
def test_what_is_chosen(text: str, expected: str) -> None:
    assert chosen(text) == expected


def test_as_of_a_run_or_a_moment() -> None:
    found = parse_query("agreement < 0.2 as of run quickstart-0123456789abcdef")
    assert (found.run, found.time, found.names) == ("quickstart-0123456789abcdef", "", {"agreement"})
    assert parse_query("agreement < 0.2 as of 2026-11-23T05:40:00+00:00").time == "2026-11-23T05:40:00+00:00"
    assert parse_query("agreement < 0.2").run == parse_query("agreement < 0.2").time == ""
    assert parse_query("caption contains 'as of run x'").run == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of a fact or score, found the end"),
        ("agreement", "expected one of < <= .* found the end"),
        ("agreement < ", "expected a number or a text in quotes, found the end"),
        ("agreement < low", "expected a number or a text in quotes, found 'low'"),
        ("agreement < 0.2 0.3", "expected the end, 'and', 'or' or 'as of', found '0.3'"),
        ("(agreement < 0.2", r"expected '\)', found the end"),
        ("0.2 > agreement", "expected the name of a fact or score, found '0.2'"),
        ("agreement is null", "expected 'missing', found 'null'"),
        ("agreement < 0.2; drop", "expected a name, a number, a text in quotes or a sign, found '; drop'"),
        ("__import__('os').system('x')", "expected a name, a number, a text in quotes or a sign, found"),
        ("(" * 60 + "agreement < 1" + ")" * 60, "expected at most 50 conditions inside each other"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_query(text)


def test_a_number_is_not_a_text() -> None:
    with pytest.raises(ConfigError, match=r"agreement is a number, as 0\.1; it is compared with a text, 'low'"):
        chosen("agreement < 'low'")
    with pytest.raises(ConfigError, match="caption is a text, as 'a red bus'; it is compared with a number"):
        chosen("caption < 3")


def test_unknown_names_are_named() -> None:
    with pytest.raises(ConfigError, match="no group has 'agrement', did you mean 'agreement'"):
        parse_query("agrement < 0.2").check_names({"agreement", "caption"})


def test_any_words_are_a_query_or_refused() -> None:
    chance = random.Random(0)
    signs = ["<", ">=", "=", "(", ")", ",", "and", "or", "not", "in", "is", "missing", "as of", "run"]
    words = ["agreement", "caption", "0.2", "'x'", "é", "{}", "\\", *signs]
    refused = 0
    for _ in range(2000):
        text = " ".join(chance.choices(words, k=chance.randrange(12)))
        try:
            query = parse_query(text)
            assert query.names
        except ConfigError:
            refused += 1
    assert 1000 < refused < 2000
