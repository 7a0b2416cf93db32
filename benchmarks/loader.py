"""Images a second of one core from stored bytes to normalised views: this project against Pillow and torchvision image by image.

    python benchmarks/loader.py [--repeats 11] [--seed 0]

`quickstart`: 256 views of 32 px a step, from 32 px PNG. `paper`: 48 views of 224 px, from 256 px JPEG in shards on disk; its baselines
read the same pictures as PNG (which is how the reference implementation stores them), or the very same JPEG shards front to back, with
the `webdataset` package and with a bare `tarfile` loop, each with torchvision v2 on PIL images and on uint8 tensors. Every way decodes
from bytes on one thread and makes the same kind of view; times are CPU seconds (so a busy machine matters less), rounds of all ways in
turn, median of the repeats: each round draws other views, so the least time would be that of the luckiest draw. Images kept in memory
cost this project no decoding, which is what every epoch but the first few costs where a data set fits.
"""

import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
import webdataset
from groups import commit_groups, pictures
from PIL import Image
from result import Row, parser_of, write
from torchvision.transforms import v2

from stablerep.batches import GroupLoader
from stablerep.config.recipes import RECIPES
from stablerep.config.schema import AugmentConfig
from stablerep.records import DatasetRef
from stablerep.shards.layout import shards_folder
from stablerep.shards.read import GroupDataset
from stablerep.store import Store

HALF = (0.5, 0.5, 0.5)


def torchvision_chain(augment: AugmentConfig, size_px: int) -> v2.Compose:
    """The same augmentation with torchvision, for one image."""
    steps: list[torch.nn.Module] = [v2.RandomResizedCrop(size_px, scale=(augment.crop_scale_min, 1.0))]
    if augment.is_flipped:
        steps.append(v2.RandomHorizontalFlip())
    if augment.rotation_degrees:
        steps.append(v2.RandomRotation(augment.rotation_degrees, v2.InterpolationMode.BILINEAR))
    jitter = v2.ColorJitter(augment.jitter, augment.jitter, augment.jitter, augment.hue)
    steps.append(v2.RandomApply([jitter], augment.jitter_probability))
    if augment.grey_probability:
        steps.append(v2.RandomGrayscale(augment.grey_probability))
    if augment.blur_probability:
        steps.append(v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], augment.blur_probability))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if augment.noise:
        steps.append(v2.GaussianNoise(sigma=augment.noise, clip=False))
    return v2.Compose([*steps, v2.Normalize(HALF, HALF)])


def opened(data: bytes) -> Image.Image:
    """The image, as a plain pipeline opens it."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def cpu_seconds(ways: dict[str, Callable[[int], object]], repeats: int) -> dict[str, float]:
    """The median CPU time of a step of every way, over rounds of all."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, work in ways.items():
            started_at = time.process_time()
            work(repeat)
            if repeat:  # the first round warms up
                found[name].append(time.process_time() - started_at)
    return {name: median(seconds) for name, seconds in found.items()}


def images_of(folder: Path) -> Iterator[bytes]:
    """The images of all shards of a folder, front to back, over and over again."""
    while True:
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path, "r|") as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    content = file.read() if file else b""
                    if member.name.endswith((".jpg", ".png", ".webp")):
                        yield content


def images_of_webdataset(folder: Path) -> Iterator[Image.Image]:
    """The same with the webdataset package, which decodes them; entries, which are groups here, come in the order of the shards."""
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    entries = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("pil")
    num_found = 0
    while True:
        num_before = num_found
        for entry in entries:
            for image in entry.values():
                if isinstance(image, Image.Image):
                    num_found += 1
                    yield image
        if num_found == num_before:
            raise SystemExit(f"webdataset found no image in {len(shards)} shards")


class Ways:
    """A data set on disk and the ways to read it.

    Args:
        folder: where to write it.
        num_groups: captions, of six images each.
        captions: of a step.
        drawn: images of each.
        size_px: of a view.
        augment: how views are made.
        seed: of the order and the views.
    """

    def __init__(
        self,
        folder: Path,
        num_groups: int,
        encoded: list[bytes],
        image_format: str,
        captions: int,
        drawn: int,
        size_px: int,
        augment: AugmentConfig,
        seed: int,
    ) -> None:
        self._store = Store(str(folder))
        self._dataset: DatasetRef = commit_groups(self._store, num_groups, 6, 64, encoded, image_format)
        self._captions, self._drawn, self._size_px, self._augment, self._seed = captions, drawn, size_px, augment, seed
        self.num_views = captions * drawn
        self.shards = Path(self._store.uri_of(shards_folder(self._dataset.dataset_id)).removeprefix("file://"))
        self._chain = torchvision_chain(augment, size_px)

    def loader(self, cache_bytes: int) -> GroupLoader:
        """This project."""
        return GroupLoader(
            GroupDataset(self._store, self._dataset),
            None,
            captions_per_batch=self._captions,
            images_per_caption=self._drawn,
            rank=0,
            world_size=1,
            seed=self._seed,
            augment=self._augment,
            size_px=self._size_px,
            mean=HALF,
            std=HALF,
            num_workers=0,
            cache_bytes=cache_bytes,
        )

    def ours(self) -> dict[str, Callable[[int], object]]:
        """Reading and decoding every image, and with decoded images in memory."""
        decoding, kept = self.loader(0)._reader, self.loader(1 << 30)._reader
        for step in range(2 * decoding.order.steps_per_epoch):
            kept.load(step)
        return {"ours": decoding.read, "kept": kept.read}

    def plain(self, *, is_uint8: bool = False, is_webdataset: bool = False) -> Callable[[int], object]:
        """A plain pipeline over the shards."""
        images = images_of_webdataset(self.shards) if is_webdataset else map(opened, images_of(self.shards))

        def view() -> torch.Tensor:
            image = next(images)
            return self._chain(v2.functional.pil_to_tensor(image) if is_uint8 else image)

        return lambda _: torch.stack([view() for _ in range(self.num_views)])


