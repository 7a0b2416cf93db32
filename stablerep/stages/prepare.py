"""prepare: captions from the configured source, or made of concepts, become a prompt set in the store, cut in equal units of work.

The source is read on every run, so that a changed file is noticed; the same texts are the same prompt set and are not written again.
A source `catalogue:` selects captions by date, tags and class instead (prepare_catalogue); captions of any other are registered there.
"""

import logging
from collections.abc import Iterator
from pathlib import PurePosixPath

from stablerep.captions.clean import clean_captions
from stablerep.captions.prompt_set import write_prompt_set
from stablerep.captions.read import PACKAGED, Row, read_captions
from stablerep.config.schema import CaptionsConfig
from stablerep.records import PromptSet
from stablerep.stages.context import open_stage
from stablerep.stages.prepare_catalogue import CATALOGUE, register_prompts, selected_rows
from stablerep.stages.prepare_synthesis import blocklist, synthesis

log = logging.getLogger("stablerep")


def run(recipe: str, overrides: str, store: str) -> PromptSet:
    """Read, clean, choose and keep the captions.

    Args:
        recipe: name of the recipe.
        overrides: `section.key=value` words.
        store: URI of the store.

    Raises:
        ConfigError: the recipe or an override is wrong.
        CaptionError: the source cannot be read as captions, or has too few.
        StoreError: source or store are out of reach, or the store is full or read-only.
    """
    with open_stage("prepare", recipe, overrides, store) as stage:
        captions = stage.recipe.captions
        is_selected = captions.source.startswith(CATALOGUE)
        rows = selected_rows(stage.store, captions, stage.recipe.gate.has_catalogue) if is_selected else _read(captions)
        kept, counts = clean_captions(
            rows,
            max_words=captions.max_words,
            num_captions=0 if captions.balance == "class" else captions.num_captions,
            seed=captions.seed,
            min_words=captions.min_words,
            blocklist=blocklist(captions),
        )
        prompt_set = write_prompt_set(
            stage.store, kept, counts, captions_per_shard=captions.captions_per_shard, num_lanes=captions.num_lanes
        )
        if not is_selected:
            register_prompts(stage.store, prompt_set.prompt_set_id, kept, tags=[_tag(captions.source)])
        for outcome, number in counts.items():
            stage.reporter.report("stablerep_captions_total", number, outcome=outcome)
        stage.reporter.report("stablerep_run_info", 1, stage="prepare", id=prompt_set.prompt_set_id)
    found = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    log.info("prepare: %s with %d shards from %s (%s)", prompt_set.prompt_set_id, prompt_set.num_shards, captions.source, found)
    return prompt_set


def _read(captions: CaptionsConfig) -> Iterator[Row]:
    return read_captions(
        captions.source,
        captions.column,
        num_captions=captions.num_captions,
        seed=captions.seed,
        label_column=captions.label_column,
        synthesis=synthesis(captions),
    )


def _tag(source: str) -> str:
    """What a file's captions are found by: its name, or packaged:<name>."""
    return source if source.startswith(PACKAGED) else PurePosixPath(source).name
