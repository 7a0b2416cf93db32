"""The real server in a process of its own, asked by KServe's own clients and by plain HTTP."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from encoder_server import Server, served, start, wait_ready
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tiny_encoder import picture, write_encoder

from stablerep.endpoint.client import Answer
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor, Question
from stablerep.integrations.kserve_client import grpc_embeddings
from stablerep.models import add_files

MAX_REQUEST_BYTES = 3_000_000
MAX_BATCH = 8
LABELS = ["zero", "one", "seven"]
V1, V2 = "/v1/models/stablerep:predict", "/v2/models/stablerep/infer"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("exported")
    model_id = write_encoder(folder, seed=1)
    add_files(folder, {"lineage.json": '{"run": "r-1"}', "statistics.json": '{"embedding_norm": {"mean": 1.5, "std": 0.5}}'})
    return folder, model_id


@pytest.fixture(scope="module")
def server(exported: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = ["--max-request-bytes", str(MAX_REQUEST_BYTES), "--max-batch", str(MAX_BATCH), "--max-image-bytes", "1000000"]
    with served(*exported, tmp_path_factory.mktemp("log") / "server.log", *limits) as started:
        yield started


@pytest.fixture(scope="module")
def predictor(exported: tuple[Path, str]) -> Predictor:
    return Predictor(exported[0], Limits())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def tensor(array: np.ndarray, datatype: str, *, is_binary: bool = True) -> InferInput:
    made = InferInput("image", list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=is_binary)
    return made


def files_tensor(files: list[bytes]) -> InferInput:
    return tensor(np.array([*files, b""], dtype=object)[:-1], "BYTES")


def rest_v2(server: Server, request: InferRequest) -> InferResponse:
    async def ask() -> InferResponse:
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
        try:
            return await client.infer(server.url, request, model_name="stablerep")
        finally:
            await client.close()

    return asyncio.run(ask())


def grpc_v2(server: Server, request: InferRequest) -> InferResponse:
    async def ask() -> InferResponse:
        client = InferenceGRPCClient(f"127.0.0.1:{server.grpc_port}", timeout=30)
        try:
            return await client.infer(request)
        finally:
            await client.close()

    return asyncio.run(ask())


def test_v1_through_kserves_client_gives_the_embeddings_of_the_folder(server: Server, predictor: Predictor) -> None:
    files = [picture(0), picture(1, image_format="JPEG"), picture(2, size=(50, 40), image_format="WEBP")]

    async def ask() -> Any:
        client = InferenceRESTClient(RESTConfig(protocol="v1", timeout=30))
        try:
            return await client.infer(server.url, {"instances": [{"b64": b64(file)} for file in files]}, model_name="stablerep")
        finally:
            await client.close()

    answer = asyncio.run(ask())
    np.testing.assert_allclose(answer["predictions"], predictor.predict(files).embedding_NF, atol=1e-5)
    assert answer["model_id"] == server.model_id


def test_v1_scores_labels(server: Server) -> None:
    parameters = {"labels": LABELS, "templates": ["a handwritten {}", "a small {}"], "normalise": True}
    answer = server.post(V1, {"instances": [{"b64": b64(picture(0))}, {"b64": b64(picture(1))}], "parameters": parameters})
    assert answer.status == 200
    for row in answer.body["predictions"]:
        assert list(row["scores"]) == LABELS
        assert sum(row["scores"].values()) == pytest.approx(1.0, abs=1e-5)
        assert row["scores"][row["label"]] == max(row["scores"].values())
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1.0, abs=1e-5)


def test_v2_json_takes_base64_and_keeps_the_id(server: Server, predictor: Predictor) -> None:
    files = [picture(0), picture(1)]
    texts = np.array([b64(file).encode() for file in files], dtype=object)
    sent = tensor(texts, "BYTES", is_binary=False)
    request = InferRequest("stablerep", [sent], request_id="mine", parameters={"labels": json.dumps(LABELS)})
    answer = rest_v2(server, request)
    embedding, scores = answer.outputs
    assert (answer.id, embedding.name, scores.name) == ("mine", "embedding", "scores")
    np.testing.assert_allclose(embedding.as_numpy(), predictor.predict(files).embedding_NF, atol=1e-5)
    np.testing.assert_allclose(scores.as_numpy().sum(axis=1), 1.0, atol=1e-5)


def test_v2_sets_an_id_when_the_caller_did_not_and_names_the_model(server: Server) -> None:
    body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(picture(0))]}]}
    answer = server.post(V2, body).body
    assert (len(answer["id"]), answer["model_version"]) == (32, server.model_id)


def test_v2_binary_takes_files_and_tensors_as_they_are(server: Server, predictor: Predictor) -> None:
    files = [picture(0), picture(1, image_format="JPEG")]
    outputs = [RequestedOutput("embedding", {"binary_data": True})]
    answer = rest_v2(server, InferRequest("stablerep", [files_tensor(files)], request_outputs=outputs))
    np.testing.assert_allclose(answer.outputs[0].as_numpy(), predictor.predict(files).embedding_NF, atol=1e-5)
    prepared = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    answer = rest_v2(server, InferRequest("stablerep", [tensor(prepared, "FP32")]))
    np.testing.assert_allclose(answer.outputs[0].as_numpy(), predictor.predict(prepared).embedding_NF, atol=1e-5)


def test_grpc_takes_files_pixels_and_prepared_tensors(server: Server, predictor: Predictor) -> None:
    files = [picture(0), picture(1, image_format="BMP")]
    pixels = np.random.default_rng(1).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    prepared = np.random.default_rng(2).normal(size=(1, 3, 32, 32)).astype(np.float32)
    for array, sent in ((files, files_tensor(files)), (pixels, tensor(pixels, "UINT8")), (prepared, tensor(prepared, "FP32"))):
        answer = grpc_v2(server, InferRequest("stablerep", [sent]))
        np.testing.assert_allclose(answer.outputs[0].as_numpy(), predictor.predict(array).embedding_NF, atol=1e-5)
        assert answer.id
        assert answer.model_version == server.model_id
    np.testing.assert_allclose(
        grpc_embeddings(f"127.0.0.1:{server.grpc_port}", "stablerep", files), predictor.predict(files).embedding_NF, atol=1e-5
    )


def test_grpc_takes_parameters(server: Server) -> None:
    parameters = {"labels": json.dumps(LABELS), "normalise": True}
    answer = grpc_v2(server, InferRequest("stablerep", [files_tensor([picture(0)])], request_id="g", parameters=parameters))
    assert answer.id == "g"
    assert np.linalg.norm(answer.outputs[0].as_numpy()) == pytest.approx(1.0, abs=1e-5)
    assert answer.outputs[1].as_numpy().sum() == pytest.approx(1.0, abs=1e-5)


GOOD = {"b64": b64(picture(0))}
BAD_V1 = [
    ({"instances": [{"b64": b64(b"not an image")}]}, "image 0 of 1: expected a JPEG, PNG, WebP or BMP image"),
    ({"instances": [GOOD, {"b64": b64(picture(0)[:-30])}]}, "image 1 of 2: cannot decode"),
    ({"instances": [{"b64": "@@@"}]}, "instances[0]: expected base64"),
    ({"instances": [{"image": 1}]}, "instances[0]: expected"),
    ({"instances": []}, "at least one image"),
    ({"instances": 5}, "instances: int"),
    ({"foo": 1}, "found keys ['foo']"),
    ({"instances": [GOOD], "parameters": {"labels": ["a", "a"]}}, "different labels"),
    ({"instances": [GOOD], "parameters": {"neighbours": 3}}, "reference.safetensors is not beside"),
    ({"instances": [GOOD], "parameters": {"neighbours": -1}}, "neighbours: expected a number from 0 to 100, found '-1'"),
    ({"instances": [GOOD], "parameters": {"dtype": "int8"}}, "dtype: expected fp32 or fp16, found 'int8'"),
    ({"instances": [GOOD], "parameters": {"space": []}}, "space: expected features or text"),
    ({"instances": [GOOD], "parameters": {"encoding_format": "hex"}}, "encoding_format: expected float or base64"),
    ({"instances": [GOOD], "parameters": {"labels": "zero one", "templates": ["no place"]}}, "templates: expected"),
    ({"instances": [GOOD], "parameters": {"lables": ["a"]}}, "found lables"),
    ({"instances": [GOOD], "parameters": {"normalise": "perhaps"}}, "normalise: expected true or false"),
    ({"instances": [GOOD], "parameters": []}, "parameters: expected an object"),
]


def _v2(shape: list[int], datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "shape": shape, "datatype": datatype, "data": data}]}


BAD_V2 = [
    (_v2([1], "BYTES", ["@@"]), "expected base64"),
    (_v2([1], "BYTES", [b64(b"junk")]), "expected a JPEG"),
    (_v2([1, 2], "BYTES", [GOOD["b64"]] * 2), "expected shape [N] or [N, 1]"),
    (_v2([2], "BYTES", [GOOD["b64"]]), "do not fill BYTES [2]"),
    (_v2([1, 3, 10, 10], "FP32", [0.0] * 300), "float32 [N, 3, 32, 32], found float32 [1, 3, 10, 10]"),
    (_v2([1, 3, 32, 32], "FP32", [0.0] * 3), "do not fill FP32"),
    (_v2([1], "FOO", [1]), "expected datatype BYTES, UINT8 or FP32, found FOO"),
    ({"inputs": []}, "exactly one input tensor"),
    ({"inputs": [1]}, "exactly one input tensor"),
    ({"inputs": {}}, "exactly one input tensor"),
    ({"foo": 1}, "found keys ['foo']"),
    (_v2([1], "BYTES", [GOOD["b64"]]) | {"id": 5}, "id: expected a text, found int"),
    (_v2([1], "BYTES", [GOOD["b64"]]) | {"parameters": {"a": []}}, "parameters: expected an object of texts"),
    (_v2([1], "BYTES", [5]), "expected base64 of an image file, found int"),
    (_v2([-1], "BYTES", []), "exactly one input tensor"),
    (_v2([1], "BYTES", [GOOD["b64"]]) | {"parameters": {"encoding_format": "base64"}}, "V2 has binary outputs instead"),
    (_v2([1], "BYTES", [GOOD["b64"]]) | {"parameters": {"dtype": "fp16"}}, "Sending FP16 data via JSON is not supported"),
    (_v2([1], "BYTES", [GOOD["b64"]]) | {"outputs": [{"name": "other"}]}, "Unexpected inference output 'other'"),
    (_v2([1], "BYTES", [GOOD["b64"]]) | {"parameters": {"labels": "[1"}}, "expected a JSON list"),
]


@pytest.mark.parametrize(("path", "cases"), [(V1, BAD_V1), (V2, BAD_V2)])
def test_what_is_wrong_with_a_request_is_said_with_400_and_the_connection_is_kept(
    server: Server, path: str, cases: list[tuple[dict[str, Any], str]]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    first_socket = connection.sock
    for body, expected in cases:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        message = json.loads(response.read())["error"]
        assert (response.status, expected in message) == (400, True), message
        assert len(message) < 400
        assert connection.sock is first_socket
    connection.close()


@pytest.mark.parametrize("content", [b"{nope", b"[1, 2]", b'"text"', b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_refused_whatever_its_type(server: Server, content: bytes) -> None:
    for content_type in ("application/json", "application/x-www-form-urlencoded"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", V1, content, {"Content-Type": content_type})
        assert connection.getresponse().status == 400
        connection.close()


def test_a_forgotten_content_type_is_forgiven(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", V1, json.dumps({"instances": [GOOD]}), {"Content-Type": "application/x-www-form-urlencoded"})
    response = connection.getresponse()
    assert (response.status, len(json.loads(response.read())["predictions"])) == (200, 1)
    connection.close()


@pytest.mark.parametrize("length", ["0", "99999999", "x"])
def test_a_binary_body_whose_header_does_not_fit_is_refused(server: Server, length: str) -> None:
    header = json.dumps({"inputs": [{"name": "i", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}]}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for claimed in (length, str(len(header))):
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": claimed}
        connection.request("POST", V2, header + b"junk", headers)
        response = connection.getresponse()
        assert (response.status, b"expected" in response.read()) == (400, True)
    connection.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (files_tensor([b"junk"]), grpc.StatusCode.INVALID_ARGUMENT),
        (files_tensor([picture(0)] * (MAX_BATCH + 1)), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (files_tensor([b"\0" * 1_000_001]), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (files_tensor([b"\0" * (MAX_REQUEST_BYTES + 100_000)]), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (tensor(np.zeros((1, 3, 10, 10), np.float32), "FP32"), grpc.StatusCode.INVALID_ARGUMENT),
        (tensor(np.full((1, 3, 32, 32), np.inf, np.float32), "FP32"), grpc.StatusCode.INVALID_ARGUMENT),
        (tensor(np.zeros((1, 4), np.int64), "INT64"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_grpc_answers_with_a_status_that_tells_whose_fault_it_is(server: Server, sent: InferInput, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        grpc_v2(server, InferRequest("stablerep", [sent]))
    assert caught.value.code() == code
    assert "expected" in caught.value.details() or "larger than max" in caught.value.details()


def test_halves_urlsafe_base64_and_text_space_are_answered_on_every_protocol(server: Server, predictor: Predictor) -> None:
    file = picture(0)
    plain = predictor.predict([file]).embedding_NF[0]
    beside_text = predictor.predict([file], Question(is_beside_text=True)).embedding_NF[0]
    url_safe = {"b64": base64.urlsafe_b64encode(file).decode().rstrip("=")}
    row = server.post(V1, {"instances": [url_safe], "parameters": {"encoding_format": "base64", "dtype": "fp16"}}).body["predictions"][0]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(row), "<f2"), plain, atol=2e-3)
    outputs = [RequestedOutput("embedding", {"binary_data": True})]
    answer = rest_v2(server, InferRequest("stablerep", [files_tensor([file])], request_outputs=outputs, parameters={"dtype": "fp16"}))
    assert answer.outputs[0].datatype == "FP16"
    np.testing.assert_allclose(answer.outputs[0].as_numpy()[0], plain, atol=2e-3)
    answer = grpc_v2(server, InferRequest("stablerep", [files_tensor([file])], parameters={"dtype": "fp16", "space": "text"}))
    np.testing.assert_allclose(answer.outputs[0].as_numpy()[0], beside_text, atol=2e-3)
    assert np.linalg.norm(beside_text) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "ICO"])
def test_an_image_of_another_format_is_415_and_named(server: Server, image_format: str) -> None:
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, image_format)
    answer = server.post(V1, {"instances": [GOOD, {"b64": b64(content.getvalue())}]})
    assert (answer.status, "image 1 of 2: expected a JPEG, PNG, WebP or BMP image, found" in answer.body["error"]) == (415, True)
    with pytest.raises(grpc.RpcError) as caught:
        grpc_v2(server, InferRequest("stablerep", [files_tensor([content.getvalue()])]))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "path", ["/v2/models/stablerep/versions/3/infer", "/v2/models/stablerep/versions/3", "/v1/models/stablerep:explain", "/v2/models/other"]
)
def test_what_kserve_offers_and_an_encoder_has_not_is_404(server: Server, path: str) -> None:
    with server.client() as client:
        method = "POST" if path.endswith(("infer", "explain")) else "GET"
        body = _v2([1], "BYTES", [GOOD["b64"]]) | {"instances": [GOOD]}
        assert client.request(method, path, body if method == "POST" else None).status == 404


def test_an_unknown_model_is_404_and_not_found(server: Server) -> None:
    assert server.post("/v1/models/other:predict", {"instances": [GOOD]}).status == 404
    with pytest.raises(grpc.RpcError) as caught:
        grpc_v2(server, InferRequest("other", [files_tensor([picture(0)])]))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_an_image_that_declares_too_many_pixels_is_refused_fast(server: Server) -> None:
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    started_at = time.perf_counter()
    answer = server.post(V1, {"instances": [{"b64": b64(content.getvalue())}]})
    assert answer.status == 413
    assert "pixels" in answer.body["error"]
    assert time.perf_counter() - started_at < 2.0


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"labels": [f"{n}" for n in range(200)], "templates": ["{} x"] * 60}, "found 200 x 60"),
        ({"labels": [f"{n}" for n in range(1001)]}, "labels: expected at most 1000 texts"),
        ({"labels": ["a" * 301]}, "of 300 characters"),
        ({"neighbours": 101}, "neighbours: expected at most 100, found 101"),
    ],
)
def test_too_much_to_ask_is_413(server: Server, parameters: dict[str, Any], expected: str) -> None:
    answer = server.post(V1, {"instances": [GOOD], "parameters": parameters})
    assert (answer.status, expected in answer.body["error"]) == (413, True), answer


def test_too_many_images_and_too_many_bytes_are_413(server: Server) -> None:
    answer = server.post(V1, {"instances": [GOOD] * (MAX_BATCH + 1)})
    assert (answer.status, answer.body["error"][:40]) == (413, "expected at most 8 images in a request, ")
    answer = server.post(V1, {"instances": [{"b64": b64(b"\0" * 1_100_000)}]})
    assert (answer.status, "at most 1000000 bytes" in answer.body["error"]) == (413, True)
    answer = server.post(V1, {"instances": [{"b64": "A" * MAX_REQUEST_BYTES}]})
    assert (answer.status, f"at most {MAX_REQUEST_BYTES} bytes" in answer.body["error"]) == (413, True)


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    chunks = (b"A" * 100_000 for _ in range(MAX_REQUEST_BYTES // 100_000 + 1))
    connection.request("POST", V1, chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_metadata_names_the_model_and_its_tensors(server: Server) -> None:
    with server.client() as client:
        metadata = client.request("GET", "/v2/models/stablerep").body
        assert client.model_id() == server.model_id
        assert client.request("GET", "/v2").body == {"name": "stablerep", "version": "0.1.0", "extensions": ["binary_tensor_data"]}
        assert client.request("GET", "/v2/health/ready").body == {"ready": True}
        assert client.request("GET", "/v1/models").body == {"models": ["stablerep"]}
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [
        {"name": "embedding", "datatype": "FP32", "shape": [-1, 48]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, -1]},
    ]
    facts = metadata["parameters"]
    assert (facts["model_id"], facts["embedding_dim"], facts["text_dim"], facts["lineage"]) == (server.model_id, 48, 16, {"run": "r-1"})
    assert facts["input"] == {
        "size_px": 32, "resize_px": 32, "crop_px": 32, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip


def test_nobody_unloads_the_model_over_the_network(server: Server) -> None:
    for verb in ("load", "unload"):
        answer = server.post(f"/v2/repository/models/stablerep/{verb}", {})
        assert (answer.status, "serves one model" in answer.body["error"]) == (400, True)
    with server.client() as client:
        assert client.is_ready()


def _open_files(process_id: int) -> set[str]:
    """What a process holds open; one that it closes while the list is read does not count."""
    targets: set[str] = set()
    for link in Path(f"/proc/{process_id}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.add(str(link.readlink()))
    return targets


def test_only_the_loopback_interface_is_bound(server: Server) -> None:
    open_files = _open_files(server.process.pid)
    listening: dict[int, str] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{server.process.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in open_files:  # 0A: listening
                address, port = fields[1].split(":")
                listening[int(port, 16)] = address[-8:]  # IPv4, or the IPv4 part of a mapped IPv6 address, in host byte order
    loopback = f"{struct.unpack('=I', socket.inet_aton('127.0.0.1'))[0]:08X}"
    assert listening == {server.port: loopback, server.grpc_port: loopback}


def test_metrics_count_what_was_asked(server: Server) -> None:
    before = _samples(server)
    server.post(V1, {"instances": [GOOD, GOOD]})
    server.post(V1, {"instances": [{"b64": b64(b"junk")}]})
    server.post(V2, _v2([1], "BYTES", [GOOD["b64"]]))
    server.post(V1, {"instances": [{"b64": "A" * MAX_REQUEST_BYTES}]})
    grpc_v2(server, InferRequest("stablerep", [files_tensor([picture(0)])]))
    with pytest.raises(grpc.RpcError):
        grpc_v2(server, InferRequest("stablerep", [files_tensor([b"junk"])]))
    after = _samples_after(server, before, num_requests=6)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0.0) - before.get(key, 0.0)

    requests = "stablerep_endpoint_requests_total"
    assert [grown(requests, protocol="v1", code=code) for code in ("200", "400", "413")] == [1, 1, 1]
    assert [grown(requests, protocol="v2", code=code) for code in ("200", "400")] == [1, 0]
    assert [grown(requests, protocol="grpc", code=code) for code in ("OK", "INVALID_ARGUMENT")] == [1, 1]
    assert grown("stablerep_endpoint_request_seconds_count", protocol="v1") == 3
    assert grown("stablerep_endpoint_batch_images_sum") == grown("stablerep_endpoint_images_total") == 4
    assert grown("stablerep_endpoint_queue_seconds_count") == 3
    norm = after["stablerep_endpoint_embedding_norm", ()]
    assert after["stablerep_endpoint_embedding_norm_drift_sigmas", ()] == pytest.approx((norm - 1.5) / 0.5, abs=1e-6)
    assert grown("stablerep_endpoint_decode_errors_total", reason="BadImageError") == 2
    assert after["stablerep_endpoint_in_flight", ()] == 0
    assert after["stablerep_endpoint_info", (("model_id", server.model_id),)] == 1
    assert grown("request_predict_seconds_count", model_name="stablerep") == 3
    assert not any(name.startswith("stablerep_training") for name, _ in after)


def test_requests_that_come_together_are_answered_each_with_its_own(server: Server, predictor: Predictor) -> None:
    expected = predictor.predict([picture(seed) for seed in range(8)]).embedding_NF
    found: dict[int, Answer] = {}

    def ask(seed: int) -> None:
        with server.client() as client:
            for _ in range(3):
                found[seed] = client.predict([b"junk"] if seed == 8 else [picture(seed)])

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.pop(8).status == 400
    for seed, answer in found.items():
        np.testing.assert_allclose(answer.body["predictions"][0], expected[seed], atol=1e-5)


@pytest.mark.parametrize("taken", ["--port", "--grpc-port"])
def test_a_taken_port_ends_the_server_with_exit_code_6_before_the_model_is_touched(taken: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"--port": "0", "--grpc-port": "0"} | {taken: str(other.getsockname()[1])}
        options = [word for pair in ports.items() for word in pair]
        command = [sys.executable, "-m", "stablerep.integrations.kserve_server", "--folder", str(tmp_path), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    purpose = "REST" if taken == "--port" else "gRPC"
    assert done.returncode == 6
    assert f"PortInUseError: {purpose} port: cannot listen on 127.0.0.1:{ports[taken]} (Address already in use)" in done.stderr


def test_a_damaged_folder_ends_the_server_with_the_exit_code_of_checkpoints(exported: tuple[Path, str], tmp_path: Path) -> None:
    for path in exported[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "encoder.safetensors").write_bytes(b"\0" * 100)
    broken = start(tmp_path, "", tmp_path / "log")
    assert broken.process.wait(300) == 4
    assert "encoder.safetensors: damaged: expected sha256" in broken.log.read_text()


def test_sigterm_lets_requests_in_flight_finish_and_loading_answers_503(exported: tuple[Path, str], tmp_path: Path) -> None:
    server = start(*exported, tmp_path / "log")
    connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(6)]
    try:
        statuses = wait_ready(server)
        assert set(statuses[:-1]) == {503}
        body = json.dumps({"instances": [{"b64": b64(picture(0, size=(2000, 2000), image_format="JPEG"))}] * MAX_BATCH})
        for connection in connections:
            connection.request("POST", V1, body, {"Content-Type": "application/json"})
        _wait_in_flight(server, len(connections))
        server.process.send_signal(signal.SIGTERM)
        assert [connection.getresponse().status for connection in connections] == [200] * 6
        assert server.process.wait(120) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        assert "requests in flight were answered" in server.log.read_text()
    finally:
        server.process.kill()
        server.process.wait()
        for connection in connections:
            connection.close()


def _samples(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _samples_after(server: Server, before: dict[Any, float], num_requests: int) -> dict[Any, float]:
    """Samples once `num_requests` more are counted: a caller has its answer a moment before the server has counted it."""
    deadline = time.monotonic() + 120
    while True:
        after = _samples(server)
        found = (sum(value for (name, _), value in each.items() if name == "stablerep_endpoint_requests_total") for each in (after, before))
        if next(found) - next(found) >= num_requests:
            return after
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _wait_in_flight(server: Server, number: int) -> None:
    deadline = time.monotonic() + 120
    while _samples(server)["stablerep_endpoint_in_flight", ()] < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)