def rate(views: int, seconds: float) -> str:
    """Images a second and core."""
    return f"{views / seconds:,.0f} images/s/core"


def quickstart_rows(folder: Path, repeats: int, seed: int) -> list[Row]:
    """Small grey PNG images."""
    encoded = pictures(400 * 6, 32, "PNG", is_grey=True)
    ways = Ways(folder / "quickstart", 400, encoded, "png", 64, 4, 32, RECIPES["quickstart"].pretrain.augment, seed)
    seconds = cpu_seconds({**ways.ours(), "pillow": ways.plain(), "uint8": ways.plain(is_uint8=True)}, repeats)
    num, plain = ways.num_views, f"PNG + PIL + torchvision v2 per image, {rate(ways.num_views, seconds['pillow'])}"
    tensors = f"PNG + PIL + torchvision v2 per uint8 tensor, {rate(num, seconds['uint8'])}"
    return [
        Row("32 px PNG, quickstart", rate(num, seconds["ours"]), plain, seconds["pillow"] / seconds["ours"], "x", 4),
        Row("32 px PNG, images kept in memory", rate(num, seconds["kept"]), plain, seconds["pillow"] / seconds["kept"], "x", 4),
        Row("32 px PNG, quickstart", rate(num, seconds["ours"]), tensors, seconds["uint8"] / seconds["ours"], "x"),
    ]


def paper_rows(folder: Path, repeats: int, seed: int) -> list[Row]:
    """JPEG of 256 px."""
    augment = RECIPES["cc3m_b16"].pretrain.augment
    stored = {name: pictures(96, 256, name, is_grey=False) for name in ("JPEG", "PNG")}
    jpeg, png = (Ways(folder / name, 16, encoded, name.lower(), 8, 6, 224, augment, seed) for name, encoded in stored.items())
    tars = {
        f"{reader} + torchvision v2 on {'uint8 tensors' if is_uint8 else 'PIL images'}": jpeg.plain(is_uint8=is_uint8, is_webdataset=is_wds)
        for reader, is_wds in (("webdataset", True), ("bare tar loop", False))
        for is_uint8 in (False, True)
    }
    seconds = cpu_seconds({**jpeg.ours(), "png": png.plain(), **tars}, repeats)
    num = jpeg.num_views
    ours, kept = rate(num, seconds["ours"]), rate(num, seconds["kept"])
    png_way = f"PNG + PIL + torchvision v2 per image, {rate(num, seconds['png'])}"
    rows = [
        Row("256 px JPEG, paper", ours, png_way, seconds["png"] / seconds["ours"], "x", 4),
        Row("256 px JPEG, images kept in memory", kept, png_way, seconds["png"] / seconds["kept"], "x", 4),
    ]
    for reader, target in (("webdataset", 1.3), ("bare tar loop", None)):
        best = min((name for name in tars if name.startswith(reader)), key=lambda name: seconds[name])
        found = seconds[best] / seconds["ours"]
        rows.append(Row("the same JPEG tar, paper", ours, f"{best}, {rate(num, seconds[best])}", found, "x", target))
    return rows


def main() -> None:
    """Measure, print and store."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = quickstart_rows(Path(name), options.repeats, options.seed) + paper_rows(Path(name), options.repeats, options.seed)
    notes = [
        "The tar rows use the faster of PIL images and uint8 tensors.",
        "This project reads through the index and compares the digest of every image with what was packed; the baselines check nothing.",
    ]
    setting = (
        f"one thread, CPU time, median of {options.repeats} rounds in turn, seed {options.seed}; 256 views of 32 px or 48 of 224 px a step."
    )
    write(
        "loader",
        "Batches: images a second of one core",
        f"python benchmarks/loader.py --repeats {options.repeats}",
        setting,
        rows,
        notes,
        options,
    )


if __name__ == "__main__":
    main()
