"""`stablerep VERB`: every stage of the pipeline, one at a time, plus serving and looking around.

Stages are imported when they run, so `--help` answers at once and needs no extra installed. Errors of the product end with their exit
code and one sentence; anything else is a bug and shows its traceback.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stablerep import __version__
from stablerep.cli_catalogue import add_commands, run_command
from stablerep.errors import StablerepError
from stablerep.stages import INPUTS

_HELP = {
    "preflight": "check the machine, the store, the recipe and the cluster before anything is spent",
    "prepare": "read captions, or make them of concepts (captions.source=concepts:list.txt), clean and de-duplicate; write the prompt set",
    "generator": "resolve and verify the text-to-image model (or fit the embedded one)",
    "generate": "make one lane's groups of images, score and filter them (quality.policy), and commit its shards",
    "commit": "verify every shard, write the manifest, measure the purity of the groups; stop before training where they mix things",
    "pretrain": "train the vision transformer on the groups (TorchX, torchrun, DeepSpeed)",
    "export": "write the encoder as safetensors with its card and lineage",
    "probe": "measure frozen features on real images",
    "gate": "decide whether the encoder may be deployed",
    "deploy": "serve the encoder through KServe",
    "verify": "ask the endpoint for golden embeddings and promote it, or roll back",
    "hold": "say why an encoder was not promoted",
    "finish": "write the report of the run",
}


class _Help(argparse.HelpFormatter):
    """Names beside their texts, in lines of the terminal's width; lines that were broken by hand stay so."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(shutil.get_terminal_size((110, 24)).columns, 120) - 2)
        self._action_max_length = len("    preflight")  # argparse forgets how far verbs are indented

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code of `stablerep.errors`."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except StablerepError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    overrides = shlex.join(getattr(options, "set", []))
    if options.command == "run":
        from stablerep.stages.run_here import run_here

        run_here(options.recipe, options.set, options.store, options.words)
    elif options.command == "serve":
        from stablerep.stages.serve import run

        run(options.recipe, overrides, options.store)
    elif options.command == "stop":
        from stablerep.stages.serve import stop

        print("stopped" if stop(options.recipe, overrides, options.store) else "no endpoint of this store runs on this machine")
    elif options.command == "status":
        from stablerep.stages.status import run

        run(options.recipe, overrides, options.store, is_watching=options.watch)
    elif options.command == "dashboard":
        from stablerep.stages.dashboard import run

        run(options.recipe, overrides, options.store, out=options.out, port=options.port, on_ready=lambda url: print(url, flush=True))
    elif options.command == "embed":
        from stablerep.stages.embed import Task, embed

        print(embed(Task(token=os.environ.get("STABLEREP_ENDPOINT_TOKEN", ""), **_embed_arguments(options))))
    elif options.command == "convert":
        from stablerep.stages.convert import convert

        print(convert(options.model, options.format, options.to))
    elif options.command == "doctor":
        from stablerep.stages.doctor import examine, require_green, table

        checks = examine(options.role)
        print(table(checks))
        require_green(checks)
    elif (said := _looked_up(options, overrides)) is not None or (said := run_command(options)) is not None:
        print(said)
    else:
        from stablerep.stages.dispatch import run_stage

        print(run_stage(options.command, options.recipe, overrides, options.store, **_extra(options)))
    return 0


def _looked_up(options: argparse.Namespace, overrides: str) -> str | None:
    """What a verb that only tells something says; None for other verbs."""
    if options.command == "recipes":
        from stablerep.config import RECIPES

        return "\n".join(f"{name:20} {recipe.description}" for name, recipe in RECIPES.items())
    if options.command == "show":
        from stablerep.config import recipe_json
        from stablerep.stages.context import configured

        return recipe_json(configured(options.recipe, overrides))
    if options.command == "plan":
        from stablerep.stages.plan import plan_table

        numbers = {name: getattr(options, name) for name in ("captions", "gpu", "price", "num_gpus", "utilisation")}
        return plan_table(options.recipe, overrides, **numbers)
    if options.command == "compare-presets":
        from stablerep.stages.compare_presets import compare_presets, table, to_json

        numbers = {name: getattr(options, name) for name in ("first", "second", "captions", "steps", "seeds")}
        found = compare_presets(options.recipe, overrides, options.store, **numbers)
        return to_json(found) if options.json else table(found)
    return None


