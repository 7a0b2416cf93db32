import os
import socket
from pathlib import Path

import pytest

from stablerep.catalogue import ParquetCatalogue
from stablerep.endpoint import local
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.local import Placement, Served
from stablerep.endpoint.process import free_port, is_running
from stablerep.errors import DataError, PortInUseError
from stablerep.records import Evaluation
from stablerep.stages import serve
from stablerep.store import Store


class Replaced(BaseException):
    """What `os.execv` was asked to become; a real call would end the tests."""


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    asked: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        asked.append(arguments)
        raise Replaced

    monkeypatch.setattr(os, "execv", execv)
    return asked


def _promote(store: Store, model_id: str, suite: str, when: str) -> None:
    catalogue = ParquetCatalogue(store)
    catalogue.register_evaluation(Evaluation(model_id, suite, "file:///none", 0.8, 0.7, 0.9, ()), when)
    catalogue.promote(model_id, suite, when)
    store.write(f"models/{model_id}/SHA256SUMS", "")


def test_the_model_promoted_last_is_served_where_the_recipe_says(store: Store, become: list[list[str]]) -> None:
    _promote(store, "model-b", "suite-1", "2026-11-23T07:00:00+02:00")
    _promote(store, "model-a", "suite-2", "2026-11-23T06:00:00+00:00")
    port = free_port()
    with pytest.raises(Replaced):
        serve.run("quickstart", f"deploy.port={port} deploy.grpc_port=0 deploy.max_batch=3", store.uri)
    arguments = become[0]
    assert arguments[1:3] == ["-m", "stablerep.integrations.kserve_server"]
    assert {f"--folder={store.uri_of('models/model-a')}", f"--port={port}", "--host=127.0.0.1", "--max-batch=3"} < set(arguments)


def test_the_endpoint_in_the_background_makes_room(
    store: Store, become: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "endpoint"))
    monkeypatch.setattr(local, "SERVER_MODULE", "fake_server")
    (tmp_path / "model_id").write_text("model-a")
    port, grpc_port = free_port(), free_port()
    where = Placement("stablerep", port, grpc_port, Limits(), ready_timeout_seconds=20.0)
    state = local.serve(store, where, Served("model-a", tmp_path.as_uri()))
    _promote(store, "model-a", "suite-1", "2026-11-23T06:00:00+00:00")
    with pytest.raises(Replaced):
        serve.run("quickstart", f"deploy.port={port} deploy.grpc_port={grpc_port}", store.uri)
    assert not is_running(state.process)


def test_stop_ends_the_endpoint_in_the_background(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "endpoint"))
    monkeypatch.setattr(local, "SERVER_MODULE", "fake_server")
    (tmp_path / "model_id").write_text("model-a")
    where = Placement("stablerep", 0, 0, Limits(), ready_timeout_seconds=20.0)
    state = local.serve(store, where, Served("model-a", tmp_path.as_uri()))
    assert serve.stop("quickstart", "", store.uri)
    assert not is_running(state.process)
    assert not serve.stop("quickstart", "", store.uri)


def test_a_port_of_another_program_is_left_alone(store: Store, become: list[list[str]]) -> None:
    _promote(store, "model-a", "suite-1", "2026-11-23T06:00:00+00:00")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"REST port: cannot listen on 127.0.0.1:{port}"):
            serve.run("quickstart", f"deploy.port={port} deploy.grpc_port=0", store.uri)
    assert become == []


def test_a_store_without_a_promoted_model_says_what_to_do(store: Store) -> None:
    with pytest.raises(DataError, match=r"expected a promoted model in .*, found none; run the pipeline first: make run"):
        serve.run("quickstart", "", store.uri)


def test_a_promoted_model_whose_folder_is_gone_is_named(store: Store) -> None:
    _promote(store, "model-a", "suite-1", "2026-11-23T06:00:00+00:00")
    store.delete("models/model-a")
    with pytest.raises(DataError, match=r"expected the promoted model at .*/models/model-a, found none"):
        serve.run("quickstart", "", store.uri)
