"""Run any stage by its verb: what a KFP component, `stablerep <verb>` and a test all call.

Records that are not given, or given as an empty text (how a parameter of a pipeline says that it is missing), are taken from the ledger,
so `stablerep probe --recipe quickstart --store ...` continues from what the earlier stages of the same configuration left. The stage's
record is kept there in turn.
"""

import importlib
import time
from typing import Any

from stablerep.errors import ConfigError, DataError
from stablerep.records import PromptSet, Record
from stablerep.stages import INPUTS
from stablerep.stages.context import configured
from stablerep.stages.ledger import Entry, Ledger, text_digest
from stablerep.store import Store

_PRODUCERS = {
    "prompt_set": "prepare",
    "generator": "generator",
    "dataset": "commit",
    "checkpoint": "pretrain",
    "model": "export",
    "evaluation": "probe",
    "decision": "gate",
    "endpoint": "deploy",
}


def run_stage(name: str, recipe: str, overrides: str, store: str, **arguments: Any) -> str:
    """Run stage `name` and return its record as JSON text.

    Args:
        name: the verb, one of `stablerep.stages.STAGES`.
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        arguments: what the stage takes beyond these; missing and empty records come from the ledger.

    Raises:
        ConfigError: no such stage.
        DataError: an input is neither given nor in the ledger.
        StablerepError: whatever the stage raises.
    """
    if name not in INPUTS:
        raise ConfigError(f"unknown stage {name!r}; expected one of {', '.join(INPUTS)}")
    ledger = Ledger(Store(store), configured(recipe, overrides))
    inputs = {key: _from_ledger(ledger, key) if arguments.get(key, "") == "" else arguments[key] for key in INPUTS[name]}
    others = {key: value for key, value in arguments.items() if key not in inputs}
    started_at = time.time()
    record: Record = importlib.import_module(f"stablerep.stages.{name}").run(recipe, overrides, store, **inputs, **others)
    output = record.to_json()
    entry_name = f"{name}-{inputs['lane']}" if "lane" in inputs else name
    digests = {key: text_digest(value) for key, value in inputs.items() if key not in ("lane", "lanes")}
    lanes = {f"lanes[{i}]": text_digest(lane) for i, lane in enumerate(inputs.get("lanes", ()))}
    ledger.keep(Entry(entry_name, output, digests | lanes, started_at, time.time()))
    return output


def dataset_record(store: str, dataset_id: str) -> str:
    """The record of a committed or curated data set.

    Raises:
        DataError: there is none.
    """
    from stablerep.shards.dataset import find_dataset

    found = find_dataset(Store(store), dataset_id)
    if found is None:
        raise DataError(f"expected a data set {dataset_id} in {store}, found none; `stablerep curate` prints the id of what it made")
    return found.to_json()


def _from_ledger(ledger: Ledger, key: str) -> Any:
    if key == "lane":
        raise ConfigError("stage 'generate' needs a lane: pass --lane 0 (or another below captions.num_lanes)")
    if key == "lanes":
        num_lanes = PromptSet.from_json(ledger.output("prepare")).num_lanes
        return [ledger.output(f"generate-{lane}") for lane in range(num_lanes)]
    return ledger.output(_PRODUCERS[key])
