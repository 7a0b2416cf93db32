from pathlib import Path

import pytest

from stablerep.endpoint.access import Access, Shares, read_tokens
from stablerep.errors import ConfigError, NotReadyError, TooManyRequestsError, UnauthorisedError

FIRST, SECOND = "first-token-of-all", "second-token-of-all"


def test_any_of_the_tokens_opens_and_nothing_else_does() -> None:
    access = Access([FIRST, SECOND])
    for token in (FIRST, SECOND):
        access.check(f"Bearer {token}")
        access.check(f"bearer  {token}".encode())
    for given in (
        None,
        "",
        "Bearer",
        f"Basic {FIRST}",
        f"Bearer {FIRST}x",
        f"Bearer {FIRST[:-1]}",
        f"Bearer {FIRST} {SECOND}",
        "Bearer é",
        b"\xff",
    ):
        with pytest.raises(UnauthorisedError, match="expected the header `Authorization: Bearer"):
            access.check(given)


def test_without_tokens_everybody_may_ask() -> None:
    Access().check(None)


@pytest.mark.parametrize("token", ["short", "é" * 20, "with\x00control-characters"])
def test_a_token_that_is_no_secret_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="bearer token: expected 16 or more ASCII characters"):
        Access([token])


def test_tokens_come_from_a_file_and_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{FIRST}\n\n  {SECOND}\n")
    assert read_tokens(str(path), "") == [FIRST, SECOND]
    assert read_tokens("", f" {FIRST}\n") == [FIRST]
    assert read_tokens("", "") == []
    path.write_text("\n")
    with pytest.raises(ConfigError, match="expected a token, found an empty file"):
        read_tokens(str(path), "")
    with pytest.raises(ConfigError, match="expected a readable text file"):
        read_tokens(str(tmp_path / "missing"), FIRST)


def test_a_client_has_its_places_and_takes_nobody_elses() -> None:
    shares = Shares(max_per_client=2, max_bytes=10)
    with shares.place("a"), shares.place("a"):
        with pytest.raises(TooManyRequestsError, match="at most 2 requests of one client"), shares.place("a"):
            pytest.fail("a third one was let in")
        with shares.place("b"):
            pass
    with shares.place("a"):
        pass


def test_bodies_together_hold_at_most_so_many_bytes() -> None:
    shares = Shares(max_per_client=0, max_bytes=10)
    shares.take(6)
    shares.take(4)
    with pytest.raises(NotReadyError, match="requests hold 10 bytes and at most 10 may"):
        shares.take(1)
    shares.give(4)
    shares.take(4)
