"""KFP component `gate`: may it be deployed?"""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="stablerep/features:0.1.0", install_kfp_package=False)
def gate(recipe: str, overrides: str, store: str, evaluation: str) -> NamedTuple("Gate", [("decision", str), ("is_promoted", bool)]):
    """Compare the evaluation with the recipe's limits and with the champion.

    Args:
        recipe: Name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        evaluation: Record of `probe`.

    Returns:
        Record of the decision, and whether it promotes the model.
    """
    from collections import namedtuple

    from stablerep.records import GateDecision
    from stablerep.stages.dispatch import run_stage

    decision = run_stage("gate", recipe, overrides, store, evaluation=evaluation)
    return namedtuple("Gate", ["decision", "is_promoted"])(decision, GateDecision.from_json(decision).is_promoted)
