"""Groups of real images: by class, keyed, of the train part only, through the same stages as images that a model made."""

import json
from pathlib import Path

import numpy as np
import pytest
from labelled_images import write_images

from stablerep.batches.decode import decode_image
from stablerep.captions.packaged import load_packaged
from stablerep.captions.prompt_set import read_labels, read_prompt_set
from stablerep.errors import ConfigError, DataError
from stablerep.groups.real import RealSampler, load_real, locate_real, resolve_real
from stablerep.groups.sampler import ImageRequest
from stablerep.records import DatasetRef, GeneratorRef, PromptSet
from stablerep.shards.read import GroupDataset
from stablerep.stages import commit, generate, generator, prepare
from stablerep.store import Store

SETTINGS = (
    "captions.source=packaged:digits captions.num_captions=20 captions.captions_per_shard=5 generator.model=real:digits "
    "generate.images_per_caption=4 gate.has_catalogue=false"
)


def _requests(text: str, count: int, name: str = "ab12") -> list[ImageRequest]:
    return [ImageRequest(name, text, index) for index in range(count)]


def test_images_of_the_class_the_described_one_first_each_once() -> None:
    part, images = load_packaged("digits"), load_real("real:digits")
    place = 17
    text, label = part.captions[place], part.class_names[int(part.labels[place])]
    sampler = RealSampler(images, {"ab12": label}, noise_seed=0, size_px=32)
    members = part.images[part.labels == part.labels[place]]
    found = [image[:, :, 0] for image in sampler.sample(_requests(text, len(members))) if image is not None]
    own = [image.tobytes() for image, caption in zip(part.images, part.captions, strict=True) if caption == text]
    assert {image.tobytes() for image in found[: len(own)]} == set(own)
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in members)
    again = RealSampler(images, {"ab12": label}, noise_seed=0, size_px=32).sample(_requests(text, 9)[::-1])
    assert [image.tobytes() for image in again if image is not None][::-1] == [np.repeat(i[:, :, None], 3, 2).tobytes() for i in found[:9]]
    assert sampler.sample(_requests(text, len(members) + 1))[-1] is not None, "beyond the last the first comes again"


def test_seed_and_caption_decide_the_order() -> None:
    images = load_real("real:packaged:digits")
    orders = set[bytes]()
    for seed, name in ((0, "aa"), (1, "aa"), (0, "bb")):
        sampler = RealSampler(images, {name: "three"}, noise_seed=seed, size_px=8)
        orders.add(b"".join(image.tobytes() for image in sampler.sample(_requests("a three", 3, name)) if image is not None))
    assert len(orders) == 3


def test_a_caption_without_a_known_class_is_named() -> None:
    for class_of, found in (({}, "no class"), ({"ab12": "cat"}, "cat")):
        sampler = RealSampler(load_real("real:digits"), class_of, noise_seed=0, size_px=8)
        with pytest.raises(
            DataError, match=rf"caption ab12 .*expected one of the classes of the real images .*found {found}; use packaged"
        ):
            sampler.sample(_requests("a cat", 1))


