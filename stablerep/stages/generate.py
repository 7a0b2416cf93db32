"""generate: one lane makes its shards of image groups, then helps the others; run again, it continues behind what is committed.

Lanes need no word with each other: what a shard holds is a function of its captions, the model and the settings. A lane that finds all
its shards committed loads neither torch nor the model.
"""

from stablerep.records import GeneratorRef, LaneReport, PromptSet
from stablerep.stages.context import open_stage
from stablerep.stages.generate_lane import LaneRun


def run(recipe: str, overrides: str, store: str, *, prompt_set: str, generator: str, lane: int) -> LaneReport:
    """Make and commit the shards of one lane.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        prompt_set: record of stage prepare.
        generator: record of stage generator.
        lane: from 0 to one below the number of lanes of the prompt set.

    Raises:
        ConfigError: there is no such lane, or settings that the model or this machine does not have.
        DataError: captions or model are damaged, or a caption gives no good images.
    """
    lane = int(lane)
    with open_stage("generate", recipe, overrides, store, f"telemetry/generate-{lane}.jsonl") as stage:
        return LaneRun(stage, PromptSet.from_json(prompt_set), GeneratorRef.from_json(generator), lane).run()
