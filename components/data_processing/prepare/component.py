"""KFP component `prepare`: captions in, prompt set out."""

from kfp import dsl


@dsl.component(base_image="stablerep/runtime:0.1.0", install_kfp_package=False)
def prepare(recipe: str, overrides: str, store: str, generator: str) -> list[str]:
    """Read, clean and de-duplicate captions, and cut them into lanes: one element of work for each.

    What a lane needs travels inside its element, because kfp.local passes nothing else into a loop.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        generator: Record of `generator`.

    Returns:
        One element of work for each lane, as JSON: the lane's number, the prompt set and the generator.
    """
    import json

    from stablerep.records import PromptSet
    from stablerep.stages.dispatch import run_stage

    prompt_set = run_stage("prepare", recipe, overrides, store)
    num_lanes = PromptSet.from_json(prompt_set).num_lanes
    return [json.dumps({"generator": generator, "lane": lane, "prompt_set": prompt_set}) for lane in range(num_lanes)]