def test_a_folder_gives_its_train_images(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images")
    reference = resolve_real(f"real:{root}", "mit")
    assert (reference.uri, reference.pipeline_class, reference.licence) == (f"real:{root.as_uri()}", "RealImages", "mit")
    assert reference.size_px == 32
    images = locate_real(reference)
    assert {name: len(names) for name, names in images.classes.items()} == {"blue": 8, "green": 8, "red": 8}
    assert all(name.startswith("train/") for names in images.classes.values() for name in names)
    (image,) = RealSampler(images, {"ab12": "red"}, noise_seed=0, size_px=16).sample(_requests("x", 1))
    assert image is not None
    assert (image.shape, image.dtype) == ((16, 16, 3), np.uint8)
    assert image.mean((0, 1)).argmax() == 0, "it is red"
    (root / "train" / "red" / "000.png").unlink()
    with pytest.raises(DataError, match=r"expected the images with digest .*they changed since stage generator ran"):
        locate_real(reference)
    with pytest.raises(DataError, match=r"expected a packaged data set or a folder with images at train/<class>/<name>.*found none"):
        resolve_real(f"real:{tmp_path / 'nothing'}", "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, PromptSet, GeneratorRef, DatasetRef]:
    store = Store(str(tmp_path_factory.mktemp("real")))
    prompts = prepare.run("smoke", SETTINGS, store.uri)
    reference = generator.run("smoke", SETTINGS, store.uri)
    return store, prompts, reference, _groups(store, prompts, reference)


def _groups(store: Store, prompts: PromptSet, reference: GeneratorRef, settings: str = SETTINGS) -> DatasetRef:
    records = {"prompt_set": prompts.to_json(), "generator": reference.to_json()}
    lanes = [generate.run("smoke", settings, store.uri, lane=lane, **records).to_json() for lane in (1, 0)]
    return commit.run("smoke", settings, store.uri, lanes=lanes, **records)


def test_the_stages_make_a_data_set_of_train_images_only(made: tuple[Store, PromptSet, GeneratorRef, DatasetRef]) -> None:
    store, prompts, reference, dataset = made
    assert (dataset.num_groups, dataset.num_images, dataset.images_per_caption) == (20, 80, 4)
    assert dataset.quality["missing_ratio"] == 0.0
    assert (reference.pipeline_class, reference.licence, dataset.generator_id) == ("RealImages", "CC BY 4.0", reference.generator_id)
    train, test = load_packaged("digits"), load_packaged("digits", "test")
    label_of = {image.tobytes(): train.class_names[int(label)] for image, label in zip(train.images, train.labels, strict=True)}
    held_out = {image.tobytes() for image in test.images}
    labels, groups = read_labels(store, prompts.prompt_set_id), GroupDataset(store, dataset)
    places = {caption.caption_id: caption.metadata["source_index"] for caption in read_prompt_set(store, prompts)}
    for position in range(groups.num_groups):
        name = groups.caption(position).caption_id
        pixels = [decode_image(data)[0].numpy().tobytes() for data in groups.images(position, range(4))]
        assert len(set(pixels)) == 4
        assert not held_out & set(pixels)
        assert {label_of[image] for image in pixels} == {labels[name]}
        assert train.images[places[name]].tobytes() in pixels, "the image that the caption was written about"
    sheet = store.read_text(f"groups/{dataset.dataset_id}/contact_sheet.html")
    assert "real images of each caption" in sheet
    record = json.loads(store.read_text(f"groups/{dataset.dataset_id}/shards/00000.json"))
    assert set(record["producer"]) == {"lane", "device", "batch_size", "pillow"}


def test_another_store_another_share_of_the_work_the_same_bytes(
    made: tuple[Store, PromptSet, GeneratorRef, DatasetRef], store: Store
) -> None:
    first, _, reference, dataset = made
    prompts = prepare.run("smoke", SETTINGS, store.uri)
    settings = f"{SETTINGS} generate.batch_size=7 generate.guidance=9 generate.num_inference_steps=3"  # of a model: they decide nothing
    again = _groups(store, prompts, reference, settings)
    assert (again.dataset_id, again.manifest_sha256) == (dataset.dataset_id, dataset.manifest_sha256)
    lost = f"groups/{dataset.dataset_id}/shards/00002.json"
    store.delete(lost)
    records = {"prompt_set": prompts.to_json(), "generator": reference.to_json()}
    assert generate.run("smoke", settings, store.uri, lane=0, **records).num_images_made == 20
    tar = lost.replace(".json", ".tar")
    assert store.read(tar) == first.read(tar)


def test_pairs_as_clip_has_them(tmp_path: Path, made: tuple[Store, PromptSet, GeneratorRef, DatasetRef]) -> None:
    _, prompts, reference, _ = made
    store = Store(str(tmp_path / "pairs"))
    settings = f"{SETTINGS} generate.images_per_caption=1 pretrain.objective=clip pretrain.images_per_caption=1"
    assert prepare.run("smoke", settings, store.uri).prompt_set_id == prompts.prompt_set_id
    dataset = _groups(store, prompts, reference, settings)
    assert dataset.num_images == dataset.num_groups == 20
    groups, train = GroupDataset(store, dataset), load_packaged("digits")
    for position in range(20):
        pixels = decode_image(groups.images(position, [0])[0])[0].numpy().tobytes()
        described = {
            image.tobytes() for image, text in zip(train.images, train.captions, strict=True) if text == groups.caption(position).text
        }
        assert pixels in described
    with pytest.raises(ConfigError, match=r"generate.images_per_caption: expected 2 or more"):
        prepare.run("smoke", f"{SETTINGS} generate.images_per_caption=1", store.uri)
    with pytest.raises(ConfigError, match=r"generator.fit=true: expected a model to fit, found real:digits"):
        prepare.run("smoke", f"{SETTINGS} generator.fit=true", store.uri)
