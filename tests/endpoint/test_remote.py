"""The Python client against a server that answers what it is told to."""

import json
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from stablerep.endpoint.remote import RemoteEncoder, batches
from stablerep.errors import ConfigError, LaunchError, RefusedError

READY = (200, {}, b"{}")


class PlayedServer(ThreadingHTTPServer):
    """Answers with `answers` in turn, the last one for ever; keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = [READY]
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def encoder(self, patience_seconds: float = 20.0) -> RemoteEncoder:
        return RemoteEncoder(self.url, "stablerep", patience_seconds=patience_seconds)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PlayedServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers, content))
        answers = self.server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[PlayedServer]:
    with PlayedServer() as played:
        thread = threading.Thread(target=played.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield played
        played.shutdown()
        thread.join()


def embeddings(rows: list[list[float]], model_id: str = "model-a") -> tuple[int, dict[str, str], bytes]:
    output = {"name": "embedding", "shape": [len(rows), len(rows[0])], "datatype": "FP32"}
    header = json.dumps({"model_version": model_id, "outputs": [output]}).encode()
    return 200, {"Inference-Header-Content-Length": str(len(header))}, header + np.array(rows, "<f4").tobytes()


def refusal(status: int, text: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps({"error": text}).encode()


def test_images_travel_as_they_are_and_embeddings_come_back_to_the_last_digit(server: PlayedServer) -> None:
    server.answers = [embeddings([[0.1, -2.5], [3.0, 1e-7]])]
    with server.encoder() as encoder:
        found = encoder.embed([b"\x00\xffone", b""], normalise=True)
    assert np.array_equal(found, np.array([[0.1, -2.5], [3.0, 1e-7]], np.float32))
    ((method, path, headers, content),) = server.asked
    length = int(headers["inference-header-content-length"])
    header = json.loads(content[:length])
    assert (method, path, header["parameters"]) == ("POST", "/v2/models/stablerep/infer", {"normalise": True})
    assert header["inputs"][0]["shape"] == [2]
    assert header["inputs"][0]["parameters"]["binary_data_size"] == len(content) - length
    assert content[length:] == struct.pack("<I", 5) + b"\x00\xffone" + struct.pack("<I", 0)


def test_a_busy_server_is_asked_again_when_it_says(server: PlayedServer) -> None:
    later = formatdate(time.time() + 4, usegmt=True)
    server.answers = [refusal(503, "full", Retry_After="2"), refusal(429, "slow down", Retry_After=later), embeddings([[1.0]])]
    started_at = time.monotonic()
    with server.encoder() as encoder:
        assert encoder.embed_batch([b"x"])[1] == "model-a"
    assert time.monotonic() - started_at > 2.9  # a date has whole seconds
    assert len(server.asked) == 3


def test_patience_ends(server: PlayedServer) -> None:
    server.answers = [refusal(503, "the queue is full", Retry_After="60")]
    with server.encoder(patience_seconds=5.0) as encoder, pytest.raises(LaunchError, match=r"answered 503: the queue is full \(asked 1"):
        encoder.embed([b"x"])


def test_a_server_that_does_not_answer_is_named() -> None:
    with PlayedServer() as gone:
        url = gone.url
    with pytest.raises(LaunchError, match=f"at {url.removeprefix('http://')} does not answer"):
        RemoteEncoder(url, patience_seconds=0.2)


@pytest.mark.parametrize("status", [400, 401, 413, 415])
def test_a_refusal_keeps_its_status_and_words(server: PlayedServer, status: int) -> None:
    server.answers = [refusal(status, "image 0 of 1: expected a JPEG")]
    with server.encoder() as encoder, pytest.raises(RefusedError, match=f"infer answered {status}: image 0 of 1") as caught:
        encoder.embed([b"x"])
    assert (caught.value.status, caught.value.reason) == (status, "image 0 of 1: expected a JPEG")
    assert len(server.asked) == 1


@pytest.mark.parametrize("answer", [(500, {}, b"Internal Server Error"), (200, {}, b"<html>a proxy</html>"), (200, {}, b'{"outputs": []}')])
def test_what_is_no_answer_is_said(server: PlayedServer, answer: tuple[int, dict[str, str], bytes]) -> None:
    server.answers = [answer]
    with server.encoder() as encoder, pytest.raises(LaunchError, match=r"answered 500: Internal|expected the answer of a stablerep server"):
        encoder.embed([b"x"])


def test_the_token_is_sent_and_the_path_of_a_gateway_kept(server: PlayedServer) -> None:
    server.answers = [(200, {}, b'{"predictions": [{"scores": {"four": 1.0}}]}')]
    url = f"{server.url}/team/v1/models/digits:predict"
    with RemoteEncoder(url, token="secret") as encoder:
        assert encoder.classify([b"x"], ["four"]) == [{"four": 1.0}]
    _, path, headers, _ = server.asked[0]
    assert (path, headers["authorization"]) == ("/team/v1/models/digits:predict", "Bearer secret")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", "/v1/models"), ("/", "/v1/models"), ("/v2/models/", "/v1/models"), ("/a/b/", "/a/b/v1/models"), ("/a/v1", "/a/v1/models")],
)
def test_without_a_name_the_only_model_is_taken(server: PlayedServer, path: str, expected: str) -> None:
    server.answers = [(200, {}, b'{"models": ["digits"]}')]
    with RemoteEncoder(server.url + path) as encoder:
        assert encoder.name == "digits"
    assert server.asked[0][1] == expected


def test_which_of_two_models_has_to_be_said(server: PlayedServer) -> None:
    server.answers = [(200, {}, b'{"models": ["a", "b"]}')]
    with pytest.raises(ConfigError, match=r"expected one served model, found \['a', 'b'\]; name one"):
        RemoteEncoder(server.url)


def test_only_web_addresses() -> None:
    with pytest.raises(ConfigError, match="expected a URL as http://localhost:8080, found 'ftp://host'"):
        RemoteEncoder("ftp://host")


def test_texts_come_in_their_order(server: PlayedServer) -> None:
    data = [{"index": 1, "embedding": [0.0, 1.0]}, {"index": 0, "embedding": [1.0, 0.0]}]
    server.answers = [(200, {}, json.dumps({"data": data, "model": "stablerep", "model_id": "model-a"}).encode())]
    with server.encoder() as encoder:
        found, model_id = encoder.embed_texts(["a", "b"])
    assert (found.tolist(), model_id) == ([[1.0, 0.0], [0.0, 1.0]], "model-a")


def test_closing_ends_the_wait_of_another_thread(server: PlayedServer) -> None:
    server.answers = [refusal(503, "full", Retry_After="25")]
    encoder = server.encoder(patience_seconds=30.0)
    caught: list[Exception] = []

    def ask() -> None:
        try:
            encoder.embed([b"x"])
        except LaunchError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not server.asked:
        time.sleep(0.01)
    encoder.close()
    thread.join(timeout=20)
    assert len(caught) == 1


def test_ctrl_c_ends_the_command_although_the_server_is_busy(server: PlayedServer, tmp_path: Path) -> None:
    ready = (200, {}, b'{"versions": ["model-a"]}')
    server.answers = [ready, ready, refusal(503, "full", Retry_After="100")]
    (tmp_path / "a.png").write_bytes(b"x")
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # also where these tests run in the background, deaf to it
    program = f"import signal; {heard}; from stablerep.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "embed", server.url, str(tmp_path), "--model", "m", "--to", str(tmp_path / "out.npy")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while len(server.asked) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=240)
    assert (process.returncode, "run the same command again to continue" in said) == (130, True), said


def test_batches_are_bounded_in_images_and_bytes() -> None:
    images = [b"a" * size for size in (3, 3, 9, 1, 1, 1, 1)]
    assert [[len(image) for image in batch] for batch in batches(images, 3, max_bytes=6)] == [[3, 3], [9], [1, 1, 1], [1]]
    assert list(batches([], 3)) == []
