"""`stablerep compare-presets A B`: two sampler settings make the same small data set, the same encoder learns from each, both are compared.

The data sets go through the stages of the pipeline, training is `train_alone`. Distances inside groups are of pixels averaged down to
16 x 16, which favours no model. Everything is kept in a store of its own: killed and started again, it goes on where it was.
"""

# pyright: reportUnknownMemberType=false
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stablerep.config.presets import PRESETS
from stablerep.errors import ConfigError, DataError
from stablerep.stages.context import configured
from stablerep.store import Store
from stablerep.typed import suggestion

DEFAULT_STORE = "build/compare-presets"
NUM_CAPTIONS, NUM_STEPS, IMAGES_PER_CAPTION, CAPTIONS_PER_BATCH = 60, 100, 4, 32
_FIXED = ("generate.images_per_caption", "generate.stored_size_px", "generate.image_format", "generate.noise_seed")


@dataclass(frozen=True)
class _Side:
    """What one setting gave: accuracy a seed, right answers [D,Q], distance of every group by caption."""

    setting: str
    dataset_id: str
    accuracy: float
    correct_DQ: Any
    distances: dict[str, float]


def words_of(setting: str) -> str:
    """Overrides of a preset's name, or of words with commas between them.

    Raises:
        ConfigError: neither, or words about anything but how images are sampled.
    """
    if "=" not in setting:
        if setting not in PRESETS:
            raise ConfigError(
                f"compare-presets: expected {', '.join(PRESETS)} or words as in generate.scheduler=ddim,generate.num_inference_steps=50, "
                f"found {setting!r}{suggestion(setting, set(PRESETS))}"
            )
        return f"generate.preset={setting}"
    words = setting.split(",")
    if wrong := [word for word in words if not word.startswith("generate.") or word.partition("=")[0] in _FIXED]:
        raise ConfigError(
            f"compare-presets: expected words generate.KEY=VALUE that change how images are sampled, found {', '.join(wrong)}; what is to "
            "be the same for both is set with --set"
        )
    return " ".join(words)


