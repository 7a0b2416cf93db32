"""The rules of the house: imports point down, every platform library has one home, files fit in a head."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "stablerep"

LEVELS = [
    {"errors", "identity", "typed", "records", "__init__"},
    {"config", "store"},
    {"captions", "groups", "shards", "batches", "models", "losses", "distributed", "telemetry", "catalogue", "report", "cluster"},
    {"training", "probes", "endpoint", "launch"},
    {"integrations"},
    {"stages"},
    {"cli", "cli_catalogue"},
]
HOMES = {
    "diffusers": {"groups"},
    "timm": {"models"},
    "onnx": {"models"},
    "onnxruntime": {"models"},
    "deepspeed": {"training"},
    "kserve": {"integrations"},
    "torchx": {"integrations"},
    "feast": {"integrations"},
    "prometheus_client": {"integrations"},
    "transformers": {"captions", "groups", "models"},
    "kubernetes": {"integrations"},
    "kfp": set(),
}
PURE = {"losses", "models", "shards"}
FORBIDDEN_NAMES = {"utils", "misc", "common", "helpers", "manager"}
SOFT_LINES, HARD_LINES, LONG_FUNCTION = 200, 400, 60


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def _package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.AST) -> list[tuple[str, int]]:
    found = [(alias.name, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    found += [(node.module or "", node.lineno) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return found


def _level(package: str) -> int:
    return next(level for level, packages in enumerate(LEVELS) if package in packages)


def _violations(package: str, imported: list[tuple[str, int]]) -> list[str]:
    found: list[str] = []
    for name, line in imported:
        root, _, rest = name.partition(".")
        if root == "stablerep" and rest and _level(rest.partition(".")[0]) > _level(package):
            found.append(f"line {line}: {package} imports {name}, which is above it")
        if root in HOMES and package not in HOMES[root]:
            found.append(f"line {line}: {root} has its home in {HOMES[root] or 'components and pipelines'}, not in {package}")
        if package in ("losses", "models", "shards") and (
            name.startswith(("torch.distributed", "stablerep.config", "stablerep.distributed"))
        ):
            found.append(f"line {line}: {package} must not import {name}")
    return found


@pytest.mark.parametrize("path", _files(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_libraries_stay_home(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert _violations(_package_of(path), _imports(tree)) == []
    relative = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert relative == [], "absolute imports only"


def test_the_rules_catch_what_they_forbid() -> None:
    assert _violations("losses", [("torch.distributed", 1)])
    assert _violations("captions", [("stablerep.stages.prepare", 1)])
    assert _violations("stages", [("deepspeed", 1)])
    assert not _violations("stages", [("stablerep.captions.read", 1)])


def test_no_cycles_between_packages() -> None:
    edges: dict[str, set[str]] = {}
    for path in _files(PACKAGE):
        for name, _ in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            if name.startswith("stablerep."):
                edges.setdefault(_package_of(path), set()).add(name.split(".")[1])
    edges = {package: targets - {package} for package, targets in edges.items()}

    def reach(package: str) -> set[str]:
        seen: set[str] = set()
        queue = list(edges.get(package, ()))
        while queue:
            current = queue.pop()
            if current not in seen:
                seen.add(current)
                queue.extend(edges.get(current, ()))
        return seen

    assert [package for package in edges if package in reach(package)] == []


@pytest.mark.parametrize("path", _files(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_fit_in_a_head(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= HARD_LINES
    assert path.stem not in FORBIDDEN_NAMES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {node.name: _length(node) for node in functions if _length(node) > LONG_FUNCTION}
    assert long == {}


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0]
    docstring = first if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else None
    documented = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - documented


@pytest.mark.parametrize("path", _files(PROJECT / "components"), ids=lambda path: path.parent.name)
def test_components_import_kfp_at_the_top_and_stablerep_inside(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {name.partition(".")[0] for node in tree.body for name, _ in _imports(node) if isinstance(node, (ast.Import, ast.ImportFrom))}
    assert top <= {"kfp", "typing"}
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert len(function.body) <= 12
    assert {name.partition(".")[0] for name, _ in _imports(function)} <= {"stablerep", "json", "pathlib", "collections"}


@pytest.mark.parametrize("name", ["stablerep", "generate_dataset", "pretrain_and_probe", "promote_encoder", "parts"])
def test_pipelines_import_kfp_and_components_only(name: str) -> None:
    tree = ast.parse((PROJECT / "pipelines" / f"{name}.py").read_text(encoding="utf-8"))
    allowed = {"kfp", "components", "pipelines", "sys", "pathlib", "typing"}
    assert {imported.partition(".")[0] for imported, _ in _imports(tree)} <= allowed