def _extra(options: argparse.Namespace) -> dict[str, Any]:
    """What a verb takes beyond recipe, overrides, store and the records of the ledger."""
    if options.command == "preflight":
        return {"stages": options.stages, "has_probe_pod": options.probe_pod}
    if getattr(options, "dataset", ""):
        from stablerep.stages.dispatch import dataset_record

        return {"dataset": dataset_record(options.store, options.dataset)}
    return {"lane": options.lane} if options.command == "generate" else {}


def _embed_arguments(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name != "command"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stablerep",
        formatter_class=_Help,
        description="Captions in, a served vision encoder out. Each verb is one stage of the pipeline and continues from what the "
        "earlier stages left in the store; `stablerep run` runs them all.",
    )
    parser.add_argument("--version", action="version", version=f"stablerep {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="VERB")
    for name in INPUTS:
        command = _add(commands, name, _HELP[name])
        _add_store(command)
        if name == "generate":
            command.add_argument("--lane", type=int, default=0, help="which lane, from 0 (default: 0)")
        if name == "preflight":
            _add_preflight(command)
        if "dataset" in INPUTS[name]:
            command.add_argument("--dataset", default="", metavar="ID", help="a curated data set (default: what commit left in the ledger)")
    _add_run(_add(commands, "run", "run everything on this machine, from a checkout: the pipeline, or the study of recipe paper_trends"))
    _add_store(_add(commands, "serve", "serve the promoted encoder in the foreground"))
    _add_store(_add(commands, "stop", "stop the endpoint that a run left in the background"))
    _add_views(commands)
    _add_plan(_add(commands, "plan", "what a data set would cost with each preset: images a second, hours, money", "cc12m_b16"))
    text = "make a small data set with two sampler settings, train on both, and say whether B is as good as A"
    _add_compare(_add(commands, "compare-presets", text, "paper_trends"))
    _add(commands, "show", "print a recipe with its overrides as JSON")
    _add_embed(commands)
    _add_convert(commands)
    add_commands(commands)
    commands.add_parser("recipes", formatter_class=_Help, help="list the recipes", description="List the recipes.")
    text = "check that this container, or this machine, holds what its role needs"
    doctor = commands.add_parser("doctor", formatter_class=_Help, help=text, description=f"{text.capitalize()}.")
    doctor.add_argument("--role", default="", help="an image of images/, or all (default: STABLEREP_ROLE, which each image sets, else all)")
    return parser


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("words", nargs="*", metavar="WORD", help="after --, for the program that runs it, as in `-- --help`")
    _add_store(command, "")


def _add_plan(command: argparse.ArgumentParser) -> None:
    command.add_argument("--captions", type=float, required=True, help="how many captions, as in 10e6")
    command.add_argument("--gpu", default="h100", help="h200, h100, a100 or l4 (default: h100)")
    command.add_argument("--price", type=float, required=True, help="of a GPU hour, in any currency")
    command.add_argument("--num-gpus", type=int, default=1, help="GPUs that work at once (default: 1)")
    command.add_argument("--utilisation", type=float, default=0.45, help="share of what matrix products reach (default: 0.45, assumed)")


def _add_compare(command: argparse.ArgumentParser) -> None:
    words = "a preset, or words: generate.scheduler=ddim,generate.num_inference_steps=50"
    command.add_argument("first", metavar="A", help=f"what is known: {words}")
    command.add_argument("second", metavar="B", help="what is to be as good, said in the same way")
    command.add_argument("--captions", type=int, default=60, metavar="N", help="how many (default: 60)")
    command.add_argument("--steps", type=int, default=100, metavar="N", help="of training (default: 100)")
    command.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="training runs a side; more make the interval honest (default: 1)"
    )
    command.add_argument("--json", action="store_true", help="print JSON (default: a table)")
    _add_store(command, "build/compare-presets")


