"""Configuration: a recipe name and strict overrides become one frozen, validated dataclass."""

from stablerep.config.codec import fingerprint, load_recipe, parse_overrides, recipe_json
from stablerep.config.recipes import RECIPES
from stablerep.config.schema import Recipe

__all__ = ["RECIPES", "Recipe", "fingerprint", "load_recipe", "parse_overrides", "recipe_json"]
