"""What code imports beyond this package and the standard library, read from the syntax: also what is imported inside functions.

Imports for type checkers alone do not count: they never run. `importlib.import_module("name")` counts.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def third_party(modules: tuple[str, ...], skipped: frozenset[str] = frozenset()) -> dict[str, str]:
    """Package -> module that imports it, for everything that importing and running `modules` can reach.

    Args:
        modules: dotted names under stablerep.
        skipped: modules whose imports do not count.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        path = _path(name)
        if path is None or name in seen or name in skipped:
            continue
        seen.add(name)
        queue.append(name.rpartition(".")[0])
        for imported in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            root = imported.partition(".")[0]
            if root == "stablerep":
                queue.append(imported)
            elif root not in sys.stdlib_module_names:
                found.setdefault(root, name)
    return found


def _path(name: str) -> Path | None:
    base = PROJECT / Path(*name.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if name and path.is_file()), None)


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (child.module or "", *(f"{child.module}.{alias.name}" for alias in child.names))
        elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith("import_module") and isinstance(child.args[0], ast.Constant):
            yield str(child.args[0].value)
        yield from _imports(child)
