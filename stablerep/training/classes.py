"""The classes that supervised training learns: which there are, and which one each caption of the data set belongs to.

    runs/<run_key>/classes.json   CaptionClasses, written by rank 0 before the first step

Classes are words in the captions' provenance (`label`); here they get numbers, in the order of the alphabet. Light: no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stablerep.errors import DataError
from stablerep.records import Record
from stablerep.store import Store

CLASSES_KEY = "classes.json"


@dataclass(frozen=True)
class CaptionClasses(Record):
    """Names of the K classes, and the class of each caption id as a place among them."""

    names: tuple[str, ...]
    class_of: dict[str, int]


def classes_of(caption_ids: Iterable[str], labels: Mapping[str, str], where: str) -> CaptionClasses:
    """Number the classes of a data set.

    Args:
        caption_ids: of the data set.
        labels: the class of each caption that has one, by caption id.
        where: the captions, for messages.

    Raises:
        DataError: a caption has no class, or all have the same.
    """
    ids = list(caption_ids)
    without = [caption_id for caption_id in ids if caption_id not in labels]
    if without:
        raise DataError(
            f"{where}: expected a class for each of {len(ids)} captions with pretrain.objective=supervised, found none for "
            f"{len(without)} of them ({', '.join(without[:3])}{' ...' if len(without) > 3 else ''}); use packaged captions or a table "
            "whose captions.label_column names the class, run prepare again and make groups of those captions"
        )
    names = tuple(sorted({labels[caption_id] for caption_id in ids}))
    if len(names) < 2:
        raise DataError(
            f"{where}: expected captions of 2 or more classes, found {', '.join(names) or 'no captions'}; choose other captions"
        )
    number = {name: place for place, name in enumerate(names)}
    return CaptionClasses(names, {caption_id: number[labels[caption_id]] for caption_id in ids})


def read_classes(runs: Store) -> CaptionClasses:
    """The classes of a run that began.

    Raises:
        DataError: the run has none.
    """
    return CaptionClasses.from_json(runs.read_text(CLASSES_KEY))
