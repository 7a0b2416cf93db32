"""The encoder as a KServe model: parse, decode off the event loop, embed through the batcher, answer.

The server starts first and answers 503 while `load_folder` runs in a thread; ready means that a warm-up forward has been done. KServe
calls preprocess, predict and postprocess in turn and times each of them. Errors leave as RequestError for all protocols; the
transports turn them into codes.
"""

# pyright: reportUnknownMemberType=false, reportMissingTypeArgument=false, reportIncompatibleMethodOverride=false
import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from kserve import InferRequest, InferResponse, Model
from kserve.model import InferenceVerb

from stablerep.endpoint.batcher import Batcher
from stablerep.endpoint.folder import local_folder
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.meter import Meter
from stablerep.endpoint.predictor import Answer, Prediction, Predictor, PreparedImage
from stablerep.errors import BadImageError, NotReadyError, TooLargeError
from stablerep.integrations.kserve_protocol import EmbeddingRequest, answer_v1, answer_v2, parse_v1, parse_v2

Result = TypeVar("Result")

log = logging.getLogger("stablerep")


def load_predictor(folder_uri: str, limits: Limits) -> Predictor:
    """Load and warm up the encoder under a path or a store URI (which is downloaded first).

    Raises:
        StablerepError: it is not there, or damaged.
    """
    with local_folder(folder_uri) as folder:
        predictor = Predictor(folder, limits)
    predictor.warm_up()
    return predictor


class EncoderModel(Model):
    """One served encoder.

    Args:
        name: in the paths of the server.
        limits: what a caller may send.
        meter: told about batches and refusals.
    """

    def __init__(self, name: str, limits: Limits, meter: Meter) -> None:
        super().__init__(name)
        self._limits, self._meter = limits, meter
        self._decoders = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="stablerep-decode")
        self._predictor: Predictor | None = None
        self._batcher: Batcher[PreparedImage, Answer] | None = None

    def load_folder(self, folder_uri: str) -> None:
        """Load the encoder and start answering; blocks, so call it in a thread."""
        predictor = load_predictor(folder_uri, self._limits)
        self._batcher = Batcher(
            predictor.forward, max_batch=self._limits.max_batch, max_queue=self._limits.max_queue, on_batch=self._meter.batch
        )
        self._predictor = predictor
        self._meter.serving(predictor.model_id)
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

    async def __call__(self, body: Any, headers: dict[str, str] | None = None, verb: InferenceVerb = InferenceVerb.PREDICT) -> Any:
        """Answer one request.

        Raises:
            RequestError: it is refused.
        """
        if self._batcher is None:
            raise NotReadyError(f"model {self.name!r} is loading; send the request again in a moment")
        try:
            parse = parse_v2 if isinstance(body, InferRequest) else parse_v1
            request = await self._off_loop(lambda: parse(body, self._limits))
            with self._batcher.admit(len(request.images)):
                return await cast("Any", super()).__call__(_Exchange(body, request), headers, verb)
        except (BadImageError, TooLargeError) as error:
            self._meter.refused(type(error).__name__)
            raise

    async def preprocess(self, payload: "_Exchange", headers: dict[str, str] | None = None) -> "_Exchange":
        """Decode and normalise the images in a worker thread."""
        predictor = self._loaded
        payload.prepared = await self._off_loop(lambda: predictor.prepare(payload.request.images, payload.request.question))
        return payload

    async def predict(self, payload: "_Exchange", headers: dict[str, str] | None = None, response_headers: Any = None) -> "_Exchange":
        """Embed the images in a batch with those of other requests."""
        predictor, batcher = self._loaded, self._batcher
        assert batcher is not None
        answers = await asyncio.wrap_future(batcher.submit(payload.prepared))
        question = payload.request.question
        payload.prediction = await self._off_loop(lambda: predictor.finish(answers, question))
        return payload

    async def postprocess(
        self, result: "_Exchange", headers: dict[str, str] | None = None, response_headers: Any = None
    ) -> dict[str, Any] | InferResponse:
        """Answer in the protocol of the request."""
        assert result.prediction is not None
        if isinstance(result.body, InferRequest):
            return answer_v2(result.prediction, result.body, self.model_id)
        return answer_v1(result.prediction, self.model_id)

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata: image files; UINT8 [N, H, W, 3] and FP32 [N, 3, S, S] are accepted in their place."""
        return [{"name": "image", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata: the embedding, and scores where labels can be given."""
        predictor = self._predictor
        outputs = [{"name": "embedding", "datatype": "FP32", "shape": [-1, predictor.embedding_dim if predictor else -1]}]
        return [*outputs, {"name": "scores", "datatype": "FP32", "shape": [-1, -1]}] if predictor and predictor.has_text else outputs

    @property
    def _loaded(self) -> Predictor:
        assert self._predictor is not None
        return self._predictor

    async def _off_loop(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)


class _Exchange:
    """One request on its way through preprocess, predict and postprocess."""

    def __init__(self, body: Any, request: EmbeddingRequest) -> None:
        self.body, self.request = body, request
        self.prepared: list[PreparedImage] = []
        self.prediction: Prediction | None = None
