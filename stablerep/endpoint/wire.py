"""What all protocols of the server share: JSON bodies, base64 images, the parameters of a question, embeddings as text.

Everything wrong with a request is a RequestError here, and says where.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Array, Question
from stablerep.errors import BadImageError, RequestError, TooLargeError

PARAMETERS = ("labels", "templates", "normalise", "space", "dtype", "encoding_format", "neighbours")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def json_object(body: Any) -> dict[str, Any]:
    """A JSON object, from bytes or decoded already.

    Raises:
        RequestError: it is none.
    """
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"expected a JSON body, found {body[:40]!r}: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(f"expected a JSON object, found {type(body).__name__}")
    return cast("dict[str, Any]", body)


def kind(value: Mapping[str, Any], key: str) -> str:
    """What an object has in the place of `key`, for messages."""
    return f"{key}: {type(value[key]).__name__}" if key in value else f"keys {str(sorted(map(str, value))[:8])[:120]}"


def file_bytes(text: str, where: str, limits: Limits) -> bytes:
    """Bytes of base64 text, of the standard or the URL-safe alphabet, with or without padding.

    Raises:
        BadImageError: it is no base64.
        TooLargeError: the bytes would be over the limit of an image.
    """
    limits.check_bytes(len(text) * 3 // 4 - 2)
    try:
        encoded = text.encode("ascii").translate(_URL_SAFE)
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImageError(f"{where}: expected base64, found {text[:24]!r}...: {str(error)[:80]}") from error


def question_of(parameters: Mapping[str, Any], limits: Limits, where: str = "parameters") -> Question:
    """What is asked, from values as JSON has them.

    Args:
        parameters: of `PARAMETERS`; others are refused.
        limits: what may be asked.
        where: for messages.

    Raises:
        RequestError: an unknown name or a wrong value.
        TooLargeError: too many labels, prompts or neighbours.
    """
    unknown = sorted(set(parameters) - set(PARAMETERS))
    if unknown:
        raise RequestError(f"{where}: expected {', '.join(PARAMETERS)}, found {', '.join(unknown)[:120]}")
    labels = _texts(parameters, "labels", limits.max_labels, limits, where)
    templates = _texts(parameters, "templates", limits.max_prompts, limits, where) or ("{}",)
    if len(labels) * len(templates) > limits.max_prompts:
        raise TooLargeError(f"{where}: expected at most {limits.max_prompts} labels x templates, found {len(labels)} x {len(templates)}")
    if len(set(labels)) != len(labels):
        raise RequestError(f"{where}.labels: expected different labels, found one twice")
    if not all("{}" in template for template in templates):
        raise RequestError(f'{where}.templates: expected "{{}}" in each, where the label goes, e.g. "a photo of a {{}}"')
    return Question(
        labels=labels,
        templates=templates,
        is_normalised=_truth(parameters, "normalise", where),
        is_beside_text=_choice(parameters, "space", ("features", "text"), where) == "text",
        is_half=_choice(parameters, "dtype", ("fp32", "fp16"), where) == "fp16",
        num_neighbours=_count(parameters, "neighbours", limits.max_neighbours, where),
    )


def encoding_of(parameters: Mapping[str, Any], where: str = "parameters") -> str:
    """How embeddings are to be written in JSON: "float" (a list) or "base64" (little-endian numbers).

    Raises:
        RequestError: neither.
    """
    return _choice(parameters, "encoding_format", ("float", "base64"), where)


def written(embedding_F: Array, encoding: str) -> list[float] | str:
    """One embedding in JSON."""
    if encoding == "float":
        return embedding_F.tolist()
    little = embedding_F.astype(embedding_F.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode("ascii")


def _choice(parameters: Mapping[str, Any], key: str, known: tuple[str, ...], where: str) -> str:
    value = parameters.get(key, known[0])
    if not isinstance(value, str) or value not in known:
        raise RequestError(f"{where}.{key}: expected {' or '.join(known)}, found {str(value)[:60]!r}")
    return value


def _truth(parameters: Mapping[str, Any], key: str, where: str) -> bool:
    value = parameters.get(key, False)
    if not isinstance(value, bool):
        raise RequestError(f"{where}.{key}: expected true or false, found {str(value)[:60]!r}")
    return value


def _count(parameters: Mapping[str, Any], key: str, most: int, where: str) -> int:
    value = parameters.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"{where}.{key}: expected a number from 0 to {most}, found {str(value)[:60]!r}")
    if value > most:
        raise TooLargeError(f"{where}.{key}: expected at most {most}, found {str(value)[:20]}")
    return value


def _texts(parameters: Mapping[str, Any], key: str, max_number: int, limits: Limits, where: str) -> tuple[str, ...]:
    value = parameters.get(key, [])
    texts: Any = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in cast("list[Any]", texts)):
        raise RequestError(f"{where}.{key}: expected a list of texts (V2: as JSON text), found {str(value)[:60]}")
    listed = cast("list[str]", texts)
    if len(listed) > max_number or any(len(text) > limits.max_label_characters for text in listed):
        raise TooLargeError(f"{where}.{key}: expected at most {max_number} texts of {limits.max_label_characters} characters each")
    return tuple(listed)
