"""One path from text to configuration: recipe name, then dotted overrides, then validation.

Overrides are `section.key=value` words separated by white space (shell quoting allowed), as they travel in one KFP string, in TorchX
arguments and in `make run SET=...`. A value is JSON where it parses as JSON, else a string; a list may be written `a,b`. Unknown keys are
errors.
"""

import dataclasses
import json
import shlex
from typing import Any, cast

from stablerep.config.presets import PRESETS
from stablerep.config.recipes import RECIPES
from stablerep.config.schema import Recipe
from stablerep.errors import ConfigError
from stablerep.identity import canonical_json, digest
from stablerep.typed import decode, suggestion

CLUSTER_SECTIONS = ("launch", "deploy")  # what a cluster may set for all its users: nothing that decides a result


def load_recipe(name: str, overrides: str = "", *, cluster: str = "") -> Recipe:
    """The recipe `name` with `overrides` applied.

    Args:
        name: of the recipe.
        overrides: the user's words.
        cluster: the words of a cluster's platform team, applied first; only keys of `launch` and `deploy`.

    Raises:
        ConfigError: unknown recipe, malformed override, unknown key, wrong type, or a value out of range.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}{suggestion(name, set(RECIPES))}")
    plain = json.loads(canonical_json(RECIPES[name]))
    for key, value in [*_cluster_pairs(cluster), *parse_overrides(overrides)]:
        for each, of in _expanded(key, value):
            _assign(plain, each, of)
    try:
        return decode(Recipe, plain, where="recipe")
    except ValueError as error:
        raise ConfigError(str(error).removeprefix("recipe.")) from error


def parse_overrides(text: str) -> list[tuple[str, Any]]:
    """Split `a.b=1 c.d=x` into pairs; later pairs win.

    Raises:
        ConfigError: a word without `=` or with an empty key, or unbalanced quotes.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"overrides: expected section.key=value words, found {text!r}: {error}") from error
    pairs: list[tuple[str, Any]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"overrides: expected section.key=value, found {word!r}")
        pairs.append((key, _value(value)))
    return pairs


def _expanded(key: str, value: Any) -> list[tuple[str, Any]]:
    """A preset is short for its words."""
    if key != "generate.preset":
        return [(key, value)]
    if value not in PRESETS:
        raise ConfigError(f"generate.preset: unknown preset {value!r}{suggestion(str(value), set(PRESETS))}")
    return [(f"generate.{name}", setting) for name, setting in PRESETS[value].items()]


def _cluster_pairs(text: str) -> list[tuple[str, Any]]:
    pairs = parse_overrides(text)
    for key, _ in pairs:
        if not key.startswith(tuple(f"{section}." for section in CLUSTER_SECTIONS)):
            raise ConfigError(
                f"STABLEREP_CLUSTER: expected keys of {' and '.join(CLUSTER_SECTIONS)}, found {key!r}; pass it as an override"
            )
    return pairs


def recipe_json(recipe: Recipe) -> str:
    """The whole configuration as indented JSON, as it is kept beside every output."""
    return json.dumps(dataclasses.asdict(recipe), indent=1, sort_keys=True)


def fingerprint(section: Any) -> str:
    """Digest of a configuration or of any of its sections."""
    return digest(section)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _assign(plain: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    node = plain
    for depth, section in enumerate(sections):
        child = node.get(section)
        if not isinstance(child, dict):
            where = ".".join(sections[: depth + 1])
            raise ConfigError(f"overrides: unknown key {where!r} in {key!r}{_suggestion(sections[:depth], section, node)}")
        node = cast("dict[str, Any]", child)
    if last not in node or (not sections and last in ("name", "description")):
        raise ConfigError(f"overrides: unknown key {key!r}{_suggestion(sections, last, node)}")
    if isinstance(node[last], dict):
        raise ConfigError(f"overrides: {key!r} is a section; set one of its keys: {', '.join(sorted(cast('dict[str, Any]', node[last])))}")
    if isinstance(node[last], str) and not isinstance(value, str):
        value = json.dumps(value)
    if isinstance(node[last], list) and isinstance(value, str):
        value = [_value(part) for part in value.split(",")]
    node[last] = value


def _suggestion(sections: list[str], word: str, node: dict[str, Any]) -> str:
    """The closest key as it would be written, or all of them."""
    prefix = "".join(f"{section}." for section in sections)
    return suggestion(prefix + word, {prefix + key for key in node})
