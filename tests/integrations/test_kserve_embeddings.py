"""`POST /v1/embeddings`, tokens, neighbours and the log of a server that was told to have them."""

import base64
import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from encoder_server import Server, served
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tiny_encoder import picture, write_encoder

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor, Question
from stablerep.endpoint.reference import write_references

TOKEN, OTHER_TOKEN = "a-token-of-the-tests", "another-token-of-the-tests"
ROUTE = "/v1/embeddings"
IDS = [f"image-{number}" for number in range(6)]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("exported")
    model_id = write_encoder(folder, seed=1)
    embedding_RF = Predictor(folder, Limits()).predict([picture(number) for number in range(6)]).embedding_NF
    write_references(folder, IDS, embedding_RF, model_id)
    made = Predictor(folder, Limits())
    made.folder = folder  # type: ignore[attr-defined]
    return made


@pytest.fixture(scope="module")
def server(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokens = tmp_path_factory.mktemp("secret") / "tokens"
    tokens.write_text(f"{OTHER_TOKEN}\n{TOKEN}\n")
    options = ["--token-file", str(tokens), "--log-requests", "--max-body-seconds", "1", "--max-in-flight-per-client", "4"]
    with served(predictor.folder, predictor.model_id, tmp_path_factory.mktemp("log") / "server.log", *options) as started:  # type: ignore[attr-defined]
        yield started


def ask(server: Server, path: str, body: Any, token: str | None = TOKEN, method: str = "POST") -> tuple[int, Any, dict[str, str]]:
    """Status, answer and headers of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        content = body if isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, content, {} if token is None else {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text[:1] == b"{" else text, dict(response.getheaders())
    finally:
        connection.close()


def embeddings(server: Server, given: Any, **options: Any) -> tuple[int, Any]:
    return ask(server, ROUTE, {"model": "stablerep", "input": given, **options})[:2]


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def vectors(answer: Any) -> np.ndarray:
    return np.array([entry["embedding"] for entry in answer["data"]])


def test_images_alone_give_what_the_other_protocols_give(server: Server, predictor: Predictor) -> None:
    files = [picture(0), picture(1, image_format="JPEG")]
    status, answer = embeddings(server, [uri(files[0]), {"image": uri(files[1], "image/jpeg")}])
    assert status == 200
    np.testing.assert_allclose(vectors(answer), predictor.predict(files).embedding_NF, atol=1e-5)
    assert {key: answer[key] for key in ("object", "model", "model_id", "usage")} == {
        "object": "list",
        "model": "stablerep",
        "model_id": predictor.model_id,
        "usage": {"prompt_tokens": 32, "total_tokens": 32},  # two images of 4 x 4 patches
    }
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [("embedding", 0), ("embedding", 1)]


def test_base64_is_little_endian_and_one_input_needs_no_list(server: Server, predictor: Predictor) -> None:
    plain = predictor.predict([picture(0)]).embedding_NF[0]
    for options, kind, tolerance in (({}, "<f4", 1e-5), ({"dtype": "fp16"}, "<f2", 2e-3)):
        status, answer = embeddings(server, uri(picture(0)), encoding_format="base64", user="me", dimensions=48, **options)
        assert status == 200
        np.testing.assert_allclose(np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), kind), plain, atol=tolerance)


def test_texts_and_images_come_back_in_order_in_the_space_that_they_share(server: Server, predictor: Predictor) -> None:
    status, answer = embeddings(server, ["a handwritten zero", uri(picture(0)), {"text": "three"}], model=predictor.model_id)
    assert status == 200
    texts, num_tokens = predictor.embed_texts(["a handwritten zero", "three"], Question())
    image = predictor.predict([picture(0)], Question(is_beside_text=True)).embedding_NF
    np.testing.assert_allclose(vectors(answer), [texts[0], image[0], texts[1]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors(answer), axis=1), 1.0, atol=1e-5)
    assert answer["usage"]["total_tokens"] == 16 + num_tokens


def test_labels_and_neighbours_stand_beside_the_embedding(server: Server, predictor: Predictor) -> None:
    status, answer = embeddings(server, uri(picture(3)), labels=["zero", "one"], templates="a {}", neighbours=2, normalise=True)
    (entry,) = answer["data"]
    assert status == 200
    assert sum(entry["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    assert entry["label"] == max(entry["scores"], key=entry["scores"].get)
    assert entry["neighbours"][0]["id"] == "image-3"
    assert entry["neighbours"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert len(entry["neighbours"]) == 2
    assert np.linalg.norm(entry["embedding"]) == pytest.approx(1.0, abs=1e-5)


def test_neighbours_over_v1_v2_and_grpc(server: Server) -> None:
    data = base64.b64encode(picture(3)).decode()
    status, answer, _ = ask(server, "/v1/models/stablerep:predict", {"instances": [{"b64": data}], "parameters": {"neighbours": 1}})
    assert (status, answer["predictions"][0]["neighbours"][0]["id"]) == (200, "image-3")
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}
    status, answer, _ = ask(server, "/v2/models/stablerep/infer", {"inputs": [tensor], "parameters": {"neighbours": 2}})
    assert [output["name"] for output in answer["outputs"]] == ["embedding", "neighbours", "neighbour_scores"]
    assert (answer["outputs"][1]["shape"], answer["outputs"][1]["data"][0]) == ([1, 2], "image-3")
    response = _infer(server, picture(3), TOKEN, neighbours="1")
    assert [output.name for output in response.outputs] == ["embedding", "neighbours", "neighbour_scores"]


GOOD = uri(picture(0))
REFUSED = [
    ({"model": "gpt", "input": GOOD}, 404, "model: expected 'stablerep' or 'model-"),
    ({"input": GOOD}, 400, "model: expected the name of the served model"),
    ({"model": "stablerep"}, 400, "found keys ['model']"),
    ({"model": "stablerep", "input": GOOD, "colour": 1}, 400, "found"),
    ({"model": "stablerep", "input": []}, 400, "at least one image"),
    ({"model": "stablerep", "input": [5]}, 400, "input[0]: expected a data URI"),
    ({"model": "stablerep", "input": [{"url": "http://x"}]}, 400, "input[0]: expected a data URI"),
    ({"model": "stablerep", "input": [{"image": "https://example.org/cat.png"}]}, 400, "nothing is fetched"),
    ({"model": "stablerep", "input": "data:image/png,abc"}, 400, "a data URI with ;base64"),
    ({"model": "stablerep", "input": "data:image/gif;base64,R0lG"}, 415, "found 'image/gif'"),
    ({"model": "stablerep", "input": uri(b"GIF89a....")}, 415, "found GIF"),
    ({"model": "stablerep", "input": "data:image/png;base64,@@"}, 400, "input[0]: expected base64"),
    ({"model": "stablerep", "input": [GOOD, uri(picture(0)[:-30])]}, 400, "image 1 of 2: cannot decode"),
    ({"model": "stablerep", "input": " "}, 400, "a text that is not empty"),
    ({"model": "stablerep", "input": "x" * 9000}, 413, "at most 8192 characters"),
    ({"model": "stablerep", "input": [GOOD] * 65}, 413, "at most 64 images"),
    ({"model": "stablerep", "input": GOOD, "dimensions": 5}, 422, "embeddings here have 48 numbers"),
    ({"model": "stablerep", "input": GOOD, "dimensions": "5"}, 400, "dimensions: expected a number above 0"),
    ({"model": "stablerep", "input": GOOD, "encoding_format": "hex"}, 400, "encoding_format: expected float or base64"),
    ({"model": "stablerep", "input": ["text", GOOD], "labels": ["a"]}, 400, "are asked of images"),
    ([1], 400, "expected a JSON object, found list"),
    (b"[" * 100_000, 400, "expected a JSON body"),
]


@pytest.mark.parametrize(("body", "status", "expected"), REFUSED)
def test_what_is_wrong_is_said(server: Server, body: Any, status: int, expected: str) -> None:
    found, answer, _ = ask(server, ROUTE, body)
    assert (found, expected in answer["error"]) == (status, True), answer
    assert len(answer["error"]) < 400


def _infer(server: Server, file: bytes, token: str | None, **parameters: str) -> messages.ModelInferResponse:
    tensor = messages.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    values = {key: messages.InferParameter(string_param=value) for key, value in parameters.items()}
    raw = len(file).to_bytes(4, "little") + file
    request = messages.ModelInferRequest(model_name="stablerep", inputs=[tensor], raw_input_contents=[raw], parameters=values)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        return GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60, metadata=metadata)


def test_a_token_is_asked_for_on_every_protocol_and_never_of_probes(server: Server) -> None:
    instance = {"instances": [{"b64": base64.b64encode(picture(0)).decode()}]}
    for token, status in ((None, 401), ("wrong" * 5, 401), (TOKEN[:-1], 401), (OTHER_TOKEN, 200), (TOKEN, 200)):
        answers = [
            ask(server, "/v1/models/stablerep:predict", instance, token),
            ask(server, ROUTE, {"model": "stablerep", "input": GOOD}, token),
        ]
        answers += [ask(server, path, b"", token, "GET") for path in ("/v2/models/stablerep", "/openapi.json", "/v1/models")]
        assert [answer[0] for answer in answers] == [status] * 5
        assert status == 200 or answers[0][2]["www-authenticate"] == "Bearer"
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/stablerep/ready", "/v1/models/stablerep", "/metrics", "/"):
        assert ask(server, path, b"", None, "GET")[0] == 200
    assert ask(server, "/v2/health/ready", b"", None)[0] == 401  # POST is no probe
    for token in (None, "wrong" * 5):
        with pytest.raises(grpc.RpcError) as caught:
            _infer(server, picture(0), token)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(messages.ServerReadyRequest(), timeout=60).ready
        assert stub.ModelReady(messages.ModelReadyRequest(name="stablerep"), timeout=60).ready
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelMetadata(messages.ModelMetadataRequest(name="stablerep"), timeout=60)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@contextmanager
def _bodies_that_do_not_come(server: Server, number: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Requests of which the server has the head and one byte of the body."""
    connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(number)]
    try:
        for connection in connections:
            connection.putrequest("POST", ROUTE)
            connection.putheader("Authorization", f"Bearer {TOKEN}")
            connection.putheader("Content-Length", "1000")
            connection.endheaders(b"{")
        yield connections
    finally:
        for connection in connections:
            connection.close()


