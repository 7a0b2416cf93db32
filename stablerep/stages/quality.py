"""What a recipe's `quality.*` comes to: the model that scores images while they are made, and the one that judges the groups."""

from typing import Any

from stablerep.captions.packaged import PACKAGED_NAMES
from stablerep.config import Recipe
from stablerep.config.schema_quality import AUTO, NONE
from stablerep.errors import ConfigError
from stablerep.groups.embedded_models import agreement_names
from stablerep.groups.inspection import Inspector, Thresholds
from stablerep.groups.two_towers import EMBEDDED, folder_digest, open_two_tower, two_tower_folder
from stablerep.records import GeneratorRef

INSPECTION_VERSION = 1  # raised when the same settings would keep other images or other scores
_PREFIXES = ("embedded:", "real:")  # of the records of generators


def packaged_data(recipe: Recipe, generator: GeneratorRef) -> str:
    """Which packaged data the images of a generator look like; empty where they may show anything."""
    prefix = next((prefix for prefix in _PREFIXES if generator.uri.startswith(prefix)), "")
    name = generator.uri.removeprefix(prefix) if prefix else recipe.generator.fit_data if recipe.generator.fit else ""
    return name if name in PACKAGED_NAMES else ""


def chosen_scorer(recipe: Recipe, generator: GeneratorRef) -> str:
    """The model that scores, empty for none.

    Raises:
        ConfigError: the policy needs one and none is named.
    """
    scorer = recipe.quality.scorer
    if scorer == AUTO:
        name = packaged_data(recipe, generator)
        scorer = f"{EMBEDDED}{name}" if name in agreement_names() else NONE
    if scorer == NONE and recipe.quality.policy != "keep":
        raise ConfigError(
            f"quality.policy={recipe.quality.policy}: expected a model that scores images, found none that ships with "
            f"{generator.uri}; set quality.scorer to a folder of a CLIP-style model, or quality.policy=keep"
        )
    return "" if scorer == NONE else scorer


def chosen_judge(recipe: Recipe, generator: GeneratorRef) -> str:
    """Who judges the groups, empty for nobody.

    Raises:
        ConfigError: the judge is the model that scored.
    """
    judge = recipe.quality.judge
    if judge == AUTO:
        name = packaged_data(recipe, generator)
        judge = f"packaged:{name}" if name else NONE
    scorer = chosen_scorer(recipe, generator)
    if judge not in (NONE, "") and scorer and not judge.startswith("packaged:"):
        folders = [two_tower_folder(model, setting) for model, setting in ((judge, "quality.judge"), (scorer, "quality.scorer"))]
        if folder_digest(folders[0]) == folder_digest(folders[1]):
            raise ConfigError(f"quality.judge: expected another model than the scorer, which cannot judge itself, found {judge} in both")
    return "" if judge == NONE else judge


def inspection_spec(recipe: Recipe, generator: GeneratorRef) -> dict[str, Any] | None:
    """What decides the inspection of groups, part of the dataset id; None where there is no scorer. Reads files, loads no model."""
    scorer = chosen_scorer(recipe, generator)
    if not scorer:
        return None
    thresholds = _thresholds(recipe)
    decisive = {
        "policy": thresholds.policy,
        "min_agreement": thresholds.min_agreement,
        "min_group_agreement": thresholds.min_group_agreement,
        "max_centroid_distance": thresholds.max_centroid_distance,
    }
    if thresholds.policy == "down_weight":
        decisive["down_weight"] = thresholds.down_weight
    return {"version": INSPECTION_VERSION, "scorer_sha256": folder_digest(two_tower_folder(scorer, "quality.scorer")), **decisive}


def open_inspector(recipe: Recipe, generator: GeneratorRef) -> Inspector | None:
    """The loaded scorer with the recipe's thresholds, or None."""
    scorer = chosen_scorer(recipe, generator)
    if not scorer:
        return None
    return Inspector(open_two_tower(two_tower_folder(scorer, "quality.scorer"), recipe.generate.device), _thresholds(recipe))


def _thresholds(recipe: Recipe) -> Thresholds:
    quality = recipe.quality
    return Thresholds(
        quality.policy, quality.min_agreement, quality.min_group_agreement, quality.max_centroid_distance, quality.down_weight
    )
