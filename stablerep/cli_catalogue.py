"""Commands around the catalogue: register captions, search, curate, lineage.

Parsers, and what to say afterwards; the work is in `stages`, imported when it runs.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the commands to the parser of `stablerep`."""
    _add_register(commands)
    _add_search(commands)
    _add_curate(commands)
    _add_lineage(commands)


def run_command(options: argparse.Namespace) -> str | None:
    """Run one of these commands and return what to print; None where it is none of them."""
    command = _COMMANDS.get(options.command)
    return command(options) if command else None


def _add_register(commands: Any) -> None:
    text = "make captions known to the catalogue; captions.source=catalogue: selects among them as of a moment"
    command = _command(commands, "register", text, "stablerep register birds.csv --tags birds,english --label-column species")
    command.add_argument("source", metavar="SOURCE", help="as captions.source: packaged:<name> or a .txt .csv .tsv .jsonl .parquet file")
    command.add_argument("--tags", default="", metavar="A,B", help="of all of them, to select by")
    command.add_argument("--column", default="caption", help="with the texts (default: caption)")
    command.add_argument("--label-column", default="", metavar="COLUMN", help="with the classes, to balance by")


def _add_search(commands: Any) -> None:
    text = "find the groups nearest to a text or an image, with thumbnails"
    command = _command(commands, "search", text, 'stablerep search "a red bus"; stablerep search bus.jpg --count 24 --to bus.html')
    command.add_argument("question", metavar="TEXT|IMAGE", help="a text, or the path of a .jpg .png .webp .bmp file")
    command.add_argument("--model", default="", metavar="MODEL_ID", help="whose reference set (default: the model promoted last)")
    command.add_argument("--count", type=int, default=12, help="of groups (default: 12)")
    command.add_argument("--to", type=Path, default=Path("build/search.html"), metavar="FILE", help="the page (default: build/search.html)")
    command.add_argument("--feast", action="store_true", help="ask Feast's online store instead of Parquet; the answers are the same")


def _add_curate(commands: Any) -> None:
    text = "leave groups out of a data set by a query; a new data set id, no shard is touched"
    command = _command(commands, "curate", text, 'stablerep curate "agreement < 0.2 as of run quickstart-0123456789abcdef"')
    command.add_argument("query", metavar="QUERY", help="groups to leave out: < <= > >= = != in contains, is missing; and or not ( )")
    command.add_argument("--dataset", default="", metavar="ID", help="which (default: the one committed last)")
    command.add_argument("--keep", action="store_true", help="the query says which groups stay instead")


def _add_lineage(commands: Any) -> None:
    text = "what an encoder was made from, how good it is, and where it is served"
    command = _command(commands, "lineage", text, "stablerep lineage model-0343c8d176ac7896 --format mermaid")
    command.add_argument("model", nargs="?", default="", metavar="MODEL_ID", help="(default: the model promoted last)")
    command.add_argument("--format", choices=("tree", "mermaid", "json"), default="tree", help="(default: tree)")


def _command(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    description = text[0].upper() + text[1:] + "."
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=description, epilog=epilog)
    default = os.environ.get("STABLEREP_STORE", "build/store")
    command.add_argument("--store", default=default, help=f"folder or URI: file://, s3://, gs:// (default: {default})")
    return command


def _register(options: argparse.Namespace) -> str:
    from stablerep.stages.register import register_captions

    tags = tuple(tag for tag in str(options.tags).split(",") if tag)
    number = register_captions(options.store, options.source, tags, column=options.column, label_column=options.label_column)
    return f"{number} captions of {options.source} are in the catalogue of {options.store}"


def _search(options: argparse.Namespace) -> str:
    from stablerep.stages.search import search

    answer = search(options.store, options.question, model_id=options.model, count=options.count, use_feast=options.feast)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    options.to.write_text(answer.html, encoding="utf-8")
    return "\n".join([*answer.lines(), f"page: {options.to.absolute().as_uri()}"])


def _curate(options: argparse.Namespace) -> str:
    from stablerep.stages.curate import curate

    found = curate(options.store, options.query, dataset_id=options.dataset, keeps=options.keep)
    made, missing = found.dataset, f"; {found.num_unknown} groups have no value the query asks for" if found.num_unknown else ""
    said = f"{made.dataset_id}: {made.num_groups} groups of {found.curated_of}, {found.num_left_out} left out{missing}"
    return f"{said}\ntrain on it: stablerep pretrain --dataset {made.dataset_id} --recipe ... --store {options.store}"


def _lineage(options: argparse.Namespace) -> str:
    from stablerep.stages.lineage import lineage
    from stablerep.stages.serve import promoted
    from stablerep.store import Store

    return lineage(options.store, options.model or promoted(Store(options.store)).model_id, options.format)


_COMMANDS: dict[str, Callable[[argparse.Namespace], str]] = {
    "register": _register,
    "search": _search,
    "curate": _curate,
    "lineage": _lineage,
}
