"""The reference set of a model: what it makes of a bounded number of the images it was trained on, for search and for the endpoint.

Registered in the catalogue, in the trunk's space and, where there is a text tower, in the space shared with texts; and written beside the
encoder as `reference.safetensors` (float16 rows, ids in the metadata), which a server answers "what is near?" from. It is no part of the
encoder's id or digests: it decides no embedding.

Dimension key: N images, F features, D the space shared with texts.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
import logging
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablerep.catalogue import ParquetCatalogue, Reference, ReferenceImage
from stablerep.endpoint.folder import local_folder
from stablerep.endpoint.reference import REFERENCE_FILE, write_references
from stablerep.errors import DataError, StoreError
from stablerep.records import DatasetRef, ModelRef
from stablerep.shards import GroupDataset
from stablerep.shards.dataset import find_dataset
from stablerep.stages.context import Stage
from stablerep.store import Store

if TYPE_CHECKING:
    from stablerep.models import Encoder

MAX_IMAGES = 2000
MAX_IMAGES_PER_GROUP = 4
_BATCH = 128

log = logging.getLogger("stablerep")


def register_reference(stage: Stage, model: ModelRef) -> None:
    """Embed the reference set of a model and register it, once; nothing where its training images are not in this store."""
    catalogue, key = ParquetCatalogue(stage.store), f"models/{model.model_id}/{REFERENCE_FILE}"
    spaces = ("features", "beside_text") if model.has_text else ("features",)
    if stage.store.exists(key) and all(catalogue.has_reference(model.model_id, space) for space in spaces):
        return
    dataset = training_dataset(stage.store, model.model_id)
    if dataset is None:
        log.info("probe: %s has no reference set, the images it was trained on are not in %s", model.model_id, stage.store.uri)
        return
    groups = GroupDataset(stage.store, dataset, verify=False)
    chosen = list(chosen_images(groups.num_groups, groups.images_per_caption))
    images, vectors = _embed(stage, model, dataset, groups, chosen)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    for space in spaces:
        catalogue.register_reference(Reference(model.model_id, space, images, vectors[space]), when)
    with tempfile.TemporaryDirectory(prefix="stablerep-reference-") as folder:
        ids, unit_NF = [image.image_id for image in images], _unit(vectors["features"]).astype("float16")  # a long row would overflow
        stage.store.put(write_references(Path(folder), ids, unit_NF, model.model_id), key)
    log.info("probe: reference set of %d images of %d groups", len(images), len({image.position for image in images}))


def training_dataset(store: Store, model_id: str) -> DatasetRef | None:
    """The data set that a model's lineage names, where it is in this store."""
    try:
        lineage = json.loads(store.read_text(f"models/{model_id}/lineage.json"))
        return find_dataset(store, lineage["dataset"]["dataset_id"])
    except StoreError:
        raise
    except (DataError, ValueError, KeyError):
        return None


def chosen_images(num_groups: int, images_per_caption: int) -> Iterator[tuple[int, int]]:
    """Group and place of at most `MAX_IMAGES` images: of groups spread evenly over the data set, the first few of each."""
    num_chosen = min(num_groups, MAX_IMAGES)
    each = max(1, min(images_per_caption, MAX_IMAGES_PER_GROUP, MAX_IMAGES // max(num_chosen, 1)))
    for number in range(num_chosen):
        for image_index in range(each):
            yield number * num_groups // num_chosen, image_index


def _embed(
    stage: Stage, model: ModelRef, dataset: DatasetRef, groups: GroupDataset, chosen: list[tuple[int, int]]
) -> tuple[tuple[ReferenceImage, ...], dict[str, Any]]:
    import numpy as np
    import torch

    from stablerep.models import load_encoder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with local_folder(model.uri) as folder:
        encoder = load_encoder(folder, device)
    images: list[ReferenceImage] = []
    parts: dict[str, list[Any]] = {"features": [], "beside_text": []}
    with stage.reporter.progress(len(chosen), "reference images") as progress:
        for start in range(0, len(chosen), _BATCH):
            batch = [(p, i) for p, i in chosen[start : start + _BATCH] if i < groups.num_images(p)]
            for space, vectors in embed_images(encoder, [groups.images(p, [i])[0] for p, i in batch]).items():
                parts[space].append(vectors)
            images += [_image(dataset, groups, position, image_index) for position, image_index in batch]
            progress.advance(len(batch))
    return tuple(images), {space: np.concatenate(found) for space, found in parts.items() if found}


def embed_images(encoder: "Encoder", files: list[bytes]) -> dict[str, Any]:
    """Float32 rows of image files by space: `features` [N, F], and `beside_text` [N, D] where there is a text tower."""
    import torch

    from stablerep.endpoint.limits import Limits
    from stablerep.endpoint.preprocess import preprocess_image

    images_N3SS = torch.stack([preprocess_image(data, encoder.preprocessor, Limits()) for data in files])
    found = {"features": encoder.embed(images_N3SS).float().cpu().numpy()}
    if encoder.has_text:
        found["beside_text"] = encoder.embed_image_for_text(images_N3SS).float().cpu().numpy()
    return found


def _image(dataset: DatasetRef, groups: GroupDataset, position: int, image_index: int) -> ReferenceImage:
    caption = groups.caption(position)
    image_id = f"{dataset.dataset_id}/{caption.caption_id}/{image_index}"
    return ReferenceImage(image_id, dataset.dataset_id, caption.caption_id, caption.text, position, image_index)


def _unit(features_NF: Any) -> Any:
    import numpy as np

    return features_NF / np.maximum(np.linalg.norm(features_NF, axis=1, keepdims=True), 1e-12)
