"""A curated data set: another id, the same shards, and what is read from it is what a data set of the kept groups alone would give."""

import pytest
import torch
from made_groups import GENERATOR, SPEC, commit_dataset, prompt_set_of, random_groups

from stablerep.batches.order import GroupOrder
from stablerep.errors import DataError
from stablerep.records import DatasetRef
from stablerep.shards import GroupDataset, layout
from stablerep.shards.curated import write_curated
from stablerep.shards.dataset import commit_shard, find_dataset, write_manifest, write_spec
from stablerep.store import Store

EXCLUDED = (0, 3, 4, 11, 19)


@pytest.fixture
def dataset(store: Store) -> DatasetRef:
    return commit_dataset(store, prompt_set_of(4, 20), num_images=None)


def curated(store: Store, dataset: DatasetRef, excluded: tuple[int, ...] = EXCLUDED) -> DatasetRef:
    return write_curated(store, dataset, GroupDataset(store, dataset), excluded)


def test_the_kept_groups_are_read_in_order(store: Store, dataset: DatasetRef) -> None:
    whole, made = GroupDataset(store, dataset), curated(store, dataset)
    groups = GroupDataset(store, made)
    kept = [position for position in range(20) if position not in EXCLUDED]
    assert groups.num_groups == made.num_groups == 15
    assert [groups.group(i) for i in range(15)] == [whole.group(position) for position in kept]
    assert [groups.shard_name(i) for i in range(15)] == [whole.shard_name(position) for position in kept]
    assert groups.total_images == made.num_images == sum(whole.num_images(position) for position in kept)
    assert list(groups.all_metadata()) == [whole.metadata(position) for position in kept]
    assert groups.images(2, [0]) == whole.images(kept[2], [0])
    for position in (-1, 15):
        with pytest.raises(DataError, match=r"expected a group from 0 to 14, found"):
            groups.caption(position)


def test_it_is_the_data_set_that_the_kept_groups_alone_would_make(store: Store, dataset: DatasetRef) -> None:
    """The groups kept, packed anew in one shard: the loader's order and every byte of it are the same."""
    kept = [group for shard in range(4) for group in random_groups(shard, 5, None)]
    kept = [group for position, group in enumerate(kept) if position not in EXCLUDED]
    prompts = prompt_set_of(1, 15)
    identity = write_spec(store, prompts, GENERATOR, SPEC)
    commit_shard(store, identity, 0, kept, counts={"good": sum(len(group.images) for group in kept)}, producer={})
    packed = GroupDataset(store, write_manifest(store, identity, prompts, GENERATOR, 3, {}))
    groups = GroupDataset(store, curated(store, dataset))
    assert (packed.num_groups, packed.total_images, packed.images_per_caption) == (15, groups.total_images, groups.images_per_caption)
    order = GroupOrder(groups.num_groups, 5, seed=3)
    for step in range(6):
        for position in order.groups(step).tolist():
            assert groups.group(position) == packed.group(position)
    assert torch.equal(order.groups(0), GroupOrder(packed.num_groups, 5, seed=3).groups(0))


def test_the_id_is_of_what_is_left_out(store: Store, dataset: DatasetRef) -> None:
    before = {key: store.sha256(key) for key in store.list(layout.shards_folder(dataset.dataset_id))}
    made = curated(store, dataset)
    assert made == curated(store, dataset, EXCLUDED[::-1] + EXCLUDED)
    assert made == find_dataset(store, made.dataset_id)
    assert made.dataset_id not in (dataset.dataset_id, curated(store, dataset, EXCLUDED[1:]).dataset_id)
    assert before == {key: store.sha256(key) for key in store.list(layout.shards_folder(dataset.dataset_id))}
    assert not store.exists(layout.shards_folder(made.dataset_id)), "no shard is copied"


def test_curating_twice_is_curating_once(store: Store, dataset: DatasetRef) -> None:
    first = curated(store, dataset, (0, 3))
    second = write_curated(store, first, GroupDataset(store, first), (2, 9, 17))  # of the 18 that stayed: 4, 11, 19
    assert second == curated(store, dataset)


def test_refusals(store: Store, dataset: DatasetRef) -> None:
    for excluded in ((), tuple(range(20))):
        with pytest.raises(DataError, match=r"expected some of its 20 groups to be left out and some to stay, found (0|20) to leave out"):
            curated(store, dataset, excluded)
    made = curated(store, dataset)
    key = layout.manifest_key(dataset.dataset_id)
    store.write(key, store.read_text(key).replace('"good_ratio"', '"best_ratio"'))
    with pytest.raises(DataError, match=r"manifest .*: expected sha256 .* it was changed after the data set was committed"):
        GroupDataset(store, made)


def test_a_list_that_does_not_fit_is_noticed(store: Store, dataset: DatasetRef) -> None:
    made = curated(store, dataset)
    key = layout.manifest_key(made.dataset_id)
    store.write(key, store.read_text(key).replace("[0,3,4,11,19]", "[0,3,4,11,20]"))
    changed = find_dataset(store, made.dataset_id)
    assert changed is not None
    with pytest.raises(DataError, match="expected 15 of 20 groups to stay, found 16; curate again"):
        GroupDataset(store, changed)
