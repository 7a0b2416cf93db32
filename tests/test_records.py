import pytest

from stablerep.errors import DataError
from stablerep.identity import canonical_json, content_id, digest
from stablerep.records import Evaluation, GateDecision, ProbeScore, PromptSet


def _evaluation() -> Evaluation:
    score = ProbeScore("encoder", "linear", -1, 0.9, 0.88, 0.92)
    return Evaluation("model-1", "suite-1", "file:///x", 0.9, 0.88, 0.92, (score,))


def test_records_survive_json() -> None:
    record = _evaluation()
    assert Evaluation.from_json(record.to_json()) == record


def test_records_are_strict() -> None:
    with pytest.raises(DataError, match="unknown key 'modelid', did you mean 'model_id'"):
        GateDecision.from_json('{"modelid": "x"}')
    with pytest.raises(DataError, match="missing 6 required"):
        PromptSet.from_json('{"prompt_set_id": "x"}')
    with pytest.raises(DataError, match="expected a PromptSet record, found 'nonsense'"):
        PromptSet.from_json("nonsense")


def test_numbers_from_kfp_are_read_back_as_integers() -> None:
    text = _evaluation().to_json().replace('"num_labels_per_class":-1', '"num_labels_per_class":-1.0')
    assert Evaluation.from_json(text) == _evaluation()


def test_ids_depend_on_content_not_on_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": (1, 2), "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert content_id("ds", {"a": 1}).startswith("ds-")
    assert len(content_id("ds", {"a": 1})) == 3 + 16


def test_canonical_json_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"loss": float("nan")})
