"""The baseline of `endpoint.py`: an encoder served the plain way, as KServe's guide to custom models shows it.

    python benchmarks/plain_kserve.py FOLDER PORT

One `kserve.Model`: base64 JSON in, decode and predict in the coroutine, one request after the other, torch's threads as they come. The
encoder, the preprocessing and the answers are those of the server that it is compared with.
https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/custom-predictor/custom-predictor
"""

import base64
import sys
import warnings
from pathlib import Path
from typing import Any

from kserve import Model, ModelServer

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor


class PlainModel(Model):
    """Decode, embed, answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__("stablerep")
        self.predictor = Predictor(folder, Limits())
        self.predictor.warm_up()
        self.ready = True

    async def predict(self, payload: dict[str, Any], headers: Any = None) -> dict[str, Any]:
        """All of it, on the event loop."""
        images = [base64.b64decode(instance["b64"]) for instance in payload["instances"]]
        return {"predictions": self.predictor.predict(images).embedding_NF.tolist()}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*ORJSONResponse is deprecated")
    ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1, enable_latency_logging=False).start(
        [PlainModel(Path(sys.argv[1]))]
    )
