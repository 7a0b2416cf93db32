"""Captions chosen from the catalogue: by tags, and equally many of each class. A pure function of the rows, the query and a seed."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from stablerep.catalogue.catalogue import CaptionRow
from stablerep.errors import DataError


def select_captions(
    rows: Iterable[CaptionRow], *, tags: Sequence[str], balance: Literal["none", "class"], num_captions: int, seed: int
) -> list[CaptionRow]:
    """The captions that a query means, by id.

    Args:
        rows: what was known.
        tags: all of these; `!tag` for none of it.
        balance: "class" for equally many of each class, as many as the smallest class has, or num_captions over the classes.
        num_captions: with "class", how many in all; 0 for as many as there are. Without, all are returned: cleaning chooses.
        seed: of the choice in a class; it depends on seed and ids only.

    Raises:
        DataError: no caption has these tags, or classes cannot be balanced.
    """
    wanted, unwanted = {tag for tag in tags if not tag.startswith("!")}, {tag[1:] for tag in tags if tag.startswith("!")}
    every = list(rows)
    found = sorted((row for row in every if wanted <= set(row.tags) and not unwanted & set(row.tags)), key=lambda row: row.caption_id)
    if not found:
        known = sorted({tag for row in every for tag in row.tags})
        raise DataError(
            f"expected captions with tags {', '.join(tags) or '(any)'}, found none of {len(every)}; "
            f"tags that are known: {', '.join(known[:20]) or 'none'}"
        )
    if balance == "none":
        return found
    return sorted(_balanced(found, num_captions, seed), key=lambda row: row.caption_id)


def _balanced(rows: list[CaptionRow], num_captions: int, seed: int) -> list[CaptionRow]:
    classes: dict[str, list[CaptionRow]] = defaultdict(list)
    for row in rows:
        classes[row.label].append(row)
    if without := len(classes.get("", ())):
        raise DataError(f"captions.balance=class: expected a class for every caption, found {without} without; narrow captions.tags")
    smallest = min(classes, key=lambda label: (len(classes[label]), label))
    each = num_captions // len(classes) if num_captions else len(classes[smallest])
    if not 1 <= each <= len(classes[smallest]):
        raise DataError(
            f"captions.balance=class: expected {each} or more captions of each of {len(classes)} classes (and at least one), found "
            f"{len(classes[smallest])} of {smallest!r}; lower captions.num_captions or register more"
        )
    return [row for label in sorted(classes) for row in sorted(classes[label], key=lambda row: _key(row, seed))[:each]]


def _key(row: CaptionRow, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{row.caption_id}".encode()).digest()
