"""The server with its other ways to run the trunk, on an encoder without a text tower: the same embeddings, and what it cannot do is said.

torch.compile traces and lowers the trunk as in production, but runs the result without the C++ compiler, which needs a minute.
"""

import base64
from pathlib import Path

import grpc
import numpy as np
import pytest
from encoder_server import Server, served
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tiny_encoder import picture, write_encoder

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.local import ENGINE_OPTIONS
from stablerep.endpoint.predictor import Predictor
from stablerep.integrations.kserve_client import grpc_embeddings
from stablerep.models.formats import add_onnx

WITHOUT_COMPILER = "import functools, torch; torch.compile = functools.partial(torch.compile, backend='aot_eager')"
FILES = [picture(seed) for seed in range(5)]


@pytest.mark.parametrize("engine", [engine for engine in ENGINE_OPTIONS if engine != "torch"])
def test_every_engine_gives_the_embeddings_of_torch(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "exported"
    model_id = write_encoder(folder, seed=1, has_text=False, depth=1)
    expected = Predictor(folder, Limits()).predict(FILES).embedding_NF
    add_onnx(folder)
    if engine == "torch_compile":
        (tmp_path / "sitecustomize.py").write_text(WITHOUT_COMPILER)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("TORCH_LOGS", "recompiles")
    with served(folder, model_id, tmp_path / "log", *ENGINE_OPTIONS[engine]) as server:
        for number in (1, 2, 5):
            with server.client() as client:
                answer = client.predict(FILES[:number])
            np.testing.assert_allclose(answer.body["predictions"], expected[:number], atol=1e-4)
            over_grpc = grpc_embeddings(f"127.0.0.1:{server.grpc_port}", "stablerep", FILES[:number])
            np.testing.assert_allclose(over_grpc, expected[:number], atol=1e-4)
        _texts_are_refused(server)
        assert engine != "torch_compile" or "Recompiling" not in server.log.read_text().partition("ready: ")[2]


def _texts_are_refused(server: Server) -> None:
    instance = {"b64": base64.b64encode(FILES[0]).decode()}
    answer = server.post("/v1/models/stablerep:predict", {"instances": [instance], "parameters": {"labels": ["zero", "one"]}})
    assert (answer.status, "has no text tower" in answer.body["error"]) == (422, True)
    raw = len(FILES[0]).to_bytes(4, "little") + FILES[0]
    tensor = messages.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    labels = {"labels": messages.InferParameter(string_param='["zero", "one"]')}
    request = messages.ModelInferRequest(model_name="stablerep", inputs=[tensor], raw_input_contents=[raw], parameters=labels)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as caught:
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "has no text tower" in str(caught.value.details())
