"""A served encoder from Python: arrays in place of JSON, errors in place of statuses, patience with a busy server.

    from stablerep.endpoint.remote import RemoteEncoder

    with RemoteEncoder("http://localhost:8080") as encoder:
        embeddings = encoder.embed(["a.png", "b.jpg"], normalise=True)        # float32 [N, F]
        scores = encoder.classify(["a.png"], ["four", "nine"], ["a photo of the number {}"])

Images travel as they are in their files, embeddings as float32 (V2 with the binary extension: no base64, no digits lost). Standard
library and NumPy only. One connection, so one thread; make one for each thread (`stablerep.stages.embed` does).

Dimension key: N images or texts, F embedding.
"""

import base64
import json
import logging
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np

from stablerep.endpoint.client import EndpointClient, RawAnswer
from stablerep.errors import ConfigError, LaunchError, RefusedError

Array = np.ndarray[Any, np.dtype[np.float32]]
Image = bytes | str | Path
Result = TypeVar("Result")
log = logging.getLogger("stablerep")
_BUSY = (429, 502, 503, 504)
_LONGEST_WAIT_SECONDS = 30.0
_MAX_BYTES = 16_777_216


class RemoteEncoder:
    """One served encoder.

    Args:
        url: of the server, with or without the path of a model: http://localhost:8080, https://host/v1/models/stablerep:predict.
        name: of the model; empty: that of `url`, else the only one of the server.
        token: bearer token, where the server asks for one.
        timeout_seconds: for connecting and for every answer.
        patience_seconds: how long one request is sent again to a server that is busy (429, 502, 503, 504) or does not answer.

    Raises:
        ConfigError: not an http or https URL.
        LaunchError: `name` is empty and the server does not answer.
    """

    def __init__(
        self, url: str, name: str = "", *, token: str = "", timeout_seconds: float = 60.0, patience_seconds: float = 120.0
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"endpoint: expected a URL as http://localhost:8080, found {url!r}")
        prefix, path = _split(parts.path)
        is_encrypted = parts.scheme == "https"
        port = parts.port or (443 if is_encrypted else 80)
        self._patience_seconds, self._closed = patience_seconds, threading.Event()
        self._client = EndpointClient(parts.hostname, port, "", timeout_seconds, prefix=prefix, token=token, is_encrypted=is_encrypted)
        self._where = f"{parts.scheme}://{parts.netloc}{prefix}"
        self._client.name = name or path
        if not self.name:
            try:
                self._client.name = self._only_name()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; another thread that waits for an answer, or for a busy server, stops waiting."""
        self._closed.set()
        self._client.close()

    @property
    def name(self) -> str:
        """The model's name in the paths."""
        return self._client.name

    def model_id(self) -> str:
        """Id of the model that answers now.

        Raises:
            LaunchError: it is not ready, or nothing answers, for longer than `patience_seconds`.
            RefusedError: there is no such model, or no right to ask.
        """
        self._ask("GET", f"/v2/models/{self.name}/ready")
        return "".join(self._ask("GET", f"/v2/models/{self.name}").body.get("versions", [])[:1])

    def embed(self, images: Sequence[Image], *, normalise: bool = False, batch_size: int = 16) -> Array:
        """Embeddings of images, [N, F].

        Args:
            images: files by path, or their bytes.
            normalise: to unit length.
            batch_size: images a request.

        Raises:
            RefusedError: the server refused an image or the request; the message names it.
            LaunchError: the server does not answer, or stays busy, for longer than `patience_seconds`.
        """
        rows = [self.embed_batch(batch, normalise=normalise)[0] for batch in batches(map(_content, images), batch_size)]
        return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)

    def embed_batch(self, images: Sequence[bytes], *, normalise: bool = False) -> tuple[Array, str]:
        """Embeddings of one request, and the id of the model that made them."""
        raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
        tensor = {"name": "image", "shape": [len(images)], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
        wanted = {"name": "embedding", "parameters": {"binary_data": True}}
        header = json.dumps({"inputs": [tensor], "outputs": [wanted], "parameters": {"normalise": normalise}}).encode("utf-8")
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
        answer = self._ask("POST", f"/v2/models/{self.name}/infer", header + raw, headers)
        return self._parsed(answer, lambda: _embeddings_v2(answer))

    def classify(self, images: Sequence[Image], labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> list[dict[str, float]]:
        """Probability of each label for each image, as CLIP scores them; the encoder needs a text tower.

        Args:
            images: files by path, or their bytes; as many as fit one request.
            labels: what to tell apart.
            templates: sentences with {} where the label goes.

        Raises:
            RefusedError, LaunchError: as `embed`.
        """
        instances = [{"b64": base64.b64encode(_content(image)).decode("ascii")} for image in images]
        body = {"instances": instances, "parameters": {"labels": list(labels), "templates": list(templates)}}
        answer = self._ask_json(f"/v1/models/{self.name}:predict", body)
        return self._parsed(answer, lambda: [cast("dict[str, float]", row["scores"]) for row in answer.body["predictions"]])

    def embed_texts(self, texts: Sequence[str]) -> tuple[Array, str]:
        """Unit embeddings of texts in the space shared with images, [N, D], and the id of the model; one request.

        Raises:
            RefusedError: the encoder has no text tower, or as `embed`.
            LaunchError: as `embed`.
        """
        answer = self._ask_json("/v1/embeddings", {"model": self.name, "input": [{"text": text} for text in texts]})
        return self._parsed(answer, lambda: _embeddings_of_texts(answer.body))

    def _only_name(self) -> str:
        names = cast("list[str]", self._ask("GET", "/v1/models").body.get("models") or [])
        if len(names) != 1:
            raise ConfigError(f"{self._where}: expected one served model, found {names or 'none'}; name one")
        return names[0]

    def _ask_json(self, path: str, body: dict[str, Any]) -> RawAnswer:
        return self._ask("POST", path, json.dumps(body).encode("utf-8"), {"Content-Type": "application/json"})

    def _ask(self, method: str, path: str, content: bytes | None = None, headers: dict[str, str] | None = None) -> RawAnswer:
        """An answer with status 200; asked again while the server is busy and patience lasts."""
        deadline = time.monotonic() + self._patience_seconds
        num_tries = 0
        while True:
            num_tries += 1
            try:
                answer = self._client.send(method, path, content, headers)
            except LaunchError as error:
                if isinstance(error.__cause__, socket.gaierror) or not self._slept(_pause_seconds(num_tries), deadline, str(error)):
                    raise
                continue
            if answer.status == 200:
                return answer
            reason = answer.body.get("error") or answer.content[:200].decode(errors="replace")
            refusal = RefusedError(f"{self._where}{path}", answer.status, str(reason))
            if answer.status not in _BUSY:
                raise LaunchError(str(refusal)) if answer.status >= 500 else refusal
            if not self._slept(_told_seconds(answer.headers.get("retry-after", "")) or _pause_seconds(num_tries), deadline, str(refusal)):
                raise LaunchError(f"{refusal} (asked {num_tries} times)")

    def _slept(self, seconds: float, deadline: float, reason: str) -> bool:
        """Wait, unless that would go over the deadline; whether the request may be sent again."""
        log.info("%s; asked again in %.1f s", reason, seconds)
        return time.monotonic() + seconds <= deadline and not self._closed.wait(seconds)

    def _parsed(self, answer: RawAnswer, parse: Callable[[], Result]) -> Result:
        try:
            return parse()
        except (KeyError, IndexError, TypeError, ValueError, struct.error) as error:
            raise LaunchError(f"{self._where}: expected the answer of a stablerep server, found {answer.content[:100]!r}") from error


def batches(images: Iterable[bytes], batch_size: int, max_bytes: int = _MAX_BYTES) -> Iterator[list[bytes]]:
    """Consecutive images in lists of at most `batch_size` images and `max_bytes` bytes; a larger image stands alone."""
    batch: list[bytes] = []
    size_bytes = 0
    for image in images:
        if batch and (len(batch) == batch_size or size_bytes + len(image) > max_bytes):
            yield batch
            batch, size_bytes = [], 0
        batch.append(image)
        size_bytes += len(image)
    if batch:
        yield batch


def _split(path: str) -> tuple[str, str]:
    """Prefix of a gateway and name of the model in the path of a URL."""
    match = re.fullmatch(r"(.*?)/v[12](?:/models(?:/([^/:]+)(?:[:/].*)?)?)?/?", path)
    return (match[1], match[2] or "") if match else (path.rstrip("/"), "")


def _content(image: Image) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _embeddings_v2(answer: RawAnswer) -> tuple[Array, str]:
    length = answer.headers.get("inference-header-content-length")
    header: dict[str, Any] = json.loads(answer.content[: int(length)] if length else answer.content)
    output = {output["name"]: output for output in header["outputs"]}["embedding"]
    numbers = output.get("data")
    found = np.frombuffer(answer.content[int(length or 0) :], "<f4") if numbers is None else np.asarray(numbers, np.float32)
    return found.astype(np.float32).reshape(output["shape"]), str(header.get("model_version") or "")


def _embeddings_of_texts(body: dict[str, Any]) -> tuple[Array, str]:
    rows = sorted(cast("list[dict[str, Any]]", body["data"]), key=lambda row: row["index"])
    return np.array([row["embedding"] for row in rows], np.float32), str(body["model_id"])


def _pause_seconds(num_tries: int) -> float:
    """Half a second at first, doubled each time; drawn from its upper half so that clients do not come back together."""
    return min(_LONGEST_WAIT_SECONDS, 0.5 * 2 ** (num_tries - 1)) * random.uniform(0.5, 1.0)


def _told_seconds(retry_after: str) -> float:
    """What Retry-After says, in seconds or as a date (RFC 9110, section 10.2.3); 0 where it says nothing."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
