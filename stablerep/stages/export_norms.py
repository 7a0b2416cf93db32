"""How long an encoder's embeddings of its own training images are: what a server compares those of its callers with (drift).

The images are spread evenly over the groups, as they are stored, prepared as the server prepares them; equal data sets and encoders give
equal numbers. A data set that has been removed since costs the numbers, not the export.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import logging
from collections.abc import Iterator
from pathlib import Path

from stablerep.errors import DataError, StoreError
from stablerep.records import DatasetRef
from stablerep.store import Store

NUM_IMAGES = 256
_BATCH = 32

log = logging.getLogger("stablerep")


def add_norms(folder: Path, store: Store, data: DatasetRef) -> None:
    """Write `statistics.json` beside an exported encoder and list it in its digests; nothing where the images cannot be read.

    Raises:
        StoreError: the store does not answer.
    """
    from stablerep.endpoint.facts import STATISTICS_FILE, statistics_json
    from stablerep.models import add_files

    try:
        norms = _norms(folder, store, data)
    except StoreError:
        raise
    except DataError as error:
        log.warning("export without %s, so the server will not tell drift: %s", STATISTICS_FILE, error)
        return
    add_files(folder, {STATISTICS_FILE: statistics_json(norms)})


def _norms(folder: Path, store: Store, data: DatasetRef) -> list[float]:
    import torch

    from stablerep.batches.decode import decode_image
    from stablerep.endpoint.preprocess import centre_crop, normalise
    from stablerep.models import load_encoder

    encoder = load_encoder(folder)
    wanted = encoder.preprocessor
    images = [normalise(centre_crop(decode_image(file, wanted.resize), wanted.crop), wanted) for file in _files(store, data)]
    with torch.inference_mode():
        return [norm for batch in torch.stack(images).split(_BATCH) for norm in encoder.embed(batch).norm(dim=1).tolist()]


def _files(store: Store, data: DatasetRef) -> Iterator[bytes]:
    """At most `NUM_IMAGES` encoded images: as many of every group, or one of groups that lie evenly apart."""
    from stablerep.shards.read import GroupDataset

    dataset = GroupDataset(store, data, verify=False)  # every image is checked when it is read
    num_chosen = min(dataset.num_groups, NUM_IMAGES)
    for number in range(num_chosen):
        position = number * dataset.num_groups // num_chosen
        yield from dataset.images(position, range(min(NUM_IMAGES // num_chosen, dataset.num_images(position))))
