"""Who measures the groups: a classifier fitted on real training images, or an embedding model; never the model that filtered them.

`packaged:<name>` is a support vector machine on the pixels of the training images of packaged data: it gives every image a class, so purity
needs no caption. Any folder or URI that `quality.scorer` takes may be the judge of other data; then purity is the agreement inside groups
(`groups.purity`). Test images are never read.

Dimension key: N images, S side of the judge's images, F features.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from stablerep.captions.packaged import SIZE_PX, load_packaged
from stablerep.errors import DataError
from stablerep.groups.inspection import AgreementModel, FloatArray
from stablerep.groups.purity import Estimate, IntArray, diversity, estimate, labelled_purity, unlabelled_purity
from stablerep.groups.sampler import ImageHW3
from stablerep.groups.two_towers import folder_digest, open_two_tower, two_tower_folder

PACKAGED = "packaged:"
REGULARISATION = 10.0  # of the support vector machine, as in benchmarks/embedded_generator.py


class Judge(Protocol):
    """Looks at images that it did not help to choose."""

    @property
    def has_classes(self) -> bool:
        """Whether it names classes."""
        ...

    def features(self, images: Sequence[ImageHW3]) -> FloatArray:
        """One row for every image: [N,F]."""
        ...

    def classes(self, row_NF: FloatArray) -> IntArray:
        """The class of every image, from its features: [N]; only where `has_classes`."""
        ...


@dataclass(frozen=True)
class Measured:
    """Purity and diversity of some groups, with the purity of each."""

    purity: Estimate
    diversity: Estimate
    purity_of_groups: tuple[float, ...]
    is_labelled: bool


def open_judge(judge: str, device: str) -> Judge:
    """The judge of a recipe.

    Args:
        judge: `packaged:<name>`, `embedded:<name>`, a folder or a URI.
        device: auto, cpu, cuda ...; of an embedding model.

    Raises:
        DataError: there is no such data or model.
        ConfigError: its library is not installed here.
    """
    if judge.startswith(PACKAGED):
        return _Classifier(judge.removeprefix(PACKAGED))
    return _Embedder(open_two_tower(two_tower_folder(judge, "quality.judge"), device, "quality.judge"))


def judge_identity(judge: str) -> str:
    """What decides its verdicts; light, and raises as `open_judge`."""
    return judge if judge.startswith(PACKAGED) else folder_digest(two_tower_folder(judge, "quality.judge"))


def measure(judge: Judge, groups: Sequence[Sequence[ImageHW3]]) -> Measured:
    """Purity and diversity of groups of 2 images or more.

    Raises:
        DataError: there are fewer than two such groups.
    """
    if len(groups) < 2 or min(map(len, groups)) < 2:
        raise DataError(f"expected two or more groups of 2 images or more to judge, found {len(groups)}; raise images_per_caption")
    group_N = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    row_NF = np.concatenate([judge.features(group) for group in groups])
    purity_G = labelled_purity(judge.classes(row_NF), group_N) if judge.has_classes else unlabelled_purity(row_NF, group_N)
    diversity_G = diversity(row_NF, group_N)
    return Measured(estimate(purity_G), estimate(diversity_G), tuple(round(float(value), 4) for value in purity_G), judge.has_classes)


class _Classifier:
    has_classes = True

    def __init__(self, name: str) -> None:
        from sklearn.svm import SVC

        data = load_packaged(name, "train")
        self._model: Any = SVC(C=REGULARISATION).fit(_pixels(data.images), data.labels)

    def features(self, images: Sequence[ImageHW3]) -> FloatArray:
        return _pixels(np.stack([_grey(image) for image in images])).astype(np.float64)

    def classes(self, row_NF: FloatArray) -> IntArray:
        return np.asarray(self._model.predict(row_NF.astype(np.float32)), dtype=np.int64)


class _Embedder:
    has_classes = False

    def __init__(self, model: AgreementModel) -> None:
        self._model = model

    def features(self, images: Sequence[ImageHW3]) -> FloatArray:
        return self._model.embed_images(images)

    def classes(self, row_NF: FloatArray) -> IntArray:
        raise DataError(f"expected a judge with classes for {len(row_NF)} images, found an embedding model, which has none")


def _grey(image: ImageHW3) -> Any:
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey if grey.size == (SIZE_PX, SIZE_PX) else grey.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))


def _pixels(images_NSS: Any) -> Any:
    return images_NSS.reshape(len(images_NSS), -1).astype(np.float32) / 255
