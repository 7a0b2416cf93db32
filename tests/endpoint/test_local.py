"""Processes are real here, the server is a fake: tests/integrations and tests/stages start the real one."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stablerep.endpoint import local
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.local import Placement, Served
from stablerep.endpoint.process import free_port, is_running
from stablerep.errors import DataError, LaunchError, PortInUseError
from stablerep.store import Store


@pytest.fixture
def placement(monkeypatch: pytest.MonkeyPatch, store: Store) -> Iterator[Placement]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(local, "SERVER_MODULE", "fake_server")
    yield Placement("stablerep", free_port(), free_port(), Limits(), ready_timeout_seconds=20.0)
    local.stop(store, "stablerep")


def _folder(tmp_path: Path, model_id: str, *behaviour: str) -> Served:
    folder = tmp_path / model_id
    folder.mkdir(exist_ok=True)
    (folder / "model_id").write_text(model_id)
    for name in behaviour:
        (folder / name).touch()
    return Served(model_id, folder.as_uri())


def test_a_server_is_started_once_and_found_again(store: Store, placement: Placement, tmp_path: Path) -> None:
    first = local.serve(store, placement, _folder(tmp_path, "model-a"))
    assert local.serve(store, placement, _folder(tmp_path, "model-a")) == first
    assert local.find(store, "stablerep") == first
    assert first.url == f"http://127.0.0.1:{placement.port}/v1/models/stablerep:predict"
    assert first.grpc_address == f"127.0.0.1:{placement.grpc_port}"
    assert "serving model-a" in Path(first.log_path).read_text()
    assert local.stop(store, "stablerep")
    assert not is_running(first.process)
    assert local.find(store, "stablerep") is None
    assert not local.stop(store, "stablerep")


def test_another_engine_is_another_server(store: Store, placement: Placement, tmp_path: Path) -> None:
    served = _folder(tmp_path, "model-a")
    by_torch = local.serve(store, placement, served)
    by_onnx = local.serve(store, replace(placement, runtime_engine="onnx"), served)
    assert not is_running(by_torch.process)
    assert by_onnx.runtime_engine == "onnx"
    assert "serving model-a by onnx" in Path(by_onnx.log_path).read_text()
    assert local.serve(store, replace(placement, runtime_engine="onnx"), served) == by_onnx


def test_a_token_is_asked_for_by_the_server_sent_to_it_and_written_nowhere(store: Store, placement: Placement, tmp_path: Path) -> None:
    served, guarded = _folder(tmp_path, "model-a"), replace(placement, token="a-token-of-the-tests")
    for_all = local.serve(store, placement, served)
    first = local.serve(store, guarded, served)
    assert not is_running(for_all.process)
    assert local.serve(store, guarded, served) == first
    assert local.find(store, "stablerep") is None
    assert local.find(store, "stablerep", token="a-token-of-the-tests") == first
    with (
        first.client() as client,
        pytest.raises(LaunchError, match="expected a token that it takes, found none; set STABLEREP_ENDPOINT_TOKEN"),
    ):
        client.model_id()
    assert "a-token" not in store.read_text("endpoints/stablerep.json") + repr(guarded) + Path(first.log_path).read_text()
    assert local.serve(store, placement, served).is_guarded is False


def test_port_zero_takes_free_ports_and_keeps_them(store: Store, placement: Placement, tmp_path: Path) -> None:
    anywhere = replace(placement, port=0, grpc_port=0)
    state = local.serve(store, anywhere, _folder(tmp_path, "model-a"))
    assert state.port > 0
    assert state.grpc_port not in (0, state.port)
    assert local.serve(store, anywhere, _folder(tmp_path, "model-a")) == state
    assert local.serve(store, anywhere, _folder(tmp_path, "model-b")).port == state.port


def test_another_model_takes_the_same_port_and_a_roll_back_restores_the_verified_one(
    store: Store, placement: Placement, tmp_path: Path
) -> None:
    old = local.serve(store, placement, _folder(tmp_path, "model-a"))
    local.mark_verified(store, "stablerep")
    new = local.serve(store, placement, _folder(tmp_path, "model-b"))
    assert not is_running(old.process)
    assert (new.port, new.previous) == (old.port, old.served)
    with new.client() as client:
        assert client.model_id() == "model-b"
    restored = local.roll_back(store, placement)
    assert restored is not None
    assert (restored.served.model_id, restored.port, restored.is_verified) == ("model-a", old.port, True)
    assert local.find(store, "stablerep") == restored
    assert local.roll_back(store, placement) is None
    assert not is_running(restored.process)
    assert local.read_state(store, "stablerep") is None


def test_a_model_that_was_never_verified_is_nothing_to_fall_back_to(store: Store, placement: Placement, tmp_path: Path) -> None:
    local.serve(store, placement, _folder(tmp_path, "model-a"))
    assert local.serve(store, placement, _folder(tmp_path, "model-b")).previous is None


def test_a_model_that_does_not_load_leaves_the_old_one_untouched(store: Store, placement: Placement, tmp_path: Path) -> None:
    old = local.serve(store, placement, _folder(tmp_path, "model-a"))
    with pytest.raises(LaunchError, match=r"does not load \(exit code 4\):\nCheckpointError: encoder.safetensors: damaged"):
        local.serve(store, placement, _folder(tmp_path, "model-b", "broken"))
    assert local.find(store, "stablerep") == old


def test_a_model_that_never_gets_ready_gives_the_port_back_to_the_old_one(store: Store, placement: Placement, tmp_path: Path) -> None:
    old = local.serve(store, placement, _folder(tmp_path, "model-a"))
    with pytest.raises(LaunchError, match=r"was not ready after 3 s; raise deploy.ready_timeout_seconds or read .*stablerep.log"):
        local.serve(store, replace(placement, ready_timeout_seconds=3.0), _folder(tmp_path, "model-b", "stuck"))
    found = local.find(store, "stablerep")
    assert found is not None
    assert (found.served, found.port) == (old.served, old.port)


def test_a_server_that_ends_is_reported_with_the_end_of_its_log(store: Store, placement: Placement, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"(?s)ended before it was ready \(exit code 4\).*damaged") as caught:
        local.serve(store, placement, _folder(tmp_path, "model-a", "broken"))
    assert not isinstance(caught.value, PortInUseError)


def test_a_taken_port_is_refused_before_anything_is_started(store: Store, placement: Placement, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", placement.grpc_port)):
        with pytest.raises(PortInUseError, match=rf"gRPC port: cannot listen on 127.0.0.1:{placement.grpc_port} .*choose another port"):
            local.serve(store, placement, _folder(tmp_path, "model-a"))
    assert local.read_state(store, "stablerep") is None


def test_a_stage_killed_while_the_server_loads_finds_it_again(store: Store, placement: Placement, tmp_path: Path) -> None:
    served = _folder(tmp_path, "model-a", "stuck")
    with pytest.raises(KeyboardInterrupt):
        _interrupted_serve(store, placement, served)
    state = local.read_state(store, "stablerep")
    assert state is not None
    assert is_running(state.process)
    (tmp_path / "model-a" / "stuck").unlink()
    assert local.serve(store, placement, served) == state


def test_a_process_that_only_has_the_number_is_neither_trusted_nor_killed(store: Store, placement: Placement, tmp_path: Path) -> None:
    state = local.serve(store, placement, _folder(tmp_path, "model-a"))
    reused = replace(state, process=replace(state.process, start_ticks=state.process.start_ticks - 1))
    store.write("endpoints/stablerep.json", reused.to_json())
    assert local.find(store, "stablerep") is None
    assert not local.stop(store, "stablerep")
    assert is_running(state.process)
    store.write("endpoints/stablerep.json", state.to_json())


def test_a_server_with_another_model_than_the_state_file_says_is_not_found(store: Store, placement: Placement, tmp_path: Path) -> None:
    state = local.serve(store, placement, _folder(tmp_path, "model-a"))
    store.write("endpoints/stablerep.json", replace(state, served=Served("model-z", state.served.folder_uri)).to_json())
    assert local.find(store, "stablerep") is None


def test_a_process_that_ignores_sigterm_is_killed(store: Store, placement: Placement, tmp_path: Path) -> None:
    state = local.serve(store, placement, _folder(tmp_path, "model-a", "deaf"))
    assert not local.stop_process(state.process, grace_seconds=0.3)
    assert not is_running(state.process)


def test_a_server_whose_process_is_gone_is_started_again_where_it_was(store: Store, placement: Placement, tmp_path: Path) -> None:
    local.serve(store, placement, _folder(tmp_path, "model-a"))
    local.mark_verified(store, "stablerep")
    anywhere = replace(placement, port=0, grpc_port=0)
    old = local.serve(store, anywhere, _folder(tmp_path, "model-b"))
    assert local.start_again(store, anywhere) == old
    local.stop_process(old.process)
    new = local.start_again(store, anywhere)
    assert new is not None
    assert new.is_running
    assert (new.url, new.grpc_address, new.served, new.previous) == (old.url, old.grpc_address, old.served, old.previous)
    assert new.is_deployed_as(old.process.process_id)
    assert new.is_deployed_as(new.process.process_id)
    assert not new.is_deployed_as(old.process.process_id + new.process.process_id)
    local.stop_process(new.process)
    third = local.start_again(store, anywhere)
    assert third is not None
    assert third.is_deployed_as(old.process.process_id)
    assert not third.is_deployed_as(new.process.process_id)
    assert local.read_state(store, "stablerep") == third


def test_a_server_of_another_container_is_started_again_here(store: Store, placement: Placement, tmp_path: Path) -> None:
    state = local.serve(store, placement, _folder(tmp_path, "model-a"))
    local.stop_process(state.process)
    # the number belongs to somebody else here: to this test
    elsewhere = replace(state, process=replace(state.process, process_id=os.getpid(), host="another-container"))
    store.write("endpoints/stablerep.json", elsewhere.to_json())
    started = local.start_again(store, placement)
    assert started is not None
    assert started.is_running
    assert started.is_deployed_as(os.getpid())


def test_nothing_is_started_where_nothing_was_deployed(store: Store, placement: Placement) -> None:
    assert local.start_again(store, placement) is None


def test_an_endpoint_name_is_no_path(store: Store) -> None:
    with pytest.raises(DataError, match=r"expected letters, digits and hyphens, found '\.\./x'"):
        local.read_state(store, "../x")


def _interrupted_serve(store: Store, placement: Placement, served: Served) -> None:
    caller, pause = threading.current_thread(), time.sleep

    def interrupt(seconds: float) -> None:
        if threading.current_thread() is caller:
            raise KeyboardInterrupt
        pause(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.time, "sleep", interrupt)
        local.serve(store, placement, served)
