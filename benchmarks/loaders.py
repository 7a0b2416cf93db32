"""The training loader as benchmarks open it."""

from stablerep.batches import GroupLoader
from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.config.schema import PretrainConfig
from stablerep.models import normalisation
from stablerep.shards.read import GroupDataset


def loader_of(
    dataset: GroupDataset,
    tokenizer: CaptionTokenizer | None,
    pretrain: PretrainConfig,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> GroupLoader:
    """The loader of a rank, in its own process, as a run with these settings makes it."""
    mean, std = normalisation(pretrain.trunk.size_px)
    return GroupLoader(
        dataset,
        tokenizer,
        captions_per_batch=pretrain.captions_per_batch,
        images_per_caption=pretrain.images_per_caption,
        rank=rank,
        world_size=world_size,
        seed=seed,
        augment=pretrain.augment,
        size_px=pretrain.trunk.size_px,
        mean=mean,
        std=std,
        num_workers=0,
    )
