"""The table of traps in docs/paper.md is complete and names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUM_TRAPS = 23


def test_each_trap_has_its_test() -> None:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| .* \| (`tests/.*`) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, NUM_TRAPS + 1))
    for number, cell in rows:
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cell):
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"trap {number}: {file}::{name}"
