"""Every setting is read by the product (trap 21: the released code has flags that nothing looks at)."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

from stablerep.config import RECIPES

PRODUCT = Path(__file__).parents[2] / "stablerep"
HANDED_ON_WHOLE = {"TrunkConfig", "HeadConfig"}  # `asdict` of them are the arguments of the specs, where the names are


def settings(config: Any) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        found |= settings(value) if dataclasses.is_dataclass(value) else {(type(config).__name__, field.name)}
    return found


def test_every_setting_is_read_somewhere() -> None:
    names: set[str] = set()
    for path in PRODUCT.rglob("*.py"):
        if "config" not in path.parts:
            names |= {node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)}
    unread = {f"{owner}.{name}" for owner, name in settings(RECIPES["quickstart"]) if name not in names and owner not in HANDED_ON_WHOLE}
    assert not unread
