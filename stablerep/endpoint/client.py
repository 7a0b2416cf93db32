"""A small HTTP client of a served encoder (KServe V1 and V2 over REST), standard library only.

One connection is kept open and renewed when the server closed it. Answers are returned with their status and never raised, because
what a verification wants to know is which status a bad image gets; only an unreachable server is an error. Who wants arrays and errors
takes `RemoteEncoder` (remote.py).
"""

import base64
import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from stablerep.endpoint.access import TOKEN_VARIABLE
from stablerep.errors import LaunchError
from stablerep.typed import object_in


class Answer(NamedTuple):
    """HTTP status and the decoded JSON object (empty where the body is not one)."""

    status: int
    body: dict[str, Any]


class RawAnswer(NamedTuple):
    """HTTP status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The decoded JSON object, empty where the body is not one."""
        return object_in(self.content)


class EndpointClient:
    """Talks to one model of one server.

    Args:
        host: where the server is.
        port: its REST port.
        name: the model's name in the paths.
        timeout_seconds: for connecting and for every answer.
        prefix: of every path, where a gateway has one.
        token: bearer token, where the server asks for one.
        is_encrypted: https.
    """

    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        timeout_seconds: float = 30.0,
        *,
        prefix: str = "",
        token: str = "",
        is_encrypted: bool = False,
    ) -> None:
        self.name, self._prefix = name, prefix
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        kind = http.client.HTTPSConnection if is_encrypted else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; another thread that waits for an answer is told that there is none."""
        if self._connection.sock is not None:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def is_ready(self) -> bool:
        """Whether the model is loaded and warm; False also when nothing answers."""
        try:
            return self.request("GET", f"/v2/models/{self.name}/ready").status == 200
        except LaunchError:
            return False

    def model_id(self) -> str:
        """The id of the model that answers, empty when there is none of this name.

        Raises:
            LaunchError: as for `request`; also where the server asks for a token that this client has not.
        """
        answer = self.request("GET", f"/v2/models/{self.name}")
        if answer.status == 401:
            found = "another" if self._headers else "none"
            raise LaunchError(f"endpoint {self.name!r}: expected a token that it takes, found {found}; set {TOKEN_VARIABLE}")
        versions = cast("list[str]", answer.body.get("versions") or [""])
        return versions[0] if answer.status == 200 else ""

    def predict(self, images: Sequence[bytes], **parameters: Any) -> Answer:
        """Ask for embeddings over V1.

        Args:
            images: encoded images, as they are in their files.
            parameters: `labels` (list of strings), `templates`, `normalise`.
        """
        instances = [{"b64": base64.b64encode(image).decode("ascii")} for image in images]
        body: dict[str, Any] = {"instances": instances, **({"parameters": parameters} if parameters else {})}
        return self.request("POST", f"/v1/models/{self.name}:predict", body)

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """One request with a JSON body.

        Raises:
            LaunchError: the server cannot be reached or does not answer in time.
        """
        content = None if body is None else json.dumps(body).encode("utf-8")
        answer = self.send(method, path, content, {} if content is None else {"Content-Type": "application/json"})
        return Answer(answer.status, answer.body)

    def send(self, method: str, path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None) -> RawAnswer:
        """One request with a body of any kind.

        Raises:
            LaunchError: as for `request`.
        """
        for is_last in (False, True):
            try:
                self._connection.request(method, self._prefix + path, body=content, headers={**self._headers, **(headers or {})})
                response = self._connection.getresponse()
                found = {name.lower(): value for name, value in response.getheaders()}
                return RawAnswer(response.status, found, response.read())
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                # a kept connection may have been closed by the server meanwhile; a new one tells whether the server is there
                if is_last or isinstance(error, (TimeoutError, ConnectionRefusedError)):
                    address = f"{self._connection.host}:{self._connection.port}"
                    raise LaunchError(f"endpoint {self.name!r} at {address} does not answer: {error or type(error).__name__}") from error
        raise AssertionError("the loop above returns or raises")
