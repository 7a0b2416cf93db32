"""preflight: what must be there before anything is spent, as a table with a remedy for every failure.

On a laptop: the packages the recipe's stages import, a store that can be written, read and deleted, free space, a caption source, free
ports, `torchrun` on the path. With a cluster (launch.backend or deploy.backend other than local, or inside a pod): its API server, the
kinds it serves, the objects that are named, permissions, quota, nodes and, when asked for, a pod that looks around on one of them. All
checks run before the first failure is raised. The table goes to standard error, the record to whoever called; the error only names the
rows that failed, because the table has what was found and what to do.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from stablerep.cluster import ClusterApi
from stablerep.config import Recipe
from stablerep.errors import CaptionError, ClusterError, ConfigError, LaunchError, PortInUseError, StablerepError, StoreError
from stablerep.stages import STAGES
from stablerep.stages.context import configured, open_stage
from stablerep.stages.preflight_cluster import API_SERVER, check_cluster
from stablerep.stages.preflight_local import STORE, check_here
from stablerep.stages.preflight_needs import Scope
from stablerep.stages.preflight_room import NODES, QUOTA
from stablerep.stages.preflight_table import Check, Preflight, failures, markdown, plain
from stablerep.store import Store

_FIRST_SECONDS, _BUDGET_SECONDS = 5.0, 15.0  # for a server that does not answer: at all, or later a call
_ERRORS: dict[str, type[StablerepError]] = {
    STORE: StoreError,
    "captions": CaptionError,
    "endpoint ports": PortInUseError,
    API_SERVER: ClusterError,
    QUOTA: LaunchError,
    NODES: LaunchError,
}


def run(recipe: str, overrides: str, store: str, *, stages: str = "", has_probe_pod: bool = False, table_path: str = "") -> Preflight:
    """Check everything; write the table as Markdown to `table_path` when given.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        stages: verbs of the stages that will run, separated by blanks; empty: all. What only other stages need is not looked at, so a
            pipeline that trains can run under an account that may not deploy.
        has_probe_pod: start a pod of the training image on a node of the job, for some seconds; it may make a cluster add that node.
        table_path: where to write the Markdown table, or empty.

    Raises:
        StablerepError: something is missing; the message names the rows, the class is that of the first failure (StoreError,
            CaptionError, PortInUseError, ClusterError, LaunchError, else ConfigError).
    """
    verbs, is_pod = _verbs(stages), bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    scope = Scope(configured(recipe, overrides), Store(store, is_patient=False), is_pod, verbs)
    checks = check_here(scope)
    has_store = all(check.is_ok for check in checks if check.name == STORE)
    with open_stage("preflight", recipe, overrides, store, keeps_metrics=has_store), ExitStack() as connections:
        if scope.is_cluster or has_probe_pod:
            connect = partial(_connect, connections)
            checks += check_cluster(scope, connect, has_probe_pod=has_probe_pod, image=_training_image(scope.recipe))
        if table_path:
            Path(table_path).write_text(markdown(checks), encoding="utf-8")
        sys.stderr.write(plain(checks) + "\n")
        _raise_first(checks)
    return Preflight(tuple(checks))


def _verbs(stages: str) -> frozenset[str]:
    verbs = frozenset(stages.split()) or frozenset(STAGES)
    if strange := sorted(verbs - set(STAGES)):
        raise ConfigError(f"preflight stages: expected some of {', '.join(STAGES)}, found {', '.join(strange)}")
    return verbs


def _connect(connections: ExitStack) -> ClusterApi:
    from stablerep.integrations.kubernetes_api import connect

    connections.enter_context(connect(budget_seconds=_FIRST_SECONDS, read_seconds=_FIRST_SECONDS)).server_version()
    return connections.enter_context(connect(budget_seconds=_BUDGET_SECONDS))


def _training_image(recipe: Recipe) -> str:
    return recipe.launch.image or os.environ.get("STABLEREP_TRAIN_IMAGE", "")


def _raise_first(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if not check.is_ok]
    if failed:
        raise _ERRORS.get(failed[0].name, ConfigError)(failures("preflight", checks))
