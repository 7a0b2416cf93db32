"""Configuration: a recipe name and strict overrides become one frozen, validated dataclass."""

from stablerep.config.codec import CLUSTER_SECTIONS, fingerprint, load_recipe, parse_overrides, recipe_json
from stablerep.config.recipes import RECIPES
from stablerep.config.schema import Recipe

__all__ = ["CLUSTER_SECTIONS", "RECIPES", "Recipe", "fingerprint", "load_recipe", "parse_overrides", "recipe_json"]
