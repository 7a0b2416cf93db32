"""Pools of images, made by the stages of the product, and what they are worth: agreement, group purity, diversity.

A shuffled pool holds the images of a synthetic one, dealt out anew over the captions: the control in which a group means nothing. Captions
that do not name the class are the replicate's own captions with the class taken out of their words, so the generator has to guess.

Dimension key: N images, S pixels a side.
"""

import csv
import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.svm import SVC
from trends.plan import RECIPE, Pool, Study, pool_words

from stablerep.captions.derived import CLASS_NAMES
from stablerep.captions.packaged import caption_corpus, load_packaged
from stablerep.captions.prompt_set import read_labels
from stablerep.config import load_recipe
from stablerep.records import DatasetRef, GeneratorRef, PromptSet
from stablerep.shards.dataset import commit_shard, write_manifest, write_spec
from stablerep.shards.group import ImageGroup
from stablerep.shards.read import GroupDataset
from stablerep.stages import commit, generate, generator, prepare
from stablerep.store import Store

_CLASS = re.compile(rf"\b(?:number |digit )?(?:{'|'.join(CLASS_NAMES)}|[0-9])\b")
_JUDGE_SIDE_PX = 16
_NUM_PAIRS = 200


@dataclass(frozen=True)
class MadePool:
    """A committed data set and what was measured on it."""

    dataset: DatasetRef
    facts: dict[str, float]


def make_pool(pool: Pool, study: Study, work: Path) -> MadePool:
    """The pool, made where it is not there yet; pools are remembered in `work/pools`."""
    path = work / "pools" / f"{pool.key}.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        return MadePool(DatasetRef.from_json(known["dataset"]), known["facts"])
    store = Store(str(work / "store"))
    if pool.images == "shuffled":
        source = make_pool(Pool("synthetic", pool.replicate, pool.guidance, pool.captions, pool.images_per_caption), study, work)
        dataset = _shuffled(store, source.dataset, pool.replicate)
    else:
        dataset = _generated(pool, study, work)
    made = MadePool(dataset, {} if pool.images == "real" else measure(store, dataset))
    write_json(path, {"pool": asdict(pool), "dataset": dataset.to_json(), "facts": made.facts})
    return made


def write_json(path: Path, value: Any) -> None:
    """Write beside `path`, then rename: a reader sees a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".writing")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def without_class(caption: str) -> str:
    """A derived caption that no longer says which digit it is."""
    return _CLASS.sub("digit", caption)


def _generated(pool: Pool, study: Study, work: Path) -> DatasetRef:
    store, words = str(work / "store"), pool_words(pool, study)
    if pool.captions != "always":
        # Without their class some captions say the same: all that remain are taken, a few fewer.
        words += f" captions.source={_captions_file(pool, words, work)} captions.label_column=label captions.num_captions=0"
    prompt_set, model = prepare.run(RECIPE, words, store), generator.run(RECIPE, words, store)
    records = {"prompt_set": prompt_set.to_json(), "generator": model.to_json()}
    lanes = [generate.run(RECIPE, words, store, **records, lane=lane).to_json() for lane in range(prompt_set.num_lanes)]
    return commit.run(RECIPE, words, store, **records, lanes=lanes)


def _captions_file(pool: Pool, words: str, work: Path) -> Path:
    captions = load_recipe(RECIPE, words).captions
    labels, rows = load_packaged("mnist").labels, io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["caption", "label"])
    chance = np.random.default_rng([pool.replicate, 1])
    for text, image in caption_corpus("mnist", captions.num_captions, captions.seed):
        is_silent = pool.captions == "never" or chance.random() < 0.5
        writer.writerow([without_class(text) if is_silent else text, CLASS_NAMES[int(labels[image])]])
    path = work / "captions" / f"{pool.key}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows.getvalue(), encoding="utf-8")
    return path.resolve()


def _shuffled(store: Store, source: DatasetRef, seed: int) -> DatasetRef:
    """A data set of the same captions and the same images, each image with a caption drawn by lot."""
    groups, m = GroupDataset(store, source), source.images_per_caption
    images = [image for position in range(groups.num_groups) for image in groups.group(position).images]
    if len(images) != groups.num_groups * m:
        raise ValueError(f"expected {m} images in each of {groups.num_groups} groups, found {len(images)} in all")
    dealt = [images[i] for i in np.random.default_rng([seed, 2]).permutation(len(images))]
    shuffled = [ImageGroup(groups.caption(k), tuple(dealt[k * m : (k + 1) * m]), groups.image_format, {}) for k in range(groups.num_groups)]
    prompt_set = PromptSet(source.prompt_set_id, "", "", len(shuffled), 1, 1, {})
    model = GeneratorRef(source.generator_id, "", "", source.manifest_sha256, "", "", 0)
    spec = {"images_per_caption": m, "noise_seed": seed, "control": "images shuffled over captions"}
    dataset_id = write_spec(store, prompt_set, model, spec)
    commit_shard(store, dataset_id, 0, shuffled, counts={"good": len(images)}, producer={})
    return write_manifest(store, dataset_id, prompt_set, model, m, {})


def measure(store: Store, dataset: DatasetRef) -> dict[str, float]:
    """Agreement of the images with the class of their caption, group purity, and the mean distance inside a group.

    The judge is a support vector machine on the real training images at 16x16; it shares nothing with what is trained here.
    """
    train, test = load_packaged("mnist", "train"), load_packaged("mnist", "test")
    judge = SVC(C=10).fit(_points(train.images), train.labels)
    labels, groups = read_labels(store, dataset.prompt_set_id), GroupDataset(store, dataset, verify=False)
    right, pure, distances = list[float](), list[float](), list[float]()
    for position in range(groups.num_groups):
        group = groups.group(position)
        images_NSS = np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("L")) for image in group.images])
        predicted_N = judge.predict(_points(images_NSS))
        wanted = CLASS_NAMES.index(labels[group.caption.caption_id])
        right.append(float((predicted_N == wanted).mean()))
        pure.append(float(np.bincount(predicted_N).max() / len(predicted_N)))
        if position < _NUM_PAIRS:
            flat = images_NSS.reshape(len(images_NSS), -1) / 255
            distances.append(float(np.linalg.norm(flat[0] - flat[1])) if len(flat) > 1 else 0.0)
    return {
        "judge": float(judge.score(_points(test.images), test.labels)),
        "agreement": float(np.mean(right)),
        "purity": float(np.mean(pure)),
        "distance": float(np.mean(distances)),
    }


def _points(images_NSS: np.ndarray) -> np.ndarray:
    """Images as points: float32 [N,256] in [0, 1], averaged down to 16x16."""
    factor = images_NSS.shape[1] // _JUDGE_SIDE_PX
    pooled = images_NSS.reshape(len(images_NSS), _JUDGE_SIDE_PX, factor, _JUDGE_SIDE_PX, factor).mean((2, 4))
    return pooled.reshape(len(images_NSS), -1).astype(np.float32) / 255