def test_a_body_that_does_not_come_is_given_up_and_others_of_its_client_are_held_back(server: Server) -> None:
    with _bodies_that_do_not_come(server, 5) as connections:
        answers = [connection.getresponse() for connection in connections]
        found = sorted((answer.status, b"within 1 s" in answer.read()) for answer in answers)
        assert found == [(408, True)] * 4 + [(429, False)]
        late = next(answer for answer in answers if answer.status == 429)
        assert late.getheader("retry-after") == "1"


def test_requests_are_logged_without_what_they_carry(server: Server) -> None:
    secret = "a caption that nobody else may read"
    before = len(server.log.read_text())
    assert embeddings(server, [secret])[0] == 200
    assert embeddings(server, [secret, 5])[0] == 400
    assert _infer(server, picture(0), TOKEN).outputs
    log = server.log.read_text()[before:]
    entries = [json.loads(line[line.index("{") :]) for line in log.splitlines() if '"protocol"' in line]
    assert [(entry["protocol"], entry["status"]) for entry in entries[:2]] == [("openai", "200"), ("openai", "400")]
    assert (entries[0]["path"], entries[0]["client"], entries[0]["bytes"] > 50, entries[0]["ms"] > 0) == (ROUTE, "127.0.0.1", True, True)
    assert secret not in log
    assert TOKEN not in server.log.read_text()


def test_grpc_shares_the_places_of_a_client_with_rest(server: Server) -> None:
    """Four bodies over REST that do not come hold all four places for a second; the server may be slow to read their heads.

    The last test of this server: it hears of their end when it does.
    """
    deadline = time.monotonic() + 120
    while (refused := _refused_beside_four(server)) is None:
        assert time.monotonic() < deadline
    assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 4 requests of one client at once" in str(refused.details())
    assert ("grpc-retry-pushback-ms", "1000") in [tuple(pair) for pair in refused.trailing_metadata()]


def _refused_beside_four(server: Server) -> grpc.RpcError | None:
    """How gRPC answers beside four bodies that do not come; None where it answers all the same."""
    with _bodies_that_do_not_come(server, 4):
        try:
            _infer(server, picture(0), TOKEN)
        except grpc.RpcError as error:
            return error
    return None
