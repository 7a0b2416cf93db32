"""Who may ask, and how much at once: bearer tokens, requests in flight per client, bytes of bodies held by all.

Tokens are compared in constant time. What a probe or Prometheus asks needs none.
"""

import hmac
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stablerep.errors import ConfigError, NotReadyError, TooManyRequestsError, UnauthorisedError

TOKEN_VARIABLE = "STABLEREP_ENDPOINT_TOKEN"  # of servers and of those who ask them
_SHORTEST_TOKEN = 16


class Access:
    """The tokens of a server; any of them opens it, so that one can replace another.

    Args:
        tokens: none: everybody may ask.

    Raises:
        ConfigError: a token is too short to be a secret.
    """

    def __init__(self, tokens: Sequence[str] = ()) -> None:
        if any(len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() for token in tokens):
            raise ConfigError(f"bearer token: expected {_SHORTEST_TOKEN} or more ASCII characters, found others; make a longer one")
        self._tokens = [token.encode("ascii") for token in tokens]

    def check(self, authorization: bytes | str | None) -> None:
        """Check the header `Authorization` of a request.

        Raises:
            UnauthorisedError: there are tokens, and this is none of them.
        """
        if not self._tokens:
            return
        value = authorization.encode("utf-8", "replace") if isinstance(authorization, str) else authorization or b""
        scheme, _, given = value.partition(b" ")
        matches = [hmac.compare_digest(given.strip(), token) for token in self._tokens]  # all of them: no early end
        if scheme.lower() != b"bearer" or not any(matches):
            raise UnauthorisedError("expected the header `Authorization: Bearer <token of this server>`, found none or another token")


def read_tokens(path: str, variable: str) -> list[str]:
    """Tokens of a server.

    Args:
        path: of a file with one token a line, e.g. a mounted Secret; empty: none.
        variable: value of the environment variable that may hold one; empty: none.

    Raises:
        ConfigError: the file cannot be read or has no token.
    """
    tokens = [variable.strip()] if variable.strip() else []
    if path:
        try:
            lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file {path}: expected a readable text file with one token a line: {error}") from error
        if not any(lines):
            raise ConfigError(f"--token-file {path}: expected a token, found an empty file")
        tokens += [line for line in lines if line]
    return tokens


class Shares:
    """What requests hold while they are answered: a place of their client, and the bytes of their body.

    Args:
        max_per_client: requests of one address in flight; 0: any number.
        max_bytes: bodies of all requests together.
    """

    def __init__(self, max_per_client: int, max_bytes: int) -> None:
        self._max_per_client, self._max_bytes = max_per_client, max_bytes
        self._num_of_client: Counter[str] = Counter()
        self._num_bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def place(self, client: str) -> Generator[None]:
        """Hold one place of a client.

        Raises:
            TooManyRequestsError: it has none left.
        """
        with self._lock:
            if self._max_per_client and self._num_of_client[client] >= self._max_per_client:
                raise TooManyRequestsError(
                    f"expected at most {self._max_per_client} requests of one client at once, found more; wait for an answer"
                )
            self._num_of_client[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_of_client[client] -= 1
                if not self._num_of_client[client]:
                    del self._num_of_client[client]

    def take(self, num_bytes: int) -> None:
        """Hold bytes of a body; give them back with `give`.

        Raises:
            NotReadyError: all requests together hold too many.
        """
        with self._lock:
            if self._num_bytes + num_bytes > self._max_bytes:
                raise NotReadyError(f"requests hold {self._num_bytes} bytes and at most {self._max_bytes} may; send it again in a moment")
            self._num_bytes += num_bytes

    def give(self, num_bytes: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._num_bytes -= num_bytes
