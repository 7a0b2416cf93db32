"""Random image groups and small committed data sets, made by the real code; for tests of shards and of what reads them."""

import hashlib
import random

from stablerep.records import Caption, DatasetRef, GeneratorRef, PromptSet
from stablerep.shards.dataset import commit_shard, write_manifest, write_spec
from stablerep.shards.group import ImageGroup
from stablerep.store import Store

SPEC = {"images_per_caption": 3, "scheduler": "ddim", "num_inference_steps": 4, "guidance": 2.0, "noise_seed": 0, "dtype": "fp32"}
GENERATOR = GeneratorRef("generator-0123", "file:///models/x", "StableDiffusionPipeline", "ab" * 32, "", "apache-2.0", 32)


def random_groups(seed: int, count: int, num_images: int | None = 3, image_format: str = "png") -> list[ImageGroup]:
    """`num_images` None: ragged. Image sizes hit the tar's block borders."""
    chance, groups = random.Random(seed), []
    for number in range(count):
        text = f"caption {seed}-{number} " + "".join(chance.choice("aé猫🐈 \n") for _ in range(chance.randrange(600)))
        sizes = [chance.choice((1, 511, 512, 513, chance.randrange(1, 5000))) for _ in range(num_images or chance.randrange(1, 12))]
        images = tuple(chance.randbytes(size) for size in sizes)
        caption = Caption(hashlib.sha256(text.encode()).hexdigest()[:16], text, {"line": number})
        groups.append(ImageGroup(caption, images, image_format, {"noise_keys": [chance.getrandbits(63) for _ in images], "ü": None}))
    return groups


def prompt_set_of(num_shards: int, num_groups: int, num_lanes: int = 2) -> PromptSet:
    return PromptSet("prompts-0123", "file:///x", "cd" * 32, num_groups, num_shards, num_lanes, {})


def commit_dataset(
    store: Store, prompt_set: PromptSet, order: tuple[int, ...] = (0, 1, 2, 3), producer: str = "lane-0", num_images: int | None = 3
) -> DatasetRef:
    """Commit shards of five groups; `order` and `producer` are how the work was shared, and must not matter."""
    identity = write_spec(store, prompt_set, GENERATOR, SPEC)
    for index in order:
        groups = random_groups(index, 5, num_images)
        counts = {"good": sum(len(group.images) for group in groups), "black": index}
        commit_shard(store, identity, index, groups, counts=counts, producer={"name": producer})
    return write_manifest(store, identity, prompt_set, GENERATOR, 3, {"purity": 1})
