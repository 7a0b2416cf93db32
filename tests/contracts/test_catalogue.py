"""Components keep the rules of the community catalogue (kubeflow/pipelines-components): metadata, import guard, generated page.

What its validators ask for and these components, which live in their own repository, do not have: an OWNERS file with members of the
community, and a base image from Kubeflow's registry.
"""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))
COMPONENTS = sorted((PROJECT / "components").glob("*/*/component.py"))
CATEGORIES = {"data_processing", "deployment", "evaluation", "training"}
NEEDS = {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["name", "version"], "properties": {"version": {
    "type": "string", "pattern": r"^(==|>=|<=|~=)?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$"}}}}  # fmt: skip
METADATA: dict[str, Any] = {
    "type": "object",
    "required": ["name", "stability", "dependencies", "lastVerified", "tags"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "stability": {"enum": ["alpha", "beta", "stable"]},
        "dependencies": {
            "type": "object",
            "required": ["kubeflow"],
            "additionalProperties": False,
            "properties": {
                "kubeflow": {**NEEDS, "contains": {"properties": {"name": {"const": "Pipelines"}}}},
                "external_services": NEEDS,
            },
        },
        "lastVerified": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9-]+$"}, "minItems": 1},
        "ci": {"type": "object"},
        "links": {"type": "object"},
        "managed": {"type": "boolean"},
        "description": {"type": "string"},
    },
}
by_name = pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.parent.name)


def _metadata(path: Path) -> dict[str, Any]:
    """metadata.yaml with dates left as they are written."""
    return yaml.load(path.with_name("metadata.yaml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def _top_level_imports(tree: ast.AST) -> set[str]:
    """Roots of what is imported when the module is; bodies of functions and classes run later."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or ".").partition(".")[0])
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found |= _top_level_imports(node)
    return found


@by_name
def test_metadata_keeps_the_schema(path: Path) -> None:
    metadata = _metadata(path)
    jsonschema.validate(metadata, METADATA)
    assert metadata["name"] == path.parent.name
    assert path.parent.parent.name in CATEGORIES


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"stability": "done"}, "'done' is not one of"),
        ({"dependencies": {"kubeflow": [{"name": "Pipelines", "version": ">=2.17"}]}}, "'>=2.17' does not match"),
        ({"dependencies": {"kubeflow": [{"name": "Trainer", "version": ">=2.1.0"}]}}, "does not contain items matching"),
        ({"owner": "me"}, "Additional properties are not allowed"),
    ],
)
def test_the_schema_refuses(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=complaint):
        jsonschema.validate(_metadata(COMPONENTS[0]) | change, METADATA)


@by_name
def test_import_guard(path: Path) -> None:
    heavy = _top_level_imports(ast.parse(path.read_text(encoding="utf-8"))) - set(sys.stdlib_module_names) - {"kfp"}
    assert heavy == set(), "import it in the body"


def test_the_import_guard_looks_everywhere_but_into_bodies() -> None:
    text = "try:\n    import torch\nexcept ImportError:\n    from numpy import array\ndef body():\n    import timm\n"
    assert _top_level_imports(ast.parse(text)) == {"torch", "numpy"}


@by_name
def test_the_body_is_thin_and_calls_one_stage(path: Path) -> None:
    """An adapter: at most 12 lines, one `run_stage` with its own verb."""
    text = path.read_text(encoding="utf-8")
    function = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    assert function.name == path.parent.name
    statements = function.body[1:]
    assert sum((node.end_lineno or 0) - node.lineno + 1 for node in statements) <= 12
    assert re.findall(r'run_stage\("(\w+)"', text) == [function.name]


@by_name
def test_page_has_the_catalogue_s_sections(path: Path) -> None:
    from pipelines.compile import component_readmes

    page = path.with_name("README.md").read_text(encoding="utf-8")
    assert page == component_readmes()[path.with_name("README.md")], "run `make compile` and commit the result"
    expected = ["Overview", "Inputs", *([] if path.parent.name == "finish" else ["Outputs"]), "Metadata"]
    assert re.findall(r"^## (.+)$", page, flags=re.MULTILINE) == expected


def test_what_the_page_says_follows_the_docstring() -> None:
    from pipelines.compile import _docstring

    text = "Do it.\n\nMore.\n\nArgs:\n    recipe: Name: of a recipe.\n    store: URI.\n\nReturns:\n    Record\n    of it."
    assert _docstring(text) == ("Do it.\n\nMore.", {"recipe": "Name: of a recipe.", "store": "URI."}, "Record of it.")
