"""KFP component `prepare`: captions in, prompt set out."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="stablerep/runtime:0.1.0", install_kfp_package=False)
def prepare(recipe: str, overrides: str, store: str) -> NamedTuple("Prepared", [("prompt_set", str), ("lanes", list[int])]):
    """Read, clean and de-duplicate captions, and cut them into lanes.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
    """
    from collections import namedtuple

    from stablerep.records import PromptSet
    from stablerep.stages.dispatch import run_stage

    prompt_set = run_stage("prepare", recipe, overrides, store)
    lanes = list(range(PromptSet.from_json(prompt_set).num_lanes))
    return namedtuple("Prepared", ["prompt_set", "lanes"])(prompt_set, lanes)
