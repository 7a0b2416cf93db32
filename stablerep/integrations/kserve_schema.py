"""The OpenAPI of our own routes, as `/openapi.json` has it. Their bodies are read by hand, so this is written by hand."""

from typing import Any

_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_TEXTS = {"oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}]}
_ENTRY = {
    "oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "object", "properties": {"image": {"type": "string"}}, "required": ["image"], "additionalProperties": False},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"], "additionalProperties": False},
    ]
}
_EMBEDDINGS_BODY = {
    "type": "object",
    "required": ["model", "input"],
    "additionalProperties": False,
    "properties": {
        "model": {"type": "string", "description": "name or id of the served model"},
        "input": {"oneOf": [_ENTRY, {"type": "array", "items": _ENTRY, "minItems": 1}], "description": "data URIs of images, or texts"},
        "encoding_format": {"enum": ["float", "base64"], "type": "string"},
        "dimensions": {"type": "integer", "minimum": 1},
        "user": {"type": "string"},
        "dtype": {"enum": ["fp32", "fp16"], "type": "string"},
        "normalise": {"type": "boolean"},
        "space": {"enum": ["features", "text"], "type": "string"},
        "labels": _TEXTS,
        "templates": _TEXTS,
        "neighbours": {"type": "integer", "minimum": 0},
    },
}
_EMBEDDING = {"oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
_EMBEDDINGS_ANSWER = {
    "type": "object",
    "required": ["object", "data", "model", "model_id", "usage"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {"object": {"const": "embedding"}, "index": {"type": "integer"}, "embedding": _EMBEDDING},
            },
        },
        "model": {"type": "string"},
        "model_id": {"type": "string"},
        "usage": {
            "type": "object",
            "required": ["prompt_tokens", "total_tokens"],
            "properties": {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
        },
    },
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": ["BYTES", "UINT8", "FP32"], "type": "string"},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}
_INFER_BODY = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        "parameters": {"type": "object"},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
    },
}
_INFER_ANSWER = {
    "type": "object",
    "required": ["id", "model_name", "model_version", "outputs"],
    "properties": {"outputs": {"type": "array", "items": {"type": "object", "required": ["name", "shape", "datatype"]}}},
}
_METADATA_ANSWER = {
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs", "parameters"],
    "properties": {"versions": {"type": "array", "items": {"type": "string"}}, "parameters": {"type": "object"}},
}
_REFUSALS = {
    400: "Not what the route takes, or an image that cannot be decoded",
    401: "A token is asked for",
    404: "No such model",
    408: "The body took too long",
    413: "Over a limit",
    415: "An image of a format that is not read",
    422: "This encoder has no answer to it",
    429: "Too many requests of this client",
    503: "Loading, full, or shutting down; see Retry-After",
}


def _route(answer: dict[str, Any], body: dict[str, Any] | None, *codes: int) -> dict[str, Any]:
    refusals = {code: {"description": _REFUSALS[code], "content": {"application/json": {"schema": _ERROR}}} for code in codes}
    responses: dict[int, Any] = {200: {"description": "Answered", "content": {"application/json": {"schema": answer}}}, **refusals}
    request = {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}} if body else {}
    return {"responses": responses, "openapi_extra": request}


EMBEDDINGS = _route(_EMBEDDINGS_ANSWER, _EMBEDDINGS_BODY, *_REFUSALS)
INFER = _route(_INFER_ANSWER, _INFER_BODY, *_REFUSALS)
METADATA = _route(_METADATA_ANSWER, None, 401, 404, 429)