def _add_views(commands: Any) -> None:
    status = _add(commands, "status", "show how a run stands: stages, progress, loss, last checkpoint, endpoint", recipe="")
    status.add_argument("--watch", action="store_true", help="draw it again every two seconds until the run ends")
    text = "show a run as one page: progress, losses, throughput, data quality, probes, lineage"
    dashboard = _add(commands, "dashboard", text, recipe="")
    dashboard.add_argument(
        "--out", default="", metavar="FILE", help="write the page to a file (default: serve it on loopback until Ctrl-C)"
    )
    dashboard.add_argument("--port", type=int, default=0, help="on loopback (default: any free one)")
    for command in (status, dashboard):
        _add_store(command, "build/run/store")  # where `make run` leaves it


def _add(commands: Any, name: str, text: str, recipe: str = "quickstart") -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, formatter_class=_Help, help=text, description=text[0].upper() + text[1:] + "."
    )
    default = recipe or "that of the run that was worked on last"
    command.add_argument("--recipe", default=recipe, help=f"name of a recipe, see `stablerep recipes` (default: {default})")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. --set pretrain.num_steps=600")
    return command


def _add_preflight(command: argparse.ArgumentParser) -> None:
    stages = "verbs of the stages that will run, as in 'pretrain export probe' (default: all)"
    command.add_argument("--stages", default="", metavar="VERBS", help=stages)
    pod = "start a pod of the training image on the cluster for some seconds: is it pulled, are /dev/shm and a GPU there (may cost a node)"
    command.add_argument("--probe-pod", action="store_true", help=pod)


def _add_embed(commands: Any) -> None:
    command = commands.add_parser(
        "embed",
        formatter_class=_Help,
        help="embed images (or texts) by a served encoder, into a Parquet or npy file",
        description="Embed images by a served encoder, into a file. Killed or stopped, the same command continues; what is in the file is "
        "not asked again. A refused image costs no other: the file says why, and the exit code is 3. Where the server asks for a token, "
        "STABLEREP_ENDPOINT_TOKEN has it.",
        epilog="for instance:\n  stablerep embed http://localhost:8080 photos/ --to photos.parquet\n"
        "  find . -name '*.jpg' | stablerep embed http://localhost:8080 - --to photos.npy --normalise",
    )
    command.add_argument("url", metavar="URL", help="of the server, http://localhost:8080 or with the path of a model")
    command.add_argument("sources", nargs="+", metavar="SOURCE", help="an image, a folder of images, or - for paths on standard input")
    command.add_argument(
        "--to", type=Path, default=Path("embeddings.parquet"), metavar="FILE", help=".parquet or .npy (default: embeddings.parquet)"
    )
    command.add_argument(
        "--text", dest="is_text", action="store_true", help="sources are files with a text a line, or - for standard input"
    )
    command.add_argument("--normalise", dest="is_normalised", action="store_true", help="to unit length (texts always are)")
    command.add_argument("--model", dest="name", default="", help="name of the model (default: the only one of the server)")
    command.add_argument("--batch", dest="batch_size", type=int, default=16, metavar="N", help="images a request (default: 16)")
    command.add_argument("--concurrency", type=int, default=4, metavar="N", help="requests at a time (default: 4)")
    seconds = "how long a busy server, or one that does not answer, is asked again (default: 120)"
    command.add_argument("--patience", dest="patience_seconds", type=float, default=120.0, metavar="SECONDS", help=seconds)


def _add_convert(commands: Any) -> None:
    text = "write an exported encoder as an ONNX file, or as a folder that timm loads"
    command = commands.add_parser(
        "convert",
        formatter_class=_Help,
        help=text,
        description=f"{text[0].upper()}{text[1:]}. What is written was compared with the encoder.",
    )
    command.add_argument("model", metavar="MODEL", help="path or URI of an exported encoder: build/run/store/models/model-...")
    command.add_argument("--format", choices=("onnx", "timm"), required=True, help="encoder.onnx, or config.json and model.safetensors")
    command.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="made where missing")


def _add_store(command: argparse.ArgumentParser, folder: str = "build/store") -> None:
    default = os.environ.get("STABLEREP_STORE", folder)
    command.add_argument("--store", default=default, help=f"folder or URI: file://, s3://, gs:// (default: {default or 'under build/'})")


if __name__ == "__main__":
    sys.exit(main())
