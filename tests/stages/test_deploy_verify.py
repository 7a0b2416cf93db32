"""deploy and verify with the real server: one start, golden embeddings over both protocols, promotion, roll-back."""

from pathlib import Path

import pytest
from tiny_encoder import picture, write_encoder

from stablerep.catalogue import ParquetCatalogue
from stablerep.config import load_recipe
from stablerep.endpoint import local
from stablerep.endpoint.process import is_running
from stablerep.endpoint.process import stop as stop_process
from stablerep.errors import DataError, GateError
from stablerep.probes.data import identify
from stablerep.records import EndpointRef, Evaluation, GateDecision, ModelRef
from stablerep.stages import deploy, verify
from stablerep.stages.probe import protocol_of
from stablerep.store import Store


@pytest.fixture
def model(store: Store) -> ModelRef:
    folder = Path(str(store.local_path("models/model-tiny")))
    model_id = write_encoder(folder, seed=1)
    return ModelRef(model_id, store.uri_of("models/model-tiny"), "0" * 64, "vit_tiny_patch16_224", 48, 32, has_text=True)


@pytest.fixture
def overrides(tmp_path: Path) -> str:
    """Of the smoke recipe: free ports, and photographs of two classes as the probe's data."""
    for number in range(12):
        path = tmp_path / "photographs" / ("train" if number < 4 else "test") / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return f"probe.dataset={tmp_path / 'photographs'} deploy.port=0 deploy.grpc_port=0 gate.has_catalogue=false deploy.num_golden=5"


def _decision(model: ModelRef, *, is_promoted: bool = True) -> str:
    return GateDecision(model.model_id, is_promoted, ("above the untrained trunk",), "", 0.0).to_json()


def _suite(overrides: str) -> str:
    probe = load_recipe("smoke", overrides).probe
    return protocol_of(probe).suite(identify(probe.dataset))


@pytest.mark.slow
def test_a_model_is_served_verified_promoted_and_rolled_back_when_it_answers_otherwise(
    store: Store, model: ModelRef, overrides: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint asks for a token, which is in the environment."""
    monkeypatch.setenv("STABLEREP_ENDPOINT_TOKEN", "a-token-of-the-tests")
    evaluation = Evaluation(model.model_id, _suite(overrides), store.uri_of("evals/x"), 0.8, 0.7, 0.9, ())
    catalogue = ParquetCatalogue(store)
    try:
        endpoint = deploy.run("smoke", overrides, store.uri, model=model.to_json(), decision=_decision(model))
        assert deploy.run("smoke", overrides, store.uri, model=model.to_json(), decision=_decision(model)) == endpoint
        state = local.read_state(store, "stablerep")
        assert state is not None
        with state.client() as client:
            assert client.predict([picture(0)]).status == 401

        with pytest.raises(DataError, match=f"cannot promote {model.model_id}"):
            verify.run("smoke", overrides, store.uri, model=model.to_json(), endpoint=endpoint.to_json())
        assert catalogue.champion(_suite(overrides)) is None

        catalogue.register_evaluation(evaluation, "2026-11-23T05:40:00+00:00")
        found = verify.run("smoke", overrides, store.uri, model=model.to_json(), endpoint=endpoint.to_json())
        assert all(found.checks.values())
        assert {"rest_embeddings", "grpc_embeddings", "scores_sum_to_1", "bad_image_refused"} < set(found.checks)
        assert found.max_difference < 1e-4
        assert 0 < found.latency_p50_ms <= found.latency_p99_ms
        champion = catalogue.champion(_suite(overrides))
        assert champion is not None
        assert champion.model_id == model.model_id
        state = local.read_state(store, "stablerep")
        assert state is not None
        assert state.is_verified

        stop_process(state.process)  # as after a restart of the machine
        again = verify.run("smoke", overrides, store.uri, model=model.to_json(), endpoint=endpoint.to_json())
        assert again.checks == found.checks
        state = local.read_state(store, "stablerep")
        assert state is not None
        assert state.url == endpoint.url

        other = EndpointRef(model.model_id, endpoint.url, endpoint.grpc_address, endpoint.process_id + 1, endpoint.log_uri)
        with pytest.raises(GateError, match=f"expected {model.model_id} in process {other.process_id}, found .*; deploy again"):
            verify.run("smoke", overrides, store.uri, model=model.to_json(), endpoint=other.to_json())
        assert is_running(state.process)

        strict = f"{overrides} deploy.max_difference=-1"
        with pytest.raises(GateError, match=r"failed rest_embeddings, grpc_embeddings \(largest .*; it is not promoted and .* is stopped"):
            verify.run("smoke", strict, store.uri, model=model.to_json(), endpoint=endpoint.to_json())
        assert not is_running(state.process)
        assert local.read_state(store, "stablerep") is None
    finally:
        local.stop(store, "stablerep")


def test_what_the_gate_turned_down_is_not_deployed(store: Store, model: ModelRef, overrides: str) -> None:
    with pytest.raises(GateError, match=f"{model.model_id} was not promoted and is not deployed: above the untrained trunk"):
        deploy.run("smoke", overrides, store.uri, model=model.to_json(), decision=_decision(model, is_promoted=False))
    other = GateDecision("model-other", True, (), "", 0.0).to_json()
    with pytest.raises(GateError, match=f"expected the gate's decision about {model.model_id}, found one about model-other"):
        deploy.run("smoke", overrides, store.uri, model=model.to_json(), decision=other)
    assert local.read_state(store, "stablerep") is None


def test_an_endpoint_that_was_never_deployed_is_not_verified(store: Store, model: ModelRef, overrides: str) -> None:
    endpoint = EndpointRef(model.model_id, "http://127.0.0.1:1/v1/models/stablerep:predict", "127.0.0.1:2", 1, "file:///none")
    with pytest.raises(GateError, match=r"expected .* in process 1, found none; deploy again"):
        verify.run("smoke", overrides, store.uri, model=model.to_json(), endpoint=endpoint.to_json())
