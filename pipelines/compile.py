"""`make compile`: what is generated from the pipelines and components, committed so that a change is seen in review.

Every pipeline as the YAML that Kubeflow takes, and every component's README from its docstring and metadata.yaml.
"""

import argparse
import ast
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

COMPILED = PROJECT / "pipelines" / "compiled"
PIPELINES = ("stablerep", "generate_dataset", "pretrain_and_probe", "promote_encoder")

_LIST_DEFAULT = re.compile(r"(?<=\n)(#    \w+: list \[Default: )(\[.*\])\]")


def compile_all(folder: Path = COMPILED, registry: str = "") -> list[Path]:
    """Compile every pipeline into `folder`; returns the files written.

    Args:
        folder: where to.
        registry: host and prefix put before every image, for clusters that take images from there.
    """
    from kfp import compiler

    from pipelines.placement import images

    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / f"{name}.yaml" for name in PIPELINES]
    for target in targets:
        compiler.Compiler().compile(getattr(importlib.import_module(f"pipelines.{target.stem}"), target.stem), str(target))
        text = _LIST_DEFAULT.sub(_in_order, target.read_text(encoding="utf-8"))
        for image in images().values() if registry else ():
            text = text.replace(image, f"{registry.rstrip('/')}/{image}")
        target.write_text(text, encoding="utf-8")
    return targets


def _in_order(comment: re.Match[str]) -> str:
    """The comment on a list parameter with sorted keys: kfp 2.17 writes them as protobuf hands them out, each time otherwise."""
    return f"{comment[1]}{[dict(sorted(each.items())) for each in ast.literal_eval(comment[2])]}]"


def component_readmes() -> dict[Path, str]:
    """README path -> text for every component."""
    return {path.with_name("README.md"): _readme(path) for path in sorted((PROJECT / "components").glob("*/*/component.py"))}


def _readme(path: Path) -> str:
    import yaml

    name = path.parent.name
    metadata = yaml.safe_load(path.with_name("metadata.yaml").read_text(encoding="utf-8"))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    overview, described, returned = _docstring(ast.get_docstring(function) or "")
    defaults = [None] * (len(function.args.args) - len(function.args.defaults)) + function.args.defaults
    lines = [f"# {name}", "", "## Overview", "", overview, "", "## Inputs", ""]
    lines += ["| Parameter | Type | Default | Description |", "|---|---|---|---|"]
    for argument, default in zip(function.args.args, defaults, strict=True):
        value = "required" if default is None else f"`{ast.unparse(default)}`"
        lines.append(f"| `{argument.arg}` | `{ast.unparse(argument.annotation)}` | {value} | {described[argument.arg]} |")
    if function.returns is not None:
        lines += ["", "## Outputs", "", "| Name | Type | Description |", "|---|---|---|"]
        lines.append(f"| Output | `{ast.unparse(function.returns)}` | {returned} |")
    needs = ", ".join(f"Kubeflow {each['name']} {each['version']}" for each in metadata["dependencies"]["kubeflow"])
    lines += ["", "## Metadata", "", f"- **Stability**: {metadata['stability']}", f"- **Needs**: {needs}"]
    return "\n".join(
        [*lines, f"- **Tags**: {', '.join(metadata['tags'])}", f"- **Last verified**: {metadata['lastVerified']:%Y-%m-%d}", ""]
    )


def _docstring(text: str) -> tuple[str, dict[str, str], str]:
    """Overview, argument -> description, description of what is returned, of a docstring in Google's style."""
    overview, _, rest = text.partition("Args:")
    arguments, _, returned = rest.partition("Returns:")
    described = dict(line.strip().split(": ", 1) for line in arguments.strip().splitlines())
    return overview.strip(), described, " ".join(returned.split())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is generated; with --folder, the pipelines alone, there."""
    parser = argparse.ArgumentParser(prog="make compile", description="Compile the pipelines for Kubeflow.")
    parser.add_argument("--registry", default="", help="host and prefix before every image, e.g. registry.example.org/team; needs --folder")
    parser.add_argument(
        "--folder", default="", help="write the pipelines there and nothing else (default: pipelines/compiled, and READMEs)"
    )
    options = parser.parse_args(arguments)
    if options.registry and not options.folder:
        parser.error("--registry needs --folder: what is committed names no registry")
    if not options.folder:
        for readme, text in component_readmes().items():
            readme.write_text(text, encoding="utf-8")
    for compiled in compile_all(Path(options.folder or COMPILED), options.registry):
        sys.stdout.write(f"{compiled}  {compiled.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
