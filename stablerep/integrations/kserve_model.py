"""The encoder as a KServe model: parse, decode off the event loop, embed through the batcher, answer.

The server starts first and answers 503 while `load_folder` runs in a thread; ready means that a warm-up forward has been done. KServe
calls preprocess, predict and postprocess in turn and times each of them; `embeddings` is the same way for OpenAI's shape. Errors leave
as RequestError for all protocols; the transports turn them into codes.
"""

# pyright: reportUnknownMemberType=false, reportMissingTypeArgument=false, reportIncompatibleMethodOverride=false
import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from kserve import InferRequest, InferResponse, Model
from kserve.model import InferenceVerb

from stablerep.endpoint.batcher import Batcher
from stablerep.endpoint.compute import Compute
from stablerep.endpoint.folder import local_folder
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.meter import Meter
from stablerep.endpoint.openai import answer_openai, parse_openai
from stablerep.endpoint.predictor import Answer, Prediction, Predictor, PreparedImage
from stablerep.endpoint.wire import written
from stablerep.errors import BadImageError, NotReadyError, TimeLimitError, TooLargeError, UnknownModelError, UnsupportedFormatError
from stablerep.integrations.kserve_protocol import EmbeddingRequest, answer_v1, answer_v2, parse_v1, parse_v2, rows_of

Result = TypeVar("Result")

_SMALL_BYTES = 256 << 10  # of a body that is parsed in well under a millisecond
_FEW_IMAGES = 4

log = logging.getLogger("stablerep")


def load_predictor(folder_uri: str, limits: Limits, compute: Compute | None = None) -> Predictor:
    """Load and warm up the encoder under a path or a store URI (which is downloaded first).

    Raises:
        StablerepError: it is not there, or damaged.
    """
    with local_folder(folder_uri) as folder:
        predictor = Predictor(folder, limits, compute)
    predictor.warm_up()
    return predictor


