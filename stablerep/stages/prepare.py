"""prepare: captions from the configured source become a prompt set in the store, cut in equal units of work.

The source is read on every run, so that a changed file is noticed; the same texts are the same prompt set and are not written again.
"""

import logging

from stablerep.captions.clean import clean_captions
from stablerep.captions.prompt_set import write_prompt_set
from stablerep.captions.read import read_captions
from stablerep.records import PromptSet
from stablerep.stages.context import open_stage

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
        rows = read_captions(
            captions.source, captions.column, num_captions=captions.num_captions, seed=captions.seed, label_column=captions.label_column
        )
        kept, counts = clean_captions(rows, max_words=captions.max_words, num_captions=captions.num_captions, seed=captions.seed)
        prompt_set = write_prompt_set(
            stage.store, kept, counts, captions_per_shard=captions.captions_per_shard, num_lanes=captions.num_lanes
        )
        for outcome, number in counts.items():
            stage.reporter.report("stablerep_captions_total", number, outcome=outcome)
        stage.reporter.report("stablerep_run_info", 1, stage="prepare", id=prompt_set.prompt_set_id)
    found = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    log.info("prepare: %s with %d shards from %s (%s)", prompt_set.prompt_set_id, prompt_set.num_shards, captions.source, found)
    return prompt_set
