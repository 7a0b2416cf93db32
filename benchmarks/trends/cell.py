"""One cell: train in this process with the product's own loop and one-process engine, probe the frozen trunk, keep answers and scores.

A *choose* cell never sees a test image: its probe learns from four fifths of the real training images and answers the others.

Dimension key: N training images, Q test images, F features, D draws of labels.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trends.plan import RECIPE, Cell, Study, words_of
from trends.pools import make_pool

from stablerep.config import Recipe, load_recipe
from stablerep.models import build_trunk, normalisation
from stablerep.probes.data import LabelledImages, load_labelled
from stablerep.probes.features import extract, frozen, pixels
from stablerep.probes.linear import one_split
from stablerep.probes.measure import measure_source
from stablerep.probes.result import pack_bits
from stablerep.stages.pretrain_alone import train_alone
from stablerep.stages.pretrain_run import plan_run
from stablerep.stages.probe import protocol_of
from stablerep.store import Store

_BATCH = 250

Embed = Callable[[Tensor], Tensor]


def run_cell(cell: Cell, study: Study, work: Path) -> dict[str, Any]:
    """Train and probe; what was found, ready for JSON."""
    recipe = load_recipe(RECIPE, words_of(cell, study))
    started_at = time.process_time()
    embed, loss = _train(cell, study, work, recipe)
    return {
        "cell": asdict(cell),
        "loss": loss,
        **_probe(recipe, cell.part == "choose", _features(recipe, embed)),
        "cpu_seconds": round(time.process_time() - started_at, 1),
    }


def run_floor(study: Study) -> dict[str, Any]:
    """What needs no training: untrained trunks, one a seed, and raw pixels."""
    recipe = load_recipe(RECIPE, study.words)
    found: dict[str, Any] = {"raw_pixels": [_probe(recipe, False, lambda images: pixels(images, _BATCH))], "random_init": []}
    for seed in range(study.num_seeds):
        trunk = build_trunk(**asdict(recipe.pretrain.trunk), seed=seed)
        found["random_init"].append(_probe(recipe, False, _features(recipe, frozen(trunk, "cpu"))))
    return found


def _train(cell: Cell, study: Study, work: Path, recipe: Recipe) -> tuple[Embed, float]:
    store = Store(str(work / "store"))
    plan = plan_run(RECIPE, recipe.pretrain, make_pool(cell.pool, study, work).dataset)
    trunk, loss = train_alone(plan, store)
    shutil.rmtree(work / "store" / plan.prefix)
    return frozen(trunk, "cpu"), loss


def _features(recipe: Recipe, embed: Embed) -> Callable[[Any], Tensor]:
    mean, std = normalisation(recipe.pretrain.trunk.size_px)
    return lambda images: extract(embed, images, mean=mean, std=std, batch_size=_BATCH)


def _probe(recipe: Recipe, is_held_out: bool, features: Callable[[Any], Tensor]) -> dict[str, Any]:
    images = _images(recipe)
    protocol, labels_N = protocol_of(recipe.probe), images.train_labels
    train_NF = features(images.train)
    if is_held_out:
        kept, held = (part[0].numpy() for part in one_split(torch.from_numpy(labels_N.copy()).numpy(), protocol.seed))
        train_NF, test_QF = train_NF[kept], train_NF[held]
        labels_N, test_labels = labels_N[kept], labels_N[held]
    else:
        test_QF, test_labels = features(images.test), images.test_labels
    outcomes = measure_source("encoder", train_NF, labels_N, test_QF, test_labels, images.class_names, protocol)
    return {
        "scores": {str(o.score.num_labels_per_class): o.score.accuracy for o in outcomes},
        "answers": {str(o.score.num_labels_per_class): [pack_bits(row == test_labels) for row in o.predicted_DQ] for o in outcomes},
        "base_lrs": {str(o.score.num_labels_per_class): list(o.base_lrs) for o in outcomes},
        "num_test": len(test_labels),
    }


def _images(recipe: Recipe) -> LabelledImages:
    return load_labelled(recipe.probe.dataset, recipe.pretrain.trunk.size_px)