class EncoderModel(Model):
    """One served encoder.

    Args:
        name: in the paths of the server.
        limits: what a caller may send.
        meter: told about batches and refusals.
        compute: how the encoder is run.
    """

    def __init__(self, name: str, limits: Limits, meter: Meter, compute: Compute | None = None) -> None:
        super().__init__(name)
        self._limits, self._meter, self._compute = limits, meter, compute
        self._decoders = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="stablerep-decode")
        self._predictor: Predictor | None = None
        self._batcher: Batcher[PreparedImage, Answer] | None = None

    def load_folder(self, folder_uri: str) -> None:
        """Load the encoder and start answering; blocks, so call it in a thread."""
        compute = self._compute or Compute()
        num_workers = compute.claim_workers()
        predictor = load_predictor(folder_uri, self._limits, compute)
        self._batcher = Batcher(
            predictor.forward,
            max_batch=compute.batch(self._limits.max_batch),
            max_queue=self._limits.max_queue,
            num_workers=num_workers,
            on_batch=self._meter.batch,
            on_wait=self._meter.waited,
        )
        self._predictor = predictor
        self._meter.serving(predictor.model_id, predictor.facts.norm)
        self.ready = True
        log.info("ready: %s serves %s", self.name, predictor.model_id)

    def load(self) -> bool:
        """KServe asks a model that is not ready to load itself, on the event loop; this one is loaded once, by `load_folder`."""
        return self.ready

    def close(self) -> None:
        """Answer what is queued and stop."""
        self.ready = False
        if self._batcher:
            self._batcher.close()
        self._decoders.shutdown()

    @property
    def model_id(self) -> str:
        """Id of the loaded model; empty while loading."""
        return self._predictor.model_id if self._predictor else ""

    @property
    def facts(self) -> dict[str, Any]:
        """What metadata say beside the tensors; empty while loading."""
        return self._predictor.facts.metadata if self._predictor else {}

    async def __call__(self, body: Any, headers: dict[str, str] | None = None, verb: InferenceVerb = InferenceVerb.PREDICT) -> Any:
        """Answer one request of V1 or V2.

        Raises:
            RequestError: it is refused.
        """

        def read() -> EmbeddingRequest:
            return parse_v2(body, self._limits) if isinstance(body, InferRequest) else parse_v1(body, self._limits)

        async with self._answering() as batcher:
            # A short V1 body is read before a thread would have begun.
            request = read() if isinstance(body, dict) and _is_small(headers or {}) else await self.off_loop(read)
            with batcher.admit(len(request.images)):
                return await cast("Any", super()).__call__(_Exchange(body, request), headers, verb)

    async def embeddings(self, body: bytes) -> dict[str, Any]:
        """Answer one request of `/v1/embeddings`.

        Raises:
            RequestError: it is refused.
        """
        async with self._answering() as batcher:
            predictor = self._loaded
            request = await self.off_loop(lambda: parse_openai(body, self._limits))
            if request.model not in (self.name, predictor.model_id):
                raise UnknownModelError(f"model: expected {self.name!r} or {predictor.model_id!r}, found {request.model[:60]!r}")
            request.check_dimensions(predictor.dimensions(request.question))
            with batcher.admit(request.num_inputs):
                rows: dict[int, dict[str, Any]] = {}
                num_tokens = len(request.images) * predictor.num_patches
                if request.texts:
                    texts = list(request.texts.values())
                    embedding_ND, num_text_tokens = await self.off_loop(lambda: predictor.embed_texts(texts, request.question))
                    num_tokens += num_text_tokens
                    written_rows = [{"embedding": written(embedding_D, request.encoding)} for embedding_D in embedding_ND]
                    rows |= dict(zip(request.texts, written_rows, strict=True))
                if request.images:
                    exchange = _Exchange(body, EmbeddingRequest(list(request.images.values()), request.question))
                    prediction = (await self.predict(await self.preprocess(exchange))).answered
                    rows |= dict(zip(request.images, rows_of(prediction, request.encoding), strict=True))
        return answer_openai([rows[index] for index in sorted(rows)], request.model, predictor.model_id, num_tokens)

    @asynccontextmanager
    async def _answering(self) -> AsyncGenerator[Batcher[PreparedImage, Answer]]:
        """What every request has: a loaded model, a time limit, refusals that are counted."""
        if self._batcher is None:
            raise NotReadyError(f"model {self.name!r} is loading; send the request again in a moment")
        try:
            async with asyncio.timeout(self._limits.max_request_seconds):
                yield self._batcher
        except TimeoutError as error:
            seconds = self._limits.max_request_seconds
            raise TimeLimitError(f"the request was not answered within {seconds} s; send it again in a moment, or fewer images") from error
        except (BadImageError, TooLargeError, UnsupportedFormatError) as error:
            self._meter.refused(type(error).__name__)
            raise

    async def preprocess(self, payload: "_Exchange", headers: dict[str, str] | None = None) -> "_Exchange":
        """Decode and normalise the images in a worker thread, which hands them to the batcher itself."""
        predictor, batcher = self._loaded, self._batcher
        assert batcher is not None

        def queue() -> None:
            prepared = predictor.prepare(payload.request.images, payload.request.question)
            if not payload.is_given_up:
                payload.queued = batcher.submit(prepared)

        try:
            await self.off_loop(queue)
        except asyncio.CancelledError:
            payload.is_given_up = True  # over its time while it was decoded: the model is spared
            raise
        return payload

    async def predict(self, payload: "_Exchange", headers: dict[str, str] | None = None, response_headers: Any = None) -> "_Exchange":
        """Embed the images in batches with those of other requests."""
        predictor = self._loaded
        assert payload.queued is not None
        answers = await asyncio.wrap_future(payload.queued)
        question = payload.request.question

        def finish() -> Prediction:
            return predictor.finish(answers, question)

        takes_time = question.labels or question.num_neighbours or question.is_beside_text or len(answers) > _FEW_IMAGES
        payload.prediction = await self.off_loop(finish) if takes_time else finish()
        self._meter.embedded(predictor.norms(answers))
        return payload

    async def postprocess(
        self, result: "_Exchange", headers: dict[str, str] | None = None, response_headers: Any = None
    ) -> dict[str, Any] | InferResponse:
        """Answer in the protocol of the request."""
        prediction, model_id = result.answered, self.model_id
        if isinstance(result.body, InferRequest):
            return answer_v2(prediction, result.body, model_id)
        return answer_v1(prediction, result.request, model_id)

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: image files; UINT8 [N, H, W, 3] and FP32 [N, 3, S, S] are accepted in their place."""
        return [{"name": "image", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata: the embedding, and scores where labels can be given."""
        predictor = self._predictor
        outputs = [{"name": "embedding", "datatype": "FP32", "shape": [-1, predictor.embedding_dim if predictor else -1]}]
        return [*outputs, {"name": "scores", "datatype": "FP32", "shape": [-1, -1]}] if predictor and predictor.has_text else outputs

    async def off_loop(self, function: Callable[[], Result]) -> Result:
        """Run something that takes time in a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    @property
    def _loaded(self) -> Predictor:
        assert self._predictor is not None
        return self._predictor


class _Exchange:
    """One request on its way through preprocess, predict and postprocess."""

    def __init__(self, body: Any, request: EmbeddingRequest) -> None:
        self.body, self.request = body, request
        self.queued: Future[list[Answer]] | None = None
        self.is_given_up = False
        self.prediction: Prediction | None = None

    @property
    def answered(self) -> Prediction:
        assert self.prediction is not None
        return self.prediction


def _is_small(headers: dict[str, str]) -> bool:
    """Whether a request says that its body is no longer than what the event loop may parse; the server reads no more than it says."""
    length = headers.get("content-length", "")
    return length.isdecimal() and len(length) < 10 and int(length) <= _SMALL_BYTES
