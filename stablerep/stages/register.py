"""register: captions of a file become known to the catalogue, with tags; `captions.source=catalogue:` selects among them."""

from datetime import UTC, datetime
from pathlib import PurePosixPath

from stablerep.captions.clean import clean_captions
from stablerep.captions.read import read_captions
from stablerep.catalogue import ParquetCatalogue
from stablerep.identity import content_id
from stablerep.stages.prepare_catalogue import caption_rows
from stablerep.store import Store


def register_captions(store: str, source: str, tags: tuple[str, ...], *, column: str = "caption", label_column: str = "") -> int:
    """Register the captions of a source now; returns their number. A caption that is known gets the new tags from now on.

    Args:
        store: URI of the store.
        source: as `captions.source`.
        tags: of all of them.
        column: with the texts.
        label_column: with the classes, empty for none.

    Raises:
        CaptionError: the source cannot be read as captions.
    """
    kept, _ = clean_captions(read_captions(source, column, label_column=label_column), max_words=60, num_captions=0, seed=0)
    name = content_id("lot", [PurePosixPath(source).name, [caption.caption_id for caption in kept], sorted(tags)])
    ParquetCatalogue(Store(store)).register_captions(name, caption_rows(kept, tags), datetime.now(UTC).isoformat())
    return len(kept)
