"""KServe's request and answer formats, V1 (dictionaries) and V2 (InferRequest, REST and gRPC alike), to and from values.

Images travel in three ways. V1: `{"instances": [{"b64": ...}]}`. V2 with datatype BYTES: base64 text in JSON, the file's own bytes in gRPC
and in REST's binary extension. V2 with UINT8 [N, H, W, 3] or FP32 [N, 3, S, S]: pixels, or what the preprocessor would have made
of them. Parameters are `labels`, `templates`, `normalise`; V2 parameters are scalars, so lists are JSON text there. Everything wrong
with a request is a RequestError here.

Dimension key: N images of a request, H and W pixels, S the encoder's size, F embedding, K labels.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import base64
import binascii
import json
import uuid
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput, to_http_parameters

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Prediction, Question
from stablerep.errors import BadImageError, RequestError

Images = list[bytes] | np.ndarray[Any, np.dtype[Any]]

_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class EmbeddingRequest:
    """One request: its images as files or as an array, and what is asked about them."""

    images: Images
    question: Question


def parse_v1(body: Any, limits: Limits) -> EmbeddingRequest:
    """Read a V1 body.

    Args:
        body: the decoded JSON, or the raw bytes where the content type was not JSON.
        limits: what may be sent.

    Raises:
        RequestError: it is not what V1 asks for, or over a limit.
    """
    value = _json_object(body)
    instances = value.get("instances")
    if not isinstance(instances, list):
        raise RequestError('expected {"instances": [{"b64": "..."}]}, found ' + _kind(value, "instances"))
    entries = cast("list[Any]", instances)
    limits.check_batch(len(entries))
    images = [_instance(entry, position, limits) for position, entry in enumerate(entries)]
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(f"parameters: expected an object, found {type(parameters).__name__}")
    return EmbeddingRequest(images, _question(cast("dict[str, Any]", parameters), limits))


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
    question = _question({key: _scalar_to_value(item) for key, item in parameters.items()}, limits)
    if tensor.datatype == "BYTES":
        if len(shape) > 2 or shape[1:] not in ([], [1]):
            raise RequestError(f"BYTES: expected shape [N] or [N, 1], found {shape}")
        elements = cast("list[str | bytes]", _array(tensor).reshape(-1).tolist())
        return EmbeddingRequest([_file_bytes(e, f"inputs[0].data[{i}]", limits) for i, e in enumerate(elements)], question)
    if tensor.datatype not in ("UINT8", "FP32"):
        raise RequestError(f"expected datatype BYTES, UINT8 or FP32, found {tensor.datatype}")
    return EmbeddingRequest(_array(tensor), question)


def parse_binary_v2(body: bytes, json_length: str, model_name: str) -> InferRequest:
    """Read a V2 REST body in the binary extension: a JSON header, then the bytes of the tensor.

    KServe's own reader turns every element into text and fails on image files.

    Raises:
        RequestError: header and bytes do not belong together.
    """
    length = int(json_length) if json_length.isdigit() else -1
    if not 0 < length <= len(body):
        raise RequestError(f"inference-header-content-length: expected 1 to {len(body)}, found {json_length!r}")
    header = _json_object(body[:length])
    try:
        (tensor,) = header["inputs"]
        size_bytes = tensor.get("parameters", {}).get("binary_data_size")
        infer_input = InferInput(tensor["name"], tensor["shape"], tensor["datatype"], tensor.get("data"), tensor.get("parameters"))
        outputs = [RequestedOutput(output["name"], output.get("parameters")) for output in header.get("outputs") or ()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"expected one input tensor with name, shape and datatype, found {_kind(header, 'inputs')}") from error
    raw = None if size_bytes is None else [body[length:]]
    if raw and len(raw[0]) != size_bytes:
        raise RequestError(f"binary_data_size: expected {size_bytes} bytes after the JSON header, found {len(raw[0])}")
    return InferRequest(
        model_name, [infer_input], header.get("id"), raw_inputs=raw, parameters=header.get("parameters"), request_outputs=outputs or None
    )


def answer_v1(prediction: Prediction, model_id: str) -> dict[str, Any]:
    """V1 answer: one list of floats per image, or an object per image when labels were given."""
    embeddings = prediction.embedding_NF.tolist()
    if prediction.scores_NK is None:
        return {"predictions": embeddings, "model_id": model_id}
    scores = [dict(zip(prediction.labels, row, strict=True)) for row in prediction.scores_NK.tolist()]
    rows = [
        {"label": max(score, key=lambda label: score[label]), "scores": score, "embedding": embedding}
        for score, embedding in zip(scores, embeddings, strict=True)
    ]
    return {"predictions": rows, "model_id": model_id}


def answer_v2(prediction: Prediction, request: InferRequest, model_id: str) -> InferResponse:
    """V2 answer: tensor `embedding` FP32 [N, F], and `scores` FP32 [N, K] in the order of the labels when they were given."""
    outputs: list[InferOutput] = []
    for name, value in (("embedding", prediction.embedding_NF), ("scores", prediction.scores_NK)):
        if value is not None:
            outputs.append(InferOutput(name, list(value.shape), "FP32"))
            outputs[-1].set_data_from_numpy(value)  # as bytes: KServe fails on arrays that gRPC wants raw, and makes JSON of bytes
    return InferResponse(
        response_id=request.id or uuid.uuid4().hex,
        model_name=request.model_name,
        model_version=model_id,
        infer_outputs=outputs,
        use_binary_outputs=bool(request.use_binary_outputs),
        requested_outputs=request.request_outputs,
    )


def _json_object(body: Any) -> dict[str, Any]:
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise RequestError(f"expected a JSON body, found {body[:40]!r}: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(f"expected a JSON object, found {type(body).__name__}")
    return cast("dict[str, Any]", body)


def _kind(value: dict[str, Any], key: str) -> str:
    return f"{key}: {type(value[key]).__name__}" if key in value else f"keys {sorted(map(str, value))[:8]}"


def _instance(entry: Any, position: int, limits: Limits) -> bytes:
    where = f"instances[{position}]"
    text = cast("dict[str, Any]", entry).get("b64") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise RequestError(f'{where}: expected {{"b64": "<base64 of an image file>"}}, found {str(entry)[:60]}')
    return _file_bytes(text, where, limits)


def _file_bytes(element: str | bytes, where: str, limits: Limits) -> bytes:
    if isinstance(element, bytes):
        return element
    limits.check_bytes(len(element) * 3 // 4 - 2)
    try:
        return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImageError(f"{where}: expected base64, found {element[:24]!r}...: {error}") from error


def _array(tensor: InferInput) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        return np.asarray(tensor.as_numpy())
    except Exception as error:  # KServe leaves wrong lengths, types and truncated elements to numpy and struct
        raise RequestError(f"tensor {tensor.name!r}: the data do not fill {tensor.datatype} {list(tensor.shape)}: {error}") from error


def _question(parameters: dict[str, Any], limits: Limits) -> Question:
    known = {"labels", "templates", "normalise", "binary_data_output"}
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise RequestError(f"parameters: expected labels, templates or normalise, found {', '.join(unknown)}")
    is_normalised = parameters.get("normalise", False)
    if not isinstance(is_normalised, bool):
        raise RequestError(f"parameters.normalise: expected true or false, found {is_normalised!r}")
    labels = _texts(parameters, "labels", limits.max_labels, limits)
    templates = _texts(parameters, "templates", limits.max_prompts, limits) or ("{}",)
    if len(labels) * len(templates) > limits.max_prompts:
        raise RequestError(f"parameters: expected at most {limits.max_prompts} labels x templates, found {len(labels)} x {len(templates)}")
    if len(set(labels)) != len(labels):
        raise RequestError("parameters.labels: expected different labels, found one twice")
    if not all("{}" in template for template in templates):
        raise RequestError('parameters.templates: expected "{}" in each, where the label goes, e.g. "a photo of a {}"')
    return Question(labels, templates, is_normalised)


def _texts(parameters: dict[str, Any], key: str, max_number: int, limits: Limits) -> tuple[str, ...]:
    value = parameters.get(key, [])
    texts: Any = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RequestError(f"parameters.{key}: expected a list of texts (V2: as JSON text), found {str(value)[:60]}")
    if len(texts) > max_number or any(len(text) > limits.max_label_characters for text in texts):
        raise RequestError(f"parameters.{key}: expected at most {max_number} texts of {limits.max_label_characters} characters each")
    return tuple(texts)


def _scalar_to_value(item: Any) -> Any:
    """V2 parameters are scalars: a list is JSON text, a truth value may be text."""
    if isinstance(item, str) and item.startswith("["):
        try:
            return json.loads(item)
        except ValueError as error:
            raise RequestError(f"parameters: expected a JSON list, found {item[:60]!r}: {error}") from error
    return _TRUTH.get(item, item) if isinstance(item, str) else item
