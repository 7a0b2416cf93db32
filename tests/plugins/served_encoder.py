"""An exported encoder with random weights behind the real server, in a process of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tiny_encoder import write_encoder

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.local import EndpointState, Placement, Served, serve, stop
from stablerep.endpoint.predictor import Predictor
from stablerep.endpoint.reference import write_references
from stablerep.store import Store


@dataclass(frozen=True)
class ServedEncoder:
    url: str
    model_id: str
    folder: Path
    state: EndpointState


@contextmanager
def served_encoder(root: Path, limits: Limits | None = None, references: dict[str, bytes] | None = None) -> Iterator[ServedEncoder]:
    """A server that is ready; `references` are images by id that neighbours are found among."""
    store, folder = Store(root.as_uri()), root / "models" / "served"
    model_id = write_encoder(folder, seed=1)
    if references:
        write_references(folder, list(references), Predictor(folder, Limits()).predict(list(references.values())).embedding_NF, model_id)
    state = serve(store, Placement("stablerep", 0, 0, limits or Limits(), ready_timeout_seconds=120), Served(model_id, folder.as_uri()))
    try:
        yield ServedEncoder(f"http://{state.host}:{state.port}", model_id, folder, state)
    finally:
        stop(store, "stablerep")
