"""preflight: what must be there before anything is spent, as a table with a remedy for every failure.

On a laptop: the packages the recipe's stages import, a store that can be written, read and deleted, free space, a caption source, free
ports, `torchrun` on the path. All checks run before the first failure is raised.
"""

import importlib.util
import shutil
import socket
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stablerep.captions.read import check_source
from stablerep.config import Recipe
from stablerep.errors import CaptionError, ConfigError, PortInUseError, StablerepError, StoreError
from stablerep.records import Record
from stablerep.stages.context import open_stage
from stablerep.store import Store

_PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "timm", "deepspeed", "torchx", "kserve", "prometheus_client")
_FREE_BYTES = 2 << 30
_ERRORS: dict[str, type[StablerepError]] = {"store": StoreError, "captions": CaptionError, "endpoint ports": PortInUseError}


@dataclass(frozen=True)
class Check(Record):
    """One thing that was looked at."""

    name: str
    is_ok: bool
    found: str
    remedy: str


@dataclass(frozen=True)
class Preflight(Record):
    """All checks of a run, in order."""

    checks: tuple[Check, ...]


def run(recipe: str, overrides: str, store: str, *, table_path: str = "") -> Preflight:
    """Check everything; write the table as Markdown to `table_path` when given.

    Raises:
        StablerepError: something is missing; the message lists what and what to do, the class is that of the first failure (StoreError,
            CaptionError, PortInUseError, else ConfigError).
    """
    with open_stage("preflight", recipe, overrides, store) as stage:
        checks = tuple(check(stage.recipe, stage.store) for check in _CHECKS)
    if table_path:
        Path(table_path).write_text(markdown(checks), encoding="utf-8")
    failed = [check for check in checks if not check.is_ok]
    if failed:
        kind = _ERRORS.get(failed[0].name, ConfigError)
        raise kind("preflight: " + "; ".join(f"{check.name}: {check.found}. Remedy: {check.remedy}" for check in failed))
    return Preflight(checks)


def markdown(checks: tuple[Check, ...]) -> str:
    """The checks as a Markdown table."""
    rows = [f"| {'ok' if check.is_ok else '**failed**'} | {check.name} | {check.found} | {check.remedy} |" for check in checks]
    return "\n".join(["# Preflight", "", "| | check | found | remedy |", "|---|---|---|---|", *rows, ""])


def _python(recipe: Recipe, store: Store) -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("Python", (3, 11) <= sys.version_info < (3, 13), found, "use Python 3.11 or 3.12")


def _packages(recipe: Recipe, store: Store) -> Check:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    found = f"missing: {', '.join(missing)}" if missing else f"{len(_PACKAGES)} present"
    return Check("packages", not missing, found, "run `make setup`, or use the image of the stage")


def _torchrun(recipe: Recipe, store: Store) -> Check:
    path = Path(sys.executable).parent / "torchrun"
    is_there = path.exists() or shutil.which("torchrun") is not None
    return Check("torchrun", is_there, "present" if is_there else "not beside the interpreter nor on PATH", "install the `train` extra")


def _store(recipe: Recipe, store: Store) -> Check:
    key = f"preflight/{uuid.uuid4().hex}"
    try:
        store.write(key, b"stablerep")
        is_same = store.read(key) == b"stablerep"
        store.delete(key)
    except StablerepError as error:
        return Check("store", False, str(error), "pass a store that this account may write, read and delete in")
    return Check("store", is_same, f"{store.uri} written, read and deleted", "pass a store that returns what was written")


def _space(recipe: Recipe, store: Store) -> Check:
    inside = store.local_path("ledger")
    if inside is None:
        return Check("free space", True, "object store, not measured", "")
    folder = next(path for path in inside.parents if path.exists())
    free = shutil.disk_usage(folder).free
    return Check("free space", free >= _FREE_BYTES, f"{free / 2**30:.1f} GiB", f"free {_FREE_BYTES >> 30} GiB or pass another store")


def _captions(recipe: Recipe, store: Store) -> Check:
    try:
        found = check_source(recipe.captions.source, recipe.captions.column)
    except StablerepError as error:
        return Check("captions", False, str(error), "set captions.source and captions.column")
    return Check("captions", True, found, "")


def _ports(recipe: Recipe, store: Store) -> Check:
    taken = [port for port in (recipe.deploy.port, recipe.deploy.grpc_port) if port and _is_taken(port)]
    ours = store.exists(f"endpoints/{recipe.deploy.name}.json")
    found = (
        f"taken: {', '.join(map(str, taken))}" + (" (by this store's endpoint, replaced at deploy)" if ours else "") if taken else "free"
    )
    return Check("endpoint ports", not taken or ours, found, "set deploy.port and deploy.grpc_port to free ports, or 0 for any")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


_CHECKS: tuple[Callable[[Recipe, Store], Check], ...] = (_python, _packages, _torchrun, _store, _space, _captions, _ports)
