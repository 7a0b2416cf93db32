"""KServe's request and answer formats, V1 (dictionaries) and V2 (InferRequest, REST and gRPC alike), to and from values.

Images travel in three ways. V1: `{"instances": [{"b64": ...}]}`. V2 with datatype BYTES: base64 text in JSON, the file's own bytes in gRPC
and in REST's binary extension. V2 with UINT8 [N, H, W, 3] or FP32 [N, 3, S, S]: pixels, or what the preprocessor would have made
of them. Parameters are those of `stablerep.endpoint.wire`; V2 parameters are scalars, so lists are JSON text there. Everything wrong
with a request is a RequestError here.

Dimension key: N images of a request, H and W pixels, S the encoder's size, F embedding, K labels, k neighbours.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
import uuid
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput, to_http_parameters

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Prediction, Question
from stablerep.endpoint.wire import encoding_of, file_bytes, json_object, kind, question_of, written
from stablerep.errors import RequestError

Images = list[bytes] | np.ndarray[Any, np.dtype[Any]]

_TRUTH = {"true": True, "false": False}
_PROTOCOL_PARAMETERS = {"binary_data_output"}


@dataclass(frozen=True)
class EmbeddingRequest:
    """One request: its images as files or as an array, what is asked about them, and how V1 writes the embeddings."""

    images: Images
    question: Question
    encoding: str = "float"


def parse_v1(body: Any, limits: Limits) -> EmbeddingRequest:
    """Read a V1 body.

    Args:
        body: the decoded JSON, or the raw bytes where the content type was not JSON.
        limits: what may be sent.

    Raises:
        RequestError: it is not what V1 asks for, or over a limit.
    """
    value = json_object(body)
    instances = value.get("instances")
    if not isinstance(instances, list):
        raise RequestError('expected {"instances": [{"b64": "..."}]}, found ' + kind(value, "instances"))
    entries = cast("list[Any]", instances)
    limits.check_batch(len(entries))
    images = [_instance(entry, position, limits) for position, entry in enumerate(entries)]
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(f"parameters: expected an object, found {type(parameters).__name__}")
    asked = cast("dict[str, Any]", parameters)
    return EmbeddingRequest(images, question_of(asked, limits), encoding_of(asked))


def parse_v2(request: InferRequest, limits: Limits) -> EmbeddingRequest:
    """Read a V2 request.

    Raises:
        RequestError: it is not one tensor of a known kind, or over a limit.
    """
    if len(request.inputs) != 1:
        raise RequestError(f"expected exactly one input tensor, found {len(request.inputs)}")
    tensor = request.inputs[0]
    shape = [int(size) for size in tensor.shape]
    limits.check_batch(shape[0] if shape else 0)
    parameters = to_http_parameters(request.parameters) if request.parameters else {}
    values = {key: _scalar_to_value(item) for key, item in parameters.items() if key not in _PROTOCOL_PARAMETERS}
    if "encoding_format" in values:
        raise RequestError("parameters.encoding_format: V2 has binary outputs instead, ask for binary_data")
    question = question_of(values, limits)
    if tensor.datatype == "BYTES":
        if len(shape) > 2 or shape[1:] not in ([], [1]):
            raise RequestError(f"BYTES: expected shape [N] or [N, 1], found {shape}")
        elements = _array(tensor).reshape(-1).tolist()
        return EmbeddingRequest([_element(element, f"inputs[0].data[{i}]", limits) for i, element in enumerate(elements)], question)
    if tensor.datatype not in ("UINT8", "FP32"):
        raise RequestError(f"expected datatype BYTES, UINT8 or FP32, found {str(tensor.datatype)[:40]}")
    return EmbeddingRequest(_array(tensor), question)


def read_v2(body: bytes, json_length: str | None, model_name: str) -> InferRequest:
    """Read a V2 REST body: JSON, or in the binary extension a JSON header and then the bytes of the tensor.

    KServe's own reader turns every binary element into text and fails on image files, and checks JSON on the event loop.

    Args:
        body: of the request.
        json_length: the header Inference-Header-Content-Length; None where there is none.
        model_name: in the path.

    Raises:
        RequestError: it is not one tensor, or header and bytes do not belong together.
    """
    length = len(body) if json_length is None else int(json_length) if json_length.isdecimal() and len(json_length) < 12 else -1
    if not 0 < length <= len(body):
        raise RequestError(f"inference-header-content-length: expected 1 to {len(body)}, found {str(json_length)[:20]!r}")
    header = json_object(body[:length])
    try:
        (tensor,) = header["inputs"]
        parameters = tensor.get("parameters") or {}
        size_bytes = parameters.get("binary_data_size")
        infer_input = InferInput(str(tensor["name"]), _shape(tensor["shape"]), str(tensor["datatype"]), tensor.get("data"), parameters)
        outputs = [RequestedOutput(str(output["name"]), output.get("parameters")) for output in header.get("outputs") or ()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"expected exactly one input tensor with name, shape and datatype, found {kind(header, 'inputs')}") from error
    if size_bytes is None and not isinstance(infer_input.data, list):
        raise RequestError("inputs[0]: expected `data` as a list, or binary_data_size and the bytes after the JSON header")
    raw = None if size_bytes is None else [body[length:]]
    if raw and len(raw[0]) != size_bytes:
        raise RequestError(f"binary_data_size: expected {str(size_bytes)[:20]} bytes after the JSON header, found {len(raw[0])}")
    return InferRequest(
        model_name, [infer_input], _id(header), raw_inputs=raw, parameters=_scalars(header), request_outputs=outputs or None
    )


def answer_v1(prediction: Prediction, request: EmbeddingRequest, model_id: str) -> dict[str, Any]:
    """V1 answer: one embedding per image, or an object per image when labels or neighbours were asked for."""
    rows = rows_of(prediction, request.encoding)
    is_plain = prediction.scores_NK is None and prediction.neighbours is None
    return {"predictions": [row["embedding"] for row in rows] if is_plain else rows, "model_id": model_id}


def rows_of(prediction: Prediction, encoding: str) -> list[dict[str, Any]]:
    """For each image what was asked: label and scores, neighbours, embedding."""
    rows: list[dict[str, Any]] = [{} for _ in prediction.embedding_NF]
    if prediction.scores_NK is not None:
        for row, values in zip(rows, prediction.scores_NK.tolist(), strict=True):
            scores = dict(zip(prediction.labels, values, strict=True))
            row |= {"label": max(scores, key=lambda label: scores[label]), "scores": scores}
    if prediction.neighbours is not None:
        for row, ids, values in zip(rows, prediction.neighbours.ids, prediction.neighbours.scores_BK.tolist(), strict=True):
            row["neighbours"] = [{"id": entry, "score": value} for entry, value in zip(ids, values, strict=True)]
    for row, embedding_F in zip(rows, prediction.embedding_NF, strict=True):
        row["embedding"] = written(embedding_F, encoding)
    return rows


def answer_v2(prediction: Prediction, request: InferRequest, model_id: str) -> InferResponse:
    """V2 answer.

    Tensor `embedding` FP32 or FP16 [N, F]; `scores` FP32 [N, K] in the order of the labels when they were given; `neighbours` BYTES and
    `neighbour_scores` FP32 [N, k] when they were asked for.
    """
    tensors: dict[str, Any] = {"embedding": prediction.embedding_NF, "scores": prediction.scores_NK}
    if prediction.neighbours is not None:
        ids = [[text.encode("utf-8") for text in row] for row in prediction.neighbours.ids]
        tensors |= {"neighbours": np.array(ids, dtype=object), "neighbour_scores": prediction.neighbours.scores_BK}
    outputs: list[InferOutput] = []
    for name, value in tensors.items():
        if value is not None:
            outputs.append(InferOutput(name, list(value.shape), _DATATYPES[value.dtype.kind, value.dtype.itemsize]))
            outputs[-1].set_data_from_numpy(value)  # as bytes: KServe fails on arrays that gRPC wants raw, and makes JSON of bytes
    return InferResponse(
        response_id=request.id or uuid.uuid4().hex,
        model_name=request.model_name,
        model_version=model_id,
        infer_outputs=outputs,
        use_binary_outputs=bool(request.use_binary_outputs),
        requested_outputs=request.request_outputs,
    )


_DATATYPES = {("f", 4): "FP32", ("f", 2): "FP16", ("O", 8): "BYTES"}


def _instance(entry: Any, position: int, limits: Limits) -> bytes:
    where = f"instances[{position}]"
    text = cast("dict[str, Any]", entry).get("b64") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise RequestError(f'{where}: expected {{"b64": "<base64 of an image file>"}}, found {str(entry)[:60]}')
    return file_bytes(text, where, limits)


def _element(element: Any, where: str, limits: Limits) -> bytes:
    if isinstance(element, bytes):
        return element
    if not isinstance(element, str):
        raise RequestError(f"{where}: expected base64 of an image file, found {type(element).__name__}")
    return file_bytes(element, where, limits)


def _array(tensor: InferInput) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        return np.asarray(tensor.as_numpy())
    except Exception as error:  # KServe leaves wrong lengths, types and truncated elements to numpy and struct
        shape = f"{tensor.datatype} {list(tensor.shape)}"
        raise RequestError(f"tensor {str(tensor.name)[:40]!r}: the data do not fill {shape[:80]}: {str(error)[:120]}") from error


def _shape(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(size) is int and 0 <= size < 1 << 40 for size in value) or len(value) > 8:
        raise ValueError("shape")
    return value


def _id(header: dict[str, Any]) -> str | None:
    value = header.get("id")
    if value is not None and not isinstance(value, str):
        raise RequestError(f"id: expected a text, found {type(value).__name__}")
    return value


def _scalars(header: dict[str, Any]) -> dict[str, Any] | None:
    value = header.get("parameters")
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(entry, str | bool | int | float) for entry in value.values()):
        raise RequestError(f"parameters: expected an object of texts, numbers and truth values, found {str(value)[:60]}")
    return value


def _scalar_to_value(item: Any) -> Any:
    """V2 parameters are scalars: a list is JSON text, a truth value may be text, and so may a number."""
    if not isinstance(item, str):
        return item
    if item.startswith("["):
        try:
            return json.loads(item)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"parameters: expected a JSON list, found {item[:60]!r}: {str(error)[:80]}") from error
    return int(item) if item.isdecimal() and len(item) < 10 else _TRUTH.get(item, item)
