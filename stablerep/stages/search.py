"""search: the groups nearest to a text or an image, by a model's reference set; a page with thumbnails, and a few lines.

Texts go through the encoder's text tower and are compared in the space it shares with images; images go through the trunk. The search is
exact. It asks Parquet, which answers at once; `use_feast` asks Feast's online store, which answers the same.

Dimension key: D the space that is searched.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stablerep.catalogue import Neighbour
from stablerep.endpoint.folder import local_folder
from stablerep.errors import ConfigError, DataError
from stablerep.groups.contact_sheet import shown_image
from stablerep.report.neighbours import FoundGroup, Thumbnail, neighbours_html
from stablerep.shards import GroupDataset
from stablerep.shards.dataset import find_dataset
from stablerep.stages.catalogue_choice import open_catalogue
from stablerep.stages.serve import promoted
from stablerep.store import Store

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp", ".bmp": "bmp"}
_SHOWN_PX = 64
_IMAGES_PER_GROUP = 4  # at most so many images of a group are in a reference set


@dataclass(frozen=True)
class Answer:
    """What was found: one neighbour a group, nearest first, and the page."""

    model_id: str
    space: str
    neighbours: tuple[Neighbour, ...]
    html: str

    def lines(self) -> list[str]:
        """A line a group for the terminal."""
        return [f"{1 - found.distance:6.3f}  {found.image.caption}" for found in self.neighbours]


def search(store_uri: str, question: str, *, model_id: str = "", count: int = 12, use_feast: bool = False) -> Answer:
    """Search by a text, or by an image where `question` ends as image files do.

    Args:
        store_uri: URI of the store.
        question: a text, or the path of an image.
        model_id: whose reference set; empty for the model promoted last.
        count: of groups.
        use_feast: ask Feast's online store.

    Raises:
        ConfigError: a text for a model without text tower, or fewer than one group.
        DataError: no such image or model, or the model has no reference set.
        RequestError: the image cannot be decoded.
    """
    if count < 1 or not question.strip():
        raise ConfigError(f"search: expected a text or an image, and 1 or more groups, found {question!r} and {count}")
    store = Store(store_uri)
    chosen = model_id or promoted(store).model_id
    data = _image_bytes(question)
    space, query_D = _embed(store, chosen, question, data)
    near = open_catalogue(store, use_feast).nearest(chosen, space, query_D, count * _IMAGES_PER_GROUP)
    best: dict[str, Neighbour] = {}
    for neighbour in near:
        best.setdefault(f"{neighbour.image.dataset_id}/{neighbour.image.caption_id}", neighbour)
    neighbours = tuple(list(best.values())[:count])
    name = Path(question).name if data else question
    facts = {"groups shown": str(len(neighbours)), "cosine of the nearest": f"{1 - neighbours[0].distance:.3f}"}
    picture = _thumbnail(data, _FORMATS[Path(question).suffix.lower()]) if data else None
    page = neighbours_html(name, picture, facts | {"searched by": "image" if data else "text", "model": chosen}, _groups(store, neighbours))
    return Answer(chosen, space, neighbours, page)


def _image_bytes(question: str) -> bytes:
    if not question.lower().endswith(IMAGE_SUFFIXES):
        return b""
    path = Path(question).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: expected an image file, found nothing there; a text must not end in {' '.join(IMAGE_SUFFIXES)}")
    return path.read_bytes()


def _embed(store: Store, model_id: str, question: str, data: bytes) -> tuple[str, Sequence[float]]:
    from stablerep.batches.tokenize import CaptionTokenizer
    from stablerep.models import load_encoder
    from stablerep.stages.probe_reference import embed_images

    with local_folder(store.uri_of(f"models/{model_id}")) as folder:
        encoder = load_encoder(folder)
        if data:
            return "features", embed_images(encoder, [data])["features"][0].tolist()
        if not encoder.has_text:
            raise ConfigError(f"search: {model_id} has no text tower; search with an image, or train with pretrain.text_weight above 0")
        tokenizer = CaptionTokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return "beside_text", encoder.embed_text(tokenizer.encode([question]))[0].float().cpu().tolist()


def _groups(store: Store, neighbours: Sequence[Neighbour]) -> list[FoundGroup]:
    """What the page shows of each group; groups whose data set is gone are shown without images."""
    opened: dict[str, GroupDataset | None] = {}
    found: list[FoundGroup] = []
    for neighbour in neighbours:
        image = neighbour.image
        if image.dataset_id not in opened:
            dataset = find_dataset(store, image.dataset_id)
            opened[image.dataset_id] = GroupDataset(store, dataset, verify=False) if dataset else None
        thumbnails = _thumbnails(opened[image.dataset_id], image.position, image.image_index)
        group_id = f"{image.dataset_id}/{image.caption_id}"
        found.append(FoundGroup(image.caption, 1 - neighbour.distance, thumbnails, group_id))
    return found


def _thumbnails(groups: GroupDataset | None, position: int, hit: int) -> tuple[Thumbnail, ...]:
    if groups is None:
        return ()
    files = groups.images(position, range(groups.num_images(position)))
    return tuple(_thumbnail(data, groups.image_format, index == hit) for index, data in enumerate(files))


def _thumbnail(data: bytes, image_format: str, is_hit: bool = False) -> Thumbnail:
    shown, mime, width_px = shown_image(data, image_format, _SHOWN_PX)
    return Thumbnail(shown, mime, width_px, is_hit)
