"""commit: checks every shard the lanes made, then writes the manifest; from then on the data set exists.

After it come a contact sheet to look at, what a judge finds out about the groups, and an entry in the catalogue, each made once: a run
that was killed in between is completed by the next, and a data set that is complete is returned at once. When it was registered is no part
of any digest.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablerep.errors import DataError
from stablerep.records import DatasetRef, GeneratorRef, LaneReport, PromptSet
from stablerep.shards import layout
from stablerep.shards.dataset import find_dataset, read_spec, write_manifest
from stablerep.stages.commit_quality import measure_quality, require_purity, spread, with_quality
from stablerep.stages.context import Stage, open_stage

if TYPE_CHECKING:
    from stablerep.catalogue import GroupRow

log = logging.getLogger("stablerep")

SHEET_GROUPS = 24


def run(
    recipe: str, overrides: str, store: str, *, prompt_set: str, generator: str, lanes: Sequence[str], contact_sheet_path: str = ""
) -> DatasetRef:
    """Commit the data set that the lanes made.

    Args:
        recipe: name of the recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        prompt_set: record of stage prepare.
        generator: record of stage generator.
        lanes: records of all lanes of stage generate.
        contact_sheet_path: file for a copy of the contact sheet.

    Raises:
        DataError: the lanes do not belong together, or not to these captions and this generator.
        ShardError: shards are missing, truncated or damaged; names them and the remedy.
        DataError: groups mix things (purity below `quality.min_purity`), so training on them is not worth its cost.
    """
    with open_stage("commit", recipe, overrides, store) as stage:
        captions, model = PromptSet.from_json(prompt_set), GeneratorRef.from_json(generator)
        dataset_id = _dataset_of([LaneReport.from_json(lane) for lane in lanes])
        dataset = find_dataset(stage.store, dataset_id) or _commit(stage, dataset_id, captions, model)
        stage.reporter.report("stablerep_run_info", 1, stage="commit", id=dataset_id)
        sheet = _contact_sheet(stage, dataset, captions, model)
        if contact_sheet_path:
            Path(contact_sheet_path).parent.mkdir(parents=True, exist_ok=True)
            Path(contact_sheet_path).write_bytes(stage.store.read(sheet))
        quality = measure_quality(stage, dataset, model)
        require_purity(quality, stage.recipe.quality, dataset.uri)
        _register(stage, dataset)
    return with_quality(dataset, quality)


def _dataset_of(lanes: Sequence[LaneReport]) -> str:
    ids = sorted({lane.dataset_id for lane in lanes})
    if len(ids) != 1:
        raise DataError(f"expected lanes of one data set, found {', '.join(ids) or 'no lanes'}; run generate for every lane of one recipe")
    return ids[0]


def _commit(stage: Stage, dataset_id: str, prompt_set: PromptSet, generator: GeneratorRef) -> DatasetRef:
    spec = read_spec(stage.store, dataset_id)
    made_of = (spec["prompt_set_id"], spec["num_shards"], spec["generator_sha256"])
    if made_of != (prompt_set.prompt_set_id, prompt_set.num_shards, generator.sha256):
        raise DataError(
            f"data set {dataset_id}: expected {prompt_set.num_shards} shards of {prompt_set.prompt_set_id} by a generator with sha256 "
            f"{generator.sha256}, found {made_of[1]} shards of {made_of[0]} by {made_of[2]}; pass the records the lanes were run with"
        )
    with stage.reporter.progress(prompt_set.num_shards, "shards") as progress:
        dataset = write_manifest(
            stage.store,
            dataset_id,
            prompt_set,
            generator,
            int(spec["sampler"]["images_per_caption"]),
            {},
            on_shard=lambda _: progress.advance(),
        )
    log.info("commit: %s with %d groups, %d images, %s", dataset_id, dataset.num_groups, dataset.num_images, dataset.quality)
    return dataset


def _contact_sheet(stage: Stage, dataset: DatasetRef, prompt_set: PromptSet, generator: GeneratorRef) -> str:
    """The key of the contact sheet; made when it is not there."""
    key = layout.sheet_key(dataset.dataset_id)
    if stage.store.exists(key):
        stage.store.delete(layout.lane_sheets_folder(dataset.dataset_id))  # where a kill came before
        return key
    from stablerep.groups.contact_sheet import contact_sheet_html
    from stablerep.shards.read import GroupDataset

    groups = GroupDataset(stage.store, dataset, verify=False)
    sampler = read_spec(stage.store, dataset.dataset_id)["sampler"]
    facts = {
        "data set": dataset.dataset_id,
        "captions": f"{prompt_set.num_captions} ({prompt_set.prompt_set_id})",
        "groups": str(dataset.num_groups),
        "images": f"{dataset.num_images} ({dataset.images_per_caption} a caption)",
        "generator": f"{generator.pipeline_class} {generator.generator_id}",
        "licence": generator.licence,
        "sampler": _sampler_words(sampler),
        **{name.replace("_", " "): f"{value:.4f}" for name, value in dataset.quality.items()},
    }
    chosen = (groups.group(position) for position in spread(dataset.num_groups, SHEET_GROUPS))
    stage.store.write(key, contact_sheet_html(chosen, title=f"Image groups of {dataset.dataset_id}", facts=facts))
    stage.store.delete(layout.lane_sheets_folder(dataset.dataset_id))
    return key


def _sampler_words(sampler: dict[str, Any]) -> str:
    if "scheduler" not in sampler:
        return f"real images of each caption's class, seed {sampler['noise_seed']}"
    return f"{sampler['scheduler']}, {sampler['num_inference_steps']} steps, guidance {sampler['guidance']}"


def _register(stage: Stage, dataset: DatasetRef) -> None:
    """Put the groups in the catalogue, once. Feast, which takes seconds to import, brings them online when the gate opens it."""
    key = f"groups/{dataset.dataset_id}/registered.json"
    if stage.store.exists(key):
        return
    from stablerep.catalogue import ParquetCatalogue

    catalogue, when = ParquetCatalogue(stage.store), datetime.now(UTC).isoformat()
    if not catalogue.has_groups(dataset.dataset_id):
        catalogue.register_dataset(dataset, _rows(stage, dataset), when)
    stage.store.write(key, json.dumps({"parquet": when}))


def _rows(stage: Stage, dataset: DatasetRef) -> Iterator["GroupRow"]:
    from stablerep.catalogue import GroupRow
    from stablerep.shards.read import GroupDataset

    groups = GroupDataset(stage.store, dataset, verify=False)
    guidance = float(read_spec(stage.store, dataset.dataset_id)["sampler"].get("guidance", 0.0))  # real images were not guided
    for position, metadata in enumerate(groups.all_metadata()):
        caption = groups.caption(position)
        shard_index = int(groups.shard_name(position).partition(".")[0])
        yield GroupRow(
            caption.caption_id,
            caption.text,
            shard_index,
            groups.num_images(position),
            guidance,
            position=position,
            scores=group_scores(metadata),
        )


def group_scores(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Every score that a group was packed with, whatever its name: of one for each image the mean, the least and the largest.

    Args:
        metadata: of the group; its `scores` are a number or a list of numbers by name.
    """
    scores: dict[str, float] = {}
    named: dict[str, float | list[float]] = metadata.get("scores") or {}
    for name, value in named.items():
        numbers = [float(number) for number in (value if isinstance(value, list) else [value])]
        if numbers:
            scores[name] = sum(numbers) / len(numbers)
        if isinstance(value, list) and numbers:
            scores |= {f"{name}_min": min(numbers), f"{name}_max": max(numbers)}
    return scores
