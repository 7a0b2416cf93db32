"""Training on a curated data set: what the groups that stayed alone would teach, though no shard was touched."""

from tiny_groups import commit_tiny, tiny_dataset
from tiny_training import TINY, train_alone

from stablerep.records import DatasetRef
from stablerep.shards import GroupDataset
from stablerep.shards.curated import write_curated
from stablerep.stages.pretrain_run import plan_run
from stablerep.store import Store
from stablerep.training.history import read_history

LEFT_OUT = (1, 5, 6, 12)


def losses(store: Store, dataset: DatasetRef) -> list[float | None]:
    plan = plan_run("tiny", TINY, dataset)
    train_alone(store, plan)
    return [point.value for point in read_history(store.at(plan.prefix), "metrics.jsonl") if point.metric.endswith("_loss")]


def test_it_trains_as_the_kept_groups_alone(store: Store) -> None:
    whole = tiny_dataset(store, num_groups=16)
    groups = GroupDataset(store, whole)
    curated = write_curated(store, whole, groups, LEFT_OUT)
    alone = commit_tiny(store, [groups.group(position) for position in range(16) if position not in LEFT_OUT])
    found = losses(store, curated)
    assert found == losses(store, alone)
    assert len(found) >= TINY.num_steps
    assert found != losses(store, whole)
    assert len({plan_run("tiny", TINY, dataset).run_key for dataset in (whole, curated, alone)}) == 3