def compare_presets(
    recipe: str,
    overrides: str,
    store: str,
    *,
    first: str,
    second: str,
    captions: int = NUM_CAPTIONS,
    steps: int = NUM_STEPS,
    seeds: int = 1,
) -> dict[str, Any]:
    """Make, train, measure; ready for JSON.

    Args:
        recipe: name of a recipe whose training fits one process; `paper_trends` is made for this.
        overrides: `section.key=value` words for both sides.
        store: URI where data sets and runs are kept.
        first: A, the setting that is known: a preset or words.
        second: B, the setting that is to be as good.
        captions: how many.
        steps: of training.
        seeds: training runs a side.

    Raises:
        ConfigError: a setting, the recipe or a number is wrong.
        DataError: the two data sets share no groups.
    """
    if min(captions, steps, seeds) < 1 or captions < 2:
        raise ConfigError(f"compare-presets: expected 2 captions or more, 1 step and 1 seed or more, found {captions}, {steps}, {seeds}")
    batch = min(CAPTIONS_PER_BATCH, captions)
    base = (
        f"captions.num_captions={captions} captions.captions_per_shard={captions} captions.num_lanes=1 gate.has_catalogue=false "
        f"generate.images_per_caption={IMAGES_PER_CAPTION} pretrain.images_per_caption={IMAGES_PER_CAPTION} "
        f"pretrain.captions_per_batch={batch} pretrain.num_steps={steps} pretrain.warmup_steps={steps * 8 // 100} "
        f"pretrain.checkpoint_every_steps={steps} pretrain.num_processes=1 pretrain.num_nodes=1 {overrides}"
    )
    settings = [words_of(first), words_of(second)]  # both are checked before anything is made
    for words in settings:
        configured(recipe, f"{base} {words}")
    a, b = (_measured(recipe, f"{base} {words}", store, setting, seeds) for setting, words in zip((first, second), settings, strict=True))
    return {
        "num_captions": captions,
        "num_steps": steps,
        "num_seeds": seeds,
        **_compared(a, b, configured(recipe, base).probe.num_bootstrap),
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""

    def line(name: str, value: dict[str, float], digits: int, target: str) -> str:
        interval = f"{value['low']:.{digits}f} to {value['high']:.{digits}f}"
        return f"{name:34}{value['value']:>8.{digits}f}   {interval:20}{target}"

    sides = [f"{name}  {side['setting']}: k-NN {100 * side['knn']:.1f} %" for name, side in (("A", found["a"]), ("B", found["b"]))]
    size = (
        f"{found['num_captions']} captions x {IMAGES_PER_CAPTION} images, {found['num_steps']} steps, {found['num_seeds']} training seed(s)"
    )
    return "\n".join(
        [
            *sides,
            size,
            "",
            f"{'':34}{'found':>8}   {'95 % interval':20}equal if",
            line("k-NN, points that B loses", found["knn_drop_points"], 2, "at most 0.5"),
            line("distance inside groups, B over A", found["diversity_ratio"], 3, "at least 0.95"),
            "",
            f"B is {found['verdict']}" + (" to A" if found["verdict"] != "not known" else " to be equal to A, nor to be worse"),
        ]
    )


def _compared(a: _Side, b: _Side, num_bootstrap: int) -> dict[str, Any]:
    from stablerep.probes.preset_verdict import diversity_ratio, knn_drop_points, verdict

    shared = sorted(a.distances.keys() & b.distances.keys())
    if not shared:
        raise DataError(f"expected groups of the same captions in {a.dataset_id} and {b.dataset_id}, found none")
    drop = knn_drop_points(a.correct_DQ, b.correct_DQ, num_bootstrap, 0)
    distance_a_G, distance_b_G = (np.array([side.distances[key] for key in shared], np.float64) for side in (a, b))
    diversity = diversity_ratio(distance_a_G, distance_b_G, num_bootstrap, 0)
    sides = {
        name: {"setting": side.setting, "dataset_id": side.dataset_id, "knn": side.accuracy, "distance": _mean(side, shared)}
        for name, side in (("a", a), ("b", b))
    }
    return {**sides, "knn_drop_points": asdict(drop), "diversity_ratio": asdict(diversity), "verdict": verdict(drop, diversity)}


def _mean(side: _Side, shared: list[str]) -> float:
    return float(np.mean([side.distances[key] for key in shared]))


def _measured(recipe: str, words: str, store: str, setting: str, num_seeds: int) -> _Side:
    from stablerep.stages import commit, generate, generator, prepare

    captions, model = prepare.run(recipe, words, store), generator.run(recipe, words, store)
    records = {"prompt_set": captions.to_json(), "generator": model.to_json()}
    lanes = [generate.run(recipe, words, store, **records, lane=lane).to_json() for lane in range(captions.num_lanes)]
    dataset = commit.run(recipe, words, store, **records, lanes=lanes)
    answers = [_right_answers(recipe, f"{words} pretrain.seed={seed}", Store(store), dataset) for seed in range(num_seeds)]
    correct_DQ = np.stack(answers)
    return _Side(setting, dataset.dataset_id, float(correct_DQ.mean()), correct_DQ, _distances(Store(store), dataset))


def _right_answers(recipe: str, words: str, store: Store, dataset: Any) -> Any:
    """Train once; bool [Q], which test images k-NN answers right."""
    import torch

    from stablerep.models import normalisation
    from stablerep.probes.data import load_labelled
    from stablerep.probes.features import extract, frozen
    from stablerep.probes.knn import probe_knn
    from stablerep.stages.pretrain_alone import train_alone
    from stablerep.stages.pretrain_run import plan_run

    config = configured(recipe, words)
    trunk, _ = train_alone(plan_run(recipe, config.pretrain, dataset), store)
    size_px, probe = config.pretrain.trunk.size_px, config.probe
    images, (mean, std) = load_labelled(probe.dataset, size_px), normalisation(size_px)
    embed = frozen(trunk, "cpu")
    train_NF, test_QF = (
        extract(embed, part, mean=mean, std=std, batch_size=probe.feature_batch_size) for part in (images.train, images.test)
    )
    predicted_Q = probe_knn(
        train_NF,
        torch.from_numpy(images.train_labels.copy()),
        test_QF,
        num_classes=len(images.class_names),
        num_neighbours=probe.num_neighbours,
        temperature=probe.neighbour_temperature,
    )
    return predicted_Q == images.test_labels


def _distances(store: Store, dataset: Any) -> dict[str, float]:
    """Mean distance inside each group of 2 images and more, by caption."""
    from PIL import Image

    from stablerep.probes.features import pixels
    from stablerep.probes.preset_verdict import group_distance
    from stablerep.shards.read import GroupDataset

    groups, found = GroupDataset(store, dataset), dict[str, float]()
    for position in range(groups.num_groups):
        group = groups.group(position)
        images_M3SS = np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).transpose(2, 0, 1) for image in group.images])
        if len(images_M3SS) > 1:
            found[group.caption.caption_id] = group_distance(pixels(images_M3SS, len(images_M3SS)).numpy().astype(np.float64))
    return found


def to_json(found: dict[str, Any]) -> str:
    """One document, keys in order."""
    return json.dumps(found, indent=1, sort_keys=True)
