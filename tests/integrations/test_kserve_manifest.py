"""InferenceService, HTTPRoute and Service documents compared whole, and what KServe cannot do refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stablerep.cluster import Document
from stablerep.endpoint.release import Release
from stablerep.endpoint.traffic import live_service, split_route
from stablerep.errors import ConfigError
from stablerep.integrations.kserve_manifest import MAX_NAME, EncoderService, inference_service

GOLDEN = Path(__file__).parents[1] / "golden" / "endpoint"
STANDARD = EncoderService("stablerep", "team-a")
KNATIVE = EncoderService("stablerep", "team-a", mode="Knative", autoscaler="knative", min_replicas=0, max_replicas=4)
SCALED = {"min_replicas": 2, "max_replicas": 8}
URI = "s3://encoders/models/model-2b"
OLD = Release("model-1a", "s3://encoders/models/model-1a", "1" * 64)


def _build(service: EncoderService, name: str, **values: Any) -> Document:
    return inference_service(service, name, service.release("model-2b", URI), **values)


DOCUMENTS = {
    "standard_canary_first": lambda: _build(STANDARD, "stablerep"),
    "standard_canary_hpa": lambda: _build(replace(STANDARD, autoscaler="hpa", **SCALED), "stablerep-canary", previous=OLD),
    "standard_canary_keda": lambda: _build(
        replace(STANDARD, autoscaler="keda", prometheus_url="http://prometheus.monitoring:9090", **SCALED), "stablerep-canary", previous=OLD
    ),
    "standard_canary_route": lambda: split_route("stablerep", "team-a", "gateways/public", "stablerep-canary", 25, "model-2b"),
    "standard_canary_route_stable": lambda: split_route("stablerep", "team-a", "gateways/public", "stablerep-canary", 0, "model-1a"),
    "blue_green_keda_cpu": lambda: _build(replace(STANDARD, autoscaler="keda", **SCALED), "stablerep-green", previous=OLD),
    "blue_green_external_gpu": lambda: _build(replace(STANDARD, autoscaler="external", gpus=1, max_batch=128, **SCALED), "stablerep-blue"),
    "blue_green_service": lambda: live_service("stablerep", "team-a", "stablerep-green", "model-2b"),
    "knative_canary_first": lambda: _build(KNATIVE, "stablerep", canary_percent=0),
    "knative_canary_dark": lambda: _build(
        KNATIVE, "stablerep", previous=OLD, previous_revision="stablerep-predictor-00003", canary_percent=0
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_as_reviewed(name: str) -> None:
    assert DOCUMENTS[name]() == yaml.safe_load((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8"))


def test_every_reviewed_document_is_compared() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(DOCUMENTS)


@pytest.mark.parametrize(("engine", "option"), [("onnx", "--onnx"), ("torch_compile", "--compile")])
def test_pods_are_told_which_engine_runs_the_trunk(engine: Any, option: str) -> None:
    document = _build(replace(STANDARD, runtime_engine=engine), "stablerep")
    assert document["spec"]["predictor"]["model"]["args"][-1] == option


def test_the_digest_is_of_the_pods_and_of_nothing_else() -> None:
    release = STANDARD.release("model-2b", URI)
    assert release == STANDARD.release("model-2b", URI)
    assert release.spec_sha256 == STANDARD.release("model-3c", "gs://other/models/model-3c").spec_sha256
    for change in ({"gpus": 1}, {"autoscaler": "hpa"}, {"max_batch": 8}, {"service_account": "other"}):
        assert release.spec_sha256 != replace(STANDARD, **change).spec_sha256
    document = _build(STANDARD, "stablerep-blue")
    assert document["metadata"]["annotations"]["stablerep.dev/spec-sha256"] == release.spec_sha256


def test_a_restored_release_is_marked_with_the_pods_it_really_gets() -> None:
    document = inference_service(STANDARD, "stablerep", OLD)
    assert document["metadata"]["annotations"]["stablerep.dev/model-id"] == "model-1a"
    assert document["metadata"]["annotations"]["stablerep.dev/spec-sha256"] == STANDARD.spec_sha256


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoint": "Stablerep"}, "deploy.name: expected lower-case letters"),
        ({"endpoint": "1st"}, "deploy.name: .* first a letter, found '1st'"),
        ({"endpoint": "e" * (MAX_NAME + 1)}, "at most 41"),
        ({"autoscaler": "knative"}, "deploy.autoscaler=knative: Standard mode takes none, hpa, keda or external"),
        ({"mode": "Knative", "autoscaler": "keda"}, "deploy.autoscaler=keda: Knative mode takes knative"),
        ({"min_replicas": 0}, "deploy.min_replicas=0: only Knative scales to zero"),
        ({"min_replicas": 3, "max_replicas": 2, "autoscaler": "hpa"}, "deploy.max_replicas=2: expected min_replicas or more"),
        ({"max_replicas": 4}, "deploy.max_replicas=4: nothing scales without deploy.autoscaler"),
        ({"gpus": -1}, "deploy.gpus: expected 0 or more, found -1"),
    ],
)
def test_what_cannot_be_served_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(STANDARD, **values)


def test_only_knative_splits_traffic() -> None:
    with pytest.raises(ConfigError, match="canaryTrafficPercent=25: only Knative mode splits traffic"):
        _build(STANDARD, "stablerep", canary_percent=25)
    with pytest.raises(ConfigError, match="expected 0 to 99, found 100"):
        _build(KNATIVE, "stablerep", canary_percent=100)


def test_the_files_of_this_machine_are_no_model_of_a_pod() -> None:
    with pytest.raises(ConfigError, match=re.escape("expected a model that pods can read (s3://, gs://") + ".*found file:///store/models"):
        STANDARD.release("model-2b", "file:///store/models/model-2b")


def test_the_longest_name_fits_in_the_label_of_its_pods() -> None:
    assert len(f"isvc.{'e' * MAX_NAME}-canary-predictor") <= 63


def _takes(match: Document, path: str) -> bool:
    kind, value = match["path"]["type"], match["path"]["value"]
    return path == value or (kind == "PathPrefix" and path.startswith(f"{value}/"))


@pytest.mark.parametrize(
    ("path", "is_taken"),
    [
        ("/v1/models/stablerep:predict", True),
        ("/v1/models/stablerep", True),
        ("/v2/models/stablerep", True),
        ("/v2/models/stablerep/infer", True),
        ("/v2/models/stablerep/ready", True),
        ("/v1/embeddings", True),
        ("/v1/models/other:predict", False),
        ("/v2/models/stablerep-2/infer", False),
        ("/v1/models", False),
        ("/metrics", False),
        ("/", False),
    ],
)
def test_the_route_takes_what_callers_ask_and_leaves_the_gateway_to_others(path: str, is_taken: bool) -> None:
    (rule,) = split_route("stablerep", "team-a", "gateways/public", "stablerep-canary", 25, "model-2b")["spec"]["rules"]
    assert any(_takes(match, path) for match in rule["matches"]) == is_taken
