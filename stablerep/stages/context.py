"""What every stage starts with: the recipe, the store, a reporter, a clean way to end.

A stage's `run` takes plain values as they come from KFP, the command line or a test, opens a `Stage`, and returns a record. Environment
variables are read here: STABLEREP_CLUSTER (`launch.*` and `deploy.*` words of the cluster, which the user's go over),
STABLEREP_LOG_EVERY_SECONDS (progress lines where there is no terminal), STABLEREP_ENDPOINT_TOKEN (the bearer token that the endpoint asks
for), and in `stages.exporter` those of the metrics. Telemetry that cannot be kept never hides what the stage itself has to say.
"""

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from stablerep.config import Recipe, load_recipe
from stablerep.endpoint.access import TOKEN_VARIABLE
from stablerep.errors import ConfigError, DataError, Preempted
from stablerep.stages.exporter import open_exporter
from stablerep.store import Store
from stablerep.telemetry import Reporter, Sink
from stablerep.telemetry.reporter import JsonlSink

log = logging.getLogger("stablerep")


@dataclass(frozen=True)
class Stage:
    """An open stage."""

    name: str
    recipe: Recipe
    store: Store
    reporter: Reporter
    endpoint_token: str = field(default="", repr=False)


@contextmanager
def open_stage(
    name: str, recipe: str, overrides: str, store: str, metrics_key: str = "", *, keeps_metrics: bool = True
) -> Generator[Stage]:
    """Open stage `name`; count a failure by its class; flush reports at the end.

    Args:
        name: the verb.
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        metrics_key: key of the metrics file in the store, default `telemetry/<stage>.jsonl`.
        keeps_metrics: whether there is a metrics file; not where the store is known not to answer.

    Raises:
        ConfigError: the recipe or an override is wrong.
    """
    set_up_logging()
    configuration = configured(recipe, overrides)
    opened = Store(store)
    kept = _kept(opened, metrics_key or f"telemetry/{name}.jsonl") if keeps_metrics else ()
    exporter, can_wait = open_exporter(), True
    reporter = Reporter(name, (*kept, *exporter.sinks), _log_every_seconds())
    reporter.report("stablerep_stage_progress_ratio", 0.0, stage=name)  # it has begun: whoever looks at the run sees it
    try:
        yield Stage(name, configuration, opened, reporter, os.environ.get(TOKEN_VARIABLE, "").strip())
    except Exception as error:
        can_wait = not isinstance(error, Preempted)
        reporter.report("stablerep_stage_failures_total", 1, stage=name, error=type(error).__name__)
        raise
    finally:
        reporter.close()
        exporter.stop(can_wait)


def configured(recipe: str, overrides: str) -> Recipe:
    """The recipe with the cluster's words and the user's.

    Raises:
        ConfigError: the recipe or a word is wrong.
    """
    return load_recipe(recipe, overrides, cluster=os.environ.get("STABLEREP_CLUSTER", ""))


def set_up_logging() -> None:
    """One line an event on standard error: time, level, text."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _log_every_seconds() -> float:
    text = os.environ.get("STABLEREP_LOG_EVERY_SECONDS", "60")
    try:
        return max(float(text), 0.1)
    except ValueError as error:
        raise ConfigError(f"STABLEREP_LOG_EVERY_SECONDS: expected seconds, found {text!r}") from error


def _kept(store: Store, key: str) -> tuple[Sink, ...]:
    """The metrics file; none where what is there cannot be read, so that nothing is written over it either."""
    try:
        return (JsonlSink(store, key),)
    except DataError as error:
        log.warning("this stage keeps no metrics in the store: %s", error)
        return ()
