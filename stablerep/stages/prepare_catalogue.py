"""prepare beside the catalogue: captions selected as of a moment, and captions that were read made known for later selections.

The same moment, tags and balance give the same captions however many are registered afterwards, so a prompt set can be made again. Where
Feast is installed the rows come from its point-in-time join, else from Parquet; both are the same (tests/catalogue/test_feast.py).
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from stablerep.captions.prompt_set import LABEL
from stablerep.catalogue import CaptionRow, ParquetCatalogue
from stablerep.catalogue.parquet import moment
from stablerep.catalogue.selection import select_captions
from stablerep.config.schema import CaptionsConfig
from stablerep.errors import ConfigError
from stablerep.records import Caption
from stablerep.stages.catalogue_choice import open_catalogue
from stablerep.store import Store

CATALOGUE = "catalogue:"
MAX_REGISTERED = 1_000_000

log = logging.getLogger("stablerep")


def selected_rows(store: Store, captions: CaptionsConfig, use_feast: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Texts with provenance, as `read_captions` gives them, of `captions.source=catalogue:[store URI]`.

    Raises:
        ConfigError: captions.as_of is not a moment of the past.
        DataError: no captions fit the query.
    """
    if moment(captions.as_of) > datetime.now(UTC):
        raise ConfigError(f"captions.as_of: expected a moment of the past, found {captions.as_of}; what it means could still change")
    uri = captions.source.removeprefix(CATALOGUE)
    catalogue = open_catalogue(Store(uri) if uri else store, use_feast)
    chosen = select_captions(
        catalogue.captions(captions.as_of),
        tags=captions.tags,
        balance=captions.balance,
        num_captions=captions.num_captions,
        seed=captions.seed,
    )
    for row in chosen:
        yield row.caption, {"source": row.source} | ({LABEL: row.label} if row.label else {})


def register_prompts(store: Store, name: str, captions: Sequence[Caption], tags: Iterable[str]) -> bool:
    """Make a lot of captions known under its name, once; False where it is known already, or too large.

    Args:
        store: where the catalogue is.
        name: of the lot: the id of a prompt set.
        captions: cleaned.
        tags: of all of them.
    """
    catalogue = ParquetCatalogue(store)
    if len(captions) > MAX_REGISTERED:
        log.info("catalogue: %s has more than %d captions and is not registered; it stays selectable as a source", name, MAX_REGISTERED)
        return False
    if catalogue.has_captions(name):
        return False
    catalogue.register_captions(name, caption_rows(captions, tags), datetime.now(UTC).isoformat())
    return True


def caption_rows(captions: Iterable[Caption], tags: Iterable[str]) -> Iterator[CaptionRow]:
    """Cleaned captions as rows of the catalogue."""
    chosen = tuple(tags)
    for caption in captions:
        label, source = caption.metadata.get(LABEL, ""), str(caption.metadata.get("source", ""))
        yield CaptionRow(caption.caption_id, caption.text, str(label), chosen, source)
