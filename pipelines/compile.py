"""`make compile`: what is generated from the pipelines and components, committed so that a change is seen in review.

Every pipeline as the YAML that Kubeflow takes, and every component's README from its docstring and metadata.yaml.
"""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

COMPILED = PROJECT / "pipelines" / "compiled"


def compile_all(folder: Path = COMPILED) -> list[Path]:
    """Compile every pipeline into `folder`; returns the files written."""
    from kfp import compiler

    from pipelines.stablerep import stablerep

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "stablerep.yaml"
    compiler.Compiler().compile(stablerep, str(target))
    return [target]


def component_readmes() -> dict[Path, str]:
    """README path -> text for every component."""
    return {path.with_name("README.md"): _readme(path) for path in sorted((PROJECT / "components").glob("*/*/component.py"))}


def _readme(path: Path) -> str:
    import yaml

    name = path.parent.name
    component: Any = getattr(importlib.import_module(f"components.{path.parent.parent.name}.{name}.component"), name)
    metadata = yaml.safe_load(path.with_name("metadata.yaml").read_text(encoding="utf-8"))
    summary, _, arguments = inspect.cleandoc(component.python_func.__doc__).partition("Args:")
    described = dict(line.strip().split(": ", 1) for line in arguments.strip().splitlines())
    rows = [f"| `{key}` | {_type(parameter)} | {described[key]} |" for key, parameter in _parameters(component).items()]
    lines = [f"# {name}", "", summary.strip(), "", "| argument | type | what |", "|---|---|---|", *rows, ""]
    needs = ", ".join(f"Kubeflow {each['name']} {each['version']}" for each in metadata["dependencies"]["kubeflow"])
    return "\n".join([*lines, f"Stability: {metadata['stability']}. Needs {needs}. Tags: {', '.join(metadata['tags'])}.", ""])


def _parameters(component: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(component.python_func).parameters)


def _type(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    name = getattr(annotation, "__name__", str(annotation))
    for artifact in getattr(annotation, "__metadata__", ()):
        name = f"{'Output' if 'Output' in str(artifact) else 'Input'}[{annotation.__args__[0].__name__}]"
    return f"`{name}`"


if __name__ == "__main__":
    for readme, text in component_readmes().items():
        readme.write_text(text, encoding="utf-8")
    for compiled in compile_all():
        sys.stdout.write(f"{compiled.relative_to(PROJECT)}  {compiled.stat().st_size} bytes\n")
