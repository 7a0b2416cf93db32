"""`POST /v1/embeddings` in OpenAI's shape, to and from values: images as data URIs and, where the encoder has a text tower, texts.

    {"model": "stablerep", "input": ["data:image/png;base64,...", "a handwritten seven"], "encoding_format": "float"}

`input` is one text or a list; whatever starts with `data:` is an image, everything else a text; `{"image": "data:..."}` and
`{"text": "..."}` say it outright. Nothing is fetched: an image by URL is refused. Images alone give features [F]; with a text, or
`"space": "text"`, all embeddings are unit vectors of the space shared with text [D], so that they can be compared. The other parameters of
`stablerep.endpoint.wire` stand beside `input`. https://platform.openai.com/docs/api-reference/embeddings
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Question
from stablerep.endpoint.wire import PARAMETERS, encoding_of, file_bytes, json_object, kind, question_of
from stablerep.errors import BadImageError, CannotAnswerError, RequestError, TooLargeError, UnsupportedFormatError

_KNOWN = {"model", "input", "dimensions", "user", *PARAMETERS}
_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp", "image/bmp", "image/x-ms-bmp", "application/octet-stream", "")
MAX_TEXT_CHARACTERS = 8_192


@dataclass(frozen=True)
class EmbeddingsRequest:
    """One request: images and texts with their places in `input`, what is asked, how embeddings are written."""

    images: dict[int, bytes]
    texts: dict[int, str]
    question: Question
    encoding: str
    model: str
    dimensions: int | None

    @property
    def num_inputs(self) -> int:
        """Images and texts."""
        return len(self.images) + len(self.texts)

    def check_dimensions(self, dimensions: int) -> None:
        """Refuse to shorten embeddings.

        Raises:
            CannotAnswerError: another length was asked for.
        """
        if self.dimensions not in (None, dimensions):
            raise CannotAnswerError(f"dimensions: embeddings here have {dimensions} numbers and are not shortened, found {self.dimensions}")


def parse_openai(body: Any, limits: Limits) -> EmbeddingsRequest:
    """Read a body.

    Raises:
        RequestError: it is not of the shape above, or over a limit.
    """
    value = json_object(body)
    unknown = sorted(set(value) - _KNOWN)
    if unknown or "input" not in value:
        raise RequestError(f'expected {{"model": "...", "input": "data:image/..." or [...]}}, found {kind(value, "input")}')
    model, dimensions = value.get("model"), value.get("dimensions")
    if not isinstance(model, str):
        raise RequestError(f"model: expected the name of the served model, found {kind(value, 'model')}")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise RequestError(f"dimensions: expected a number above 0, found {str(dimensions)[:40]!r}")
    entries = cast("list[Any]", value["input"] if isinstance(value["input"], list) else [value["input"]])
    limits.check_batch(len(entries))
    images: dict[int, bytes] = {}
    texts: dict[int, str] = {}
    for position, entry in enumerate(entries):
        where = f"input[{position}]"
        content, is_image = _content(entry, where)
        if is_image:
            images[position] = _data_uri(content, where, limits)
        else:
            texts[position] = _text(content, where)
    asked = {key: value[key] for key in PARAMETERS if value.get(key) is not None}
    question = question_of(asked, limits, "body")
    if texts and (question.labels or question.num_neighbours):
        raise RequestError("labels and neighbours are asked of images; found texts in the same request")
    if texts:
        question = dataclasses.replace(question, is_beside_text=True)
    return EmbeddingsRequest(images, texts, question, encoding_of(asked, "body"), model, dimensions)


def answer_openai(rows: Sequence[dict[str, Any]], name: str, model_id: str, num_tokens: int) -> dict[str, Any]:
    """The answer.

    Args:
        rows: for each input its embedding, and for images what else was asked.
        name: of the model, as it was asked for.
        model_id: of the model.
        num_tokens: what the towers read: tokens of texts, patches of images.
    """
    data = [{"object": "embedding", "index": index, **row} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": name, "model_id": model_id, "usage": usage}


def _content(entry: Any, where: str) -> tuple[str, bool]:
    if isinstance(entry, str):
        return entry, entry[:5].lower() == "data:"
    fields: dict[str, Any] = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    if len(fields) == 1:
        ((key, content),) = fields.items()
        if key in ("image", "text") and isinstance(content, str):
            return content, key == "image"
    found = f"an object with {list(fields)[:4]}" if fields else type(cast("object", entry)).__name__
    raise RequestError(f'{where}: expected a data URI, a text, {{"image": data URI}} or {{"text": text}}, found {found[:120]}')


def _data_uri(text: str, where: str, limits: Limits) -> bytes:
    head, comma, data = text.partition(",")
    scheme, _, media = head.partition(":")
    if scheme.lower() != "data" or not comma:
        raise BadImageError(f"{where}: expected data:image/...;base64,... (nothing is fetched from URLs), found {text[:24]!r}")
    kind_of_media, *options = media.lower().split(";")
    if "base64" not in options:
        raise BadImageError(f"{where}: expected a data URI with ;base64, found {head[:60]!r}")
    if kind_of_media.strip() not in _TYPES:
        raise UnsupportedFormatError(f"{where}: expected image/jpeg, image/png, image/webp or image/bmp, found {kind_of_media[:40]!r}")
    return file_bytes(data, where, limits)


def _text(text: str, where: str) -> str:
    if not text.strip():
        raise RequestError(f"{where}: expected a text that is not empty, found {text[:20]!r}")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise TooLargeError(f"{where}: expected a text of at most {MAX_TEXT_CHARACTERS} characters, found {len(text)}")
    return text
