"""The objective that `pretrain.objective` names, built from the settings of a run; what it needs to know of the captions besides texts.

Imported by the training processes only (torch, timm).
"""

from stablerep.batches.batch import caption_label
from stablerep.captions.prompt_set import read_labels
from stablerep.config.schema import PretrainConfig
from stablerep.models import TwoTower
from stablerep.records import DatasetRef
from stablerep.shards.read import GroupDataset
from stablerep.store import Store
from stablerep.training.classes import CLASSES_KEY, CaptionClasses, classes_of
from stablerep.training.objective import MultiPositive, Objective
from stablerep.training.objective_baselines import Clip, SimClr, Supervised
from stablerep.training.objective_synclr import SynClr
from stablerep.training.processes import Processes


def choose_objective(pretrain: PretrainConfig, towers: TwoTower, classes: CaptionClasses | None) -> Objective:
    """The losses over these towers.

    Args:
        pretrain: settings.
        towers: the model.
        classes: of the captions; for supervised only.
    """
    if pretrain.objective == "simclr":
        return SimClr(towers, temperature=pretrain.temperature)
    if pretrain.objective == "synclr":
        return SynClr(
            towers,
            pretrain.synclr,
            head=pretrain.head,
            temperature=pretrain.temperature,
            num_steps=pretrain.num_steps,
            seed=pretrain.seed,
        )
    if pretrain.objective == "clip":
        return Clip(towers)
    if pretrain.objective == "supervised":
        known = classes or CaptionClasses((), {})
        labels, numbers = [caption_label(caption_id) for caption_id in known.class_of], list(known.class_of.values())
        return Supervised(towers, labels=labels, classes=numbers, num_classes=len(known.names), seed=pretrain.seed)
    return MultiPositive(
        towers,
        image_weight=pretrain.image_weight,
        text_weight=pretrain.text_weight,
        temperature=pretrain.temperature,
        in_ring=pretrain.candidates == "ring",
    )


def caption_classes(
    pretrain: PretrainConfig, store: Store, dataset: DatasetRef, groups: GroupDataset, runs: Store, processes: Processes
) -> CaptionClasses | None:
    """The classes of a data set's captions, from the provenance kept with the prompt set; None where they are not needed. Collective.

    Args:
        pretrain: settings.
        store: where captions and data set are.
        dataset: the data set.
        groups: its groups.
        runs: the run's prefix, where rank 0 leaves them.
        processes: the job.

    Raises:
        DataError: a caption has no class, or the prompt set cannot be read.
    """
    if pretrain.objective != "supervised":
        return None
    text = ""
    if processes.rank == 0:
        captions = (groups.caption(position).caption_id for position in range(groups.num_groups))
        found = classes_of(captions, read_labels(store, dataset.prompt_set_id), f"captions {dataset.prompt_set_id}")
        text = found.to_json()
        runs.write(CLASSES_KEY, text)
    return CaptionClasses.from_json(processes.share(text))
