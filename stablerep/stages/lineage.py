"""Where an encoder comes from and what became of it: captions, data set, generator, run, model, evaluations, promotion, endpoints.

`export` writes down what a model was made from; `probe` and `verify` add what is known since to the same lineage.json, and the results to
MODEL_CARD.md. Neither file decides an embedding, so neither is in SHA256SUMS, and each is replaced as a whole.
"""

import json
from typing import Any

from stablerep.catalogue import ParquetCatalogue
from stablerep.errors import DataError, StoreError
from stablerep.records import Evaluation
from stablerep.report.lineage import Node, mermaid, tree
from stablerep.stages.card_results import with_results
from stablerep.store import Store

CARD, LINEAGE = "MODEL_CARD.md", "lineage.json"


def refresh(store: Store, model_id: str) -> None:
    """Bring lineage.json and MODEL_CARD.md of an exported model up to what the catalogue knows; nothing where it was not exported here."""
    folder = f"models/{model_id}"
    if not store.exists(f"{folder}/{LINEAGE}"):
        return
    found = chain(store, model_id)
    _replace(store, f"{folder}/{LINEAGE}", json.dumps(found, indent=1, sort_keys=True) + "\n")
    if store.exists(f"{folder}/{CARD}"):
        card = store.read_text(f"{folder}/{CARD}")
        _replace(store, f"{folder}/{CARD}", with_results(card, ParquetCatalogue(store).evaluations(model_id)))


def chain(store: Store, model_id: str) -> dict[str, Any]:
    """The whole lineage of a model as plain data.

    Raises:
        DataError: the model was not exported to this store, or its lineage cannot be read.
    """
    key = f"models/{model_id}/{LINEAGE}"
    try:
        made_from = json.loads(store.read_text(key))
    except StoreError:
        raise
    except (DataError, ValueError) as error:
        raise DataError(f"expected the lineage of {model_id} at {store.uri_of(key)}: {error}; export the model again") from error
    catalogue = ParquetCatalogue(store)
    return {
        **made_from,
        "evaluations": [_evaluation(store, evaluation) for evaluation in catalogue.evaluations(model_id)],
        "promotions": [{"suite": found.suite, "promoted_at": found.promoted_at} for found in catalogue.promotions(model_id)],
        "endpoints": [
            {"endpoint": s.endpoint, "url": s.url, "backend": s.backend, "revision": s.revision, "verified_at": when}
            for s, when in catalogue.served(model_id)
        ],
    }


def lineage(store_uri: str, model_id: str, form: str = "tree") -> str:
    """The chain of a model as text: `tree`, `mermaid` or `json`."""
    found = chain(Store(store_uri), model_id)
    if form == "json":
        return json.dumps(found, indent=1, sort_keys=True)
    return "\n".join((mermaid if form == "mermaid" else tree)(nodes_of(found)))


def nodes_of(chain: dict[str, Any]) -> list[Node]:
    """The chain as nodes, each after what it was made from."""
    dataset, run, generator = chain["dataset"], chain["run"], chain["generator"]
    sizes = {"groups": dataset["num_groups"], "images": dataset["num_images"]}
    nodes = [
        Node("captions", chain["captions"]["prompt_set_id"]),
        Node("generator", generator["generator_id"], {"": generator["pipeline_class"], "licence": generator["licence"]}),
        Node("data set", dataset["dataset_id"], sizes, (0, 1)),
        Node("run", run["run_key"], {"step": run["step"]}, (2,)),
        Node("encoder", chain["model"]["model_id"], {}, (3,)),
    ]
    for found in chain["evaluations"]:
        facts = {"linear probe": _interval(found), "gate": found["gate"]}
        nodes.append(Node("probe", found["suite"], facts, (4,)))
    last = len(nodes) - 1
    for found in chain["promotions"]:
        measured = [n for n, node in enumerate(nodes) if node.kind == "probe" and node.name == found["suite"]]
        nodes.append(Node("promotion", found["promoted_at"], {}, tuple(measured) or (4,)))
        last = len(nodes) - 1
    for found in chain["endpoints"]:
        facts = {"": found["url"], "revision": found["revision"], "verified": found["verified_at"]}
        nodes.append(Node("endpoint", found["endpoint"], facts, (last,)))
    return nodes


def _interval(found: dict[str, Any]) -> str:
    return f"{100 * found['accuracy']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _evaluation(store: Store, evaluation: Evaluation) -> dict[str, Any]:
    key = f"evals/{evaluation.model_id}/{evaluation.suite}/decision.json"
    gate = ""
    if store.exists(key):
        gate = "promoted" if json.loads(store.read_text(key))["is_promoted"] else "held"
    return {
        "suite": evaluation.suite,
        "accuracy": evaluation.headline,
        "low": evaluation.headline_low,
        "high": evaluation.headline_high,
        "uri": evaluation.uri,
        "gate": gate,
    }


def _replace(store: Store, key: str, text: str) -> None:
    if store.read_text(key) != text:
        store.write(key, text)
