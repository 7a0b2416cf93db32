"""Checks of the machine that preflight runs on, and of the store.

Only what matters there: a laptop that runs every stage needs their packages, torchrun and free ports; a task of a pipeline runs in an
image that holds nothing but its own stage, and a job that a cluster runs does not need the launcher's packages.
"""

import importlib.util
import os
import shutil
import socket
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from stablerep.captions.read import check_source
from stablerep.errors import StablerepError
from stablerep.stages.preflight_needs import Scope
from stablerep.stages.preflight_table import Check, judged, unknown
from stablerep.stages.prepare_catalogue import CATALOGUE, selected_rows
from stablerep.store import Store

_PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "timm", "deepspeed", "torchx", "kserve", "prometheus_client")
_FREE_BYTES = 2 << 30
_STORE_SECONDS = 10.0  # a store of which nothing is heard for so long serves nobody
STORE = "store"
_CREDENTIALS = {
    "s3": "AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on a cluster ConfigMap and Secret stablerep-store)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}


def check_here(scope: Scope) -> list[Check]:
    """Every check of this machine and the store that matters, in order."""
    return [check for look in _CHECKS if (check := look(scope)) is not None]


def _python(scope: Scope) -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return judged("Python", (3, 11) <= sys.version_info < (3, 13), found, "use Python 3.11 or 3.12")


def _packages(scope: Scope) -> Check:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing and (scope.is_cluster or _is_image()):
        return unknown("packages", f"not here: {', '.join(missing)}; every stage has its own image")
    found = f"missing: {', '.join(missing)}" if missing else f"{len(_PACKAGES)} present"
    return judged("packages", not missing, found, "run `make setup`, or use the image of the stage")


def _is_image() -> bool:
    """Whether this is a container of one role, as every image of images/ says: another stage runs in another image."""
    return bool(os.environ.get("STABLEREP_ROLE"))


def _torchrun(scope: Scope) -> Check | None:
    if scope.trains or scope.is_pod or _is_image() or "pretrain" not in scope.stages:
        return None
    path = Path(sys.executable).parent / "torchrun"
    is_there = path.exists() or shutil.which("torchrun") is not None
    return judged("torchrun", is_there, "present" if is_there else "not beside the interpreter nor on PATH", "install the `train` extra")


def _store(scope: Scope) -> Check:
    store, key = scope.store, f"preflight/{uuid.uuid4().hex}"
    if store.is_local and scope.is_cluster:
        remedy = "pass a store that every pod can reach: s3://bucket/prefix or gs://bucket/prefix"
        return judged(STORE, False, f"{store.uri} is a folder of this machine, which the pods of a cluster do not see", remedy)
    remedy = "pass a store that this account may write, read and delete in" + _credentials(store)

    def look() -> Check:
        try:
            store.write(key, b"stablerep")
            is_same = store.read(key) == b"stablerep"
            store.delete(key)
        except StablerepError as error:
            return judged(STORE, False, str(error), remedy)
        return judged(STORE, is_same, f"{store.uri} written, read and deleted", "pass a store that returns what was written")

    found = _within(_STORE_SECONDS, look)
    return found or judged(STORE, False, f"{store.uri} did not answer within {_STORE_SECONDS:g} s", remedy)


def _credentials(store: Store) -> str:
    names = _CREDENTIALS.get(store.uri.partition("://")[0], "")
    return f", with its address and credentials: {names}, or an identity of the cloud" if names else ""


def _within(seconds: float, look: Callable[[], Check]) -> Check | None:
    """What `look` finds, or None where it takes longer: clients of object stores wait minutes for servers that drop every packet."""
    found: list[Check] = []
    thread = threading.Thread(target=lambda: found.append(look()), name="store", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _space(scope: Scope) -> Check | None:
    inside = scope.store.local_path("ledger")
    if inside is None:
        return None if scope.is_cluster else unknown("free space", "object store, not measured")
    folder = next(path for path in inside.parents if path.exists())
    free = shutil.disk_usage(folder).free
    return judged("free space", free >= _FREE_BYTES, f"{free / 2**30:.1f} GiB", f"free {_FREE_BYTES >> 30} GiB or pass another store")


def _captions(scope: Scope) -> Check | None:
    if "prepare" not in scope.stages:
        return None
    captions = scope.recipe.captions
    try:
        found = _selection(scope) if captions.source.startswith(CATALOGUE) else check_source(captions.source, captions.column)
    except StablerepError as error:
        return judged("captions", False, str(error), "set captions.source and captions.column")
    return judged("captions", True, found, "")


def _selection(scope: Scope) -> str:
    """One sentence about captions that are to be selected from the catalogue; Parquet is enough to count them."""
    found = sum(1 for _ in selected_rows(scope.store, scope.recipe.captions, use_feast=False))
    return f"{found} captions of the catalogue as of {scope.recipe.captions.as_of}"


def _ports(scope: Scope) -> Check | None:
    if scope.is_pod or scope.serves or "deploy" not in scope.stages:
        return None
    deploy = scope.recipe.deploy
    taken = [port for port in (deploy.port, deploy.grpc_port) if port and _is_taken(port)]
    ours = bool(taken) and _has_endpoint(scope.store, deploy.name)
    found = (
        f"taken: {', '.join(map(str, taken))}" + (" (by this store's endpoint, replaced at deploy)" if ours else "") if taken else "free"
    )
    return judged("endpoint ports", not taken or ours, found, "set deploy.port and deploy.grpc_port to free ports, or 0 for any")


def _has_endpoint(store: Store, name: str) -> bool:
    try:
        return store.exists(f"endpoints/{name}.json")
    except StablerepError:
        return False  # the store has a row of its own


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


_CHECKS: tuple[Callable[[Scope], Check | None], ...] = (_python, _packages, _torchrun, _store, _space, _captions, _ports)
