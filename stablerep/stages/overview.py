"""Looks at the store and tells what there is to see of a run: while it goes, after it, on this machine or another.

Reads what stages leave anyway: the ledger (what is done), `telemetry/*.jsonl` (progress of what is not), progress, history and
checkpoints of the training run, shard records, evaluation, endpoint. It writes nothing, and nothing has to run for it. What cannot be
read at the moment is left out, not an error: files change while they are looked at.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stablerep.config import load_recipe
from stablerep.endpoint.local import read_state
from stablerep.errors import DataError
from stablerep.report.charts import Interval
from stablerep.report.overview import Overview, StageView, State, TrainingView, duration
from stablerep.shards import layout
from stablerep.stages import STAGES
from stablerep.stages.context import configured
from stablerep.stages.ledger import Entry, Ledger
from stablerep.store import Store
from stablerep.training.history import read_history
from stablerep.training.state import METRICS_KEY, PROGRESS_KEY, RunProgress

_SILENT_SECONDS = 900.0  # an attempt that says nothing for so long is over
_NUM_FIGURES = 6
_PREFIX = "stablerep_training_"


def look(store: Store, recipe: str = "", overrides: str = "", now: float | None = None) -> Overview:
    """The run of a recipe with its overrides; without a recipe the one that was worked on last.

    Args:
        store: where everything is.
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        now: Unix time.

    Raises:
        ConfigError: the recipe or an override is wrong.
        StoreError: the store is out of reach.
    """
    now = time.time() if now is None else now
    key = Ledger(store, configured(recipe, overrides)).key if recipe else _newest_ledger(store)
    entries = {entry.name: entry for entry in _entries(store, key)} if key else {}
    attempts = _attempts(store)
    stages = tuple(_stages(entries, attempts, now))
    seen = _Seen(store, entries, attempts, now)
    state = _state(stages)
    failed = next((stage for stage in stages if stage.state == "failed"), None)
    name = key.rpartition("-")[0] or "no run yet"
    return Overview(
        title=f"stablerep {name}",
        description=_description(name),
        store_uri=store.uri,
        taken_at=now,
        state=state,
        stages=stages,
        tiles=tuple(seen.tiles()),
        training=seen.training,
        verdicts=seen.verdicts(),
        captions=seen.captions(),
        groups_html=seen.groups_html(),
        probes=tuple(seen.probes()),
        lineage=tuple(seen.lineage()),
        endpoint=seen.endpoint(),
        problem=f"{failed.name} ended with {failed.note}; its message is in the log of the run, and running again continues"
        if failed
        else "",
    )


@dataclass(frozen=True)
class Attempt:
    """The last attempt of a stage as its metrics tell it."""

    started_at: float
    seen_at: float
    has_ended: bool
    error: str
    progress: tuple[tuple[float, float], ...]  # (Unix time, share)
    values: dict[tuple[str, str], float]  # (metric, last label's value) -> last value
    totals: Counter[tuple[str, str]]  # the same for counters, added up over all attempts
    ids: tuple[str, ...]

    def left_seconds(self) -> float | None:
        """Time to go at the pace so far."""
        progress = self.progress[1:] if len(self.progress) > 2 else self.progress  # the first is 0, whatever was done before
        if len(progress) < 2 or not 0 < progress[-1][1] < 1:
            return None
        (first_at, first), (last_at, last) = progress[0], progress[-1]
        return (1 - last) * (last_at - first_at) / (last - first) if last > first else None


def _attempts(store: Store) -> dict[str, Attempt]:
    """By stage or lane (`generate-0`)."""
    found: dict[str, Attempt] = {}
    for key in store.list("telemetry"):
        if key.endswith(".jsonl") and (lines := _json_lines(store, key)):
            found[key.removeprefix("telemetry/").removesuffix(".jsonl")] = _attempt(lines)
    return found


def _attempt(lines: list[dict[str, Any]]) -> Attempt:
    ends = [i for i, line in enumerate(lines) if line["metric"] == "stablerep_stage_seconds"]
    has_ended = bool(ends) and ends[-1] == len(lines) - 1
    earlier = [i for i in ends if i < len(lines) - 1]
    last = lines[earlier[-1] + 1 if earlier else 0 :]
    values = {(line["metric"], _label(line)): float(line["value"]) for line in last}
    totals = Counter[tuple[str, str]]()
    for line in lines:
        if line["metric"].endswith("_total"):
            totals[line["metric"], _label(line)] += line["value"]
    return Attempt(
        started_at=last[0]["time"] if not has_ended else last[-1]["time"] - last[-1]["value"],
        seen_at=last[-1]["time"],
        has_ended=has_ended,
        error=next((_label(line) for line in last if line["metric"] == "stablerep_stage_failures_total"), ""),
        progress=tuple((line["time"], float(line["value"])) for line in last if line["metric"] == "stablerep_stage_progress_ratio"),
        values=values,
        totals=totals,
        ids=tuple(line["labels"]["id"] for line in last if line["metric"] == "stablerep_run_info"),
    )


def _label(line: dict[str, Any]) -> str:
    labels = line.get("labels", {})
    return str(next((labels[name] for name in ("error", "verdict", "outcome", "term", "id", "stage") if name in labels), ""))


def _stages(entries: dict[str, Entry], attempts: dict[str, Attempt], now: float) -> Iterable[StageView]:
    newest = max((entry.ended_at for entry in entries.values()), default=0.0)
    verdict = json.loads(entries["gate"].output)["is_promoted"] if "gate" in entries else None
    not_taken: set[str] = {True: {"hold"}, False: {"deploy", "verify"}, None: {"hold"}}[verdict]
    for stage in STAGES:
        names = sorted({name for name in (*entries, *attempts) if name == stage or name.startswith(f"{stage}-")}) or [stage]
        names = [name for name in names if name != stage] or names
        for name in names:
            if stage in not_taken and name not in attempts:
                if verdict is not None:
                    yield StageView(name, "left out")
            else:
                yield _stage(name, entries.get(name), attempts.get(name), newest, now)


def _stage(name: str, entry: Entry | None, attempt: Attempt | None, newest: float, now: float) -> StageView:
    is_newer = attempt is not None and attempt.started_at > (entry.ended_at if entry else newest - _SILENT_SECONDS)
    if attempt and is_newer and not (entry and attempt.has_ended and not attempt.error):
        if attempt.error:
            return StageView(name, "failed", attempt.seen_at - attempt.started_at, note=attempt.error)
        if not attempt.has_ended:
            is_silent = now - attempt.seen_at > _SILENT_SECONDS
            state: State = "stopped" if is_silent else "running"
            share = attempt.progress[-1][1] if attempt.progress else None
            return StageView(name, state, (attempt.seen_at if is_silent else now) - attempt.started_at, share, attempt.left_seconds())
        return StageView(name, "done", attempt.seen_at - attempt.started_at, 1.0)
    if entry:
        return StageView(name, "done", entry.ended_at - entry.started_at, 1.0)
    return StageView(name, "waiting")


def _state(stages: tuple[StageView, ...]) -> State:
    states = [stage.state for stage in stages]
    for state in ("running", "failed", "stopped"):
        if state in states:
            return state
    if stages and stages[-1].state == "done":
        return "done"
    return "running" if "done" in states else "waiting"


class _Seen:
    """What the records of the stages lead to."""

    def __init__(self, store: Store, entries: dict[str, Entry], attempts: dict[str, Attempt], now: float) -> None:
        self._store, self._entries, self._attempts, self._now = store, entries, attempts, now
        self.training = self._training()

    def record(self, name: str) -> dict[str, Any]:
        """What a stage returned; empty when it has not."""
        return json.loads(self._entries[name].output) if name in self._entries else {}

    def tiles(self) -> Iterable[tuple[str, str]]:
        """The numbers that people look for first."""
        dataset, probe, verification = self.record("commit"), self.record("probe"), self.record("verify")
        if prompts := self.record("prepare"):
            yield "captions", f"{prompts['num_captions']:,}"
        made = sum(self.verdicts().values()) if not dataset else dataset["num_images"]
        if made:
            yield ("images" if dataset else "images so far"), f"{made:,}"
        if training := self.training:
            yield "loss", f"{training.values.get('loss_total', float('nan')):.3f}"
            yield "images a second", f"{training.values.get('images_per_second', 0):,.0f}"
        if probe:
            yield "linear probe, real images", f"{100 * probe['headline']:.1f} %"
        if verification:
            yield "endpoint, median", f"{verification['latency_p50_ms']:.1f} ms"

    def captions(self) -> dict[str, int]:
        """Captions that were read, by what became of them."""
        counts = dict(self.record("prepare").get("counts", {}))
        return {name: counts[name] for name in ("kept", "duplicate", "empty", "left_out") if counts.get(name)}

    def verdicts(self) -> dict[str, int]:
        """Images by verdict, over all lanes and attempts; from the shards' records when the data set is committed."""
        total = Counter[str]()
        dataset = self.record("commit")
        if dataset:
            for key in self._store.list(f"groups/{dataset['dataset_id']}/shards"):
                if key.endswith(".json"):
                    total.update({name: int(count) for name, count in _json(self._store, key).get("counts", {}).items()})
        else:
            for name, attempt in self._attempts.items():
                if name.startswith("generate"):
                    found = {verdict: n for (metric, verdict), n in attempt.totals.items() if metric == "stablerep_generate_images_total"}
                    total.update({verdict: int(n) for verdict, n in found.items()})
        return dict(sorted(total.items(), key=lambda pair: (pair[0] != "good", pair[0])))

    def groups_html(self) -> str:
        """Some figures of the contact sheet, or of the lanes' while groups are made."""
        if dataset := self.record("commit"):
            keys = [layout.sheet_key(dataset["dataset_id"])]
        else:
            made = {each for name, attempt in self._attempts.items() if name.startswith("generate-") for each in attempt.ids}
            keys = [key for dataset_id in sorted(made) for key in self._store.list(layout.lane_sheets_folder(dataset_id))]
        figures = [figure for key in keys for figure in _figures(self._store, key)[: -(-_NUM_FIGURES // len(keys))]]
        return f'<div class="groups">{"".join(figures[:_NUM_FIGURES])}</div>' if figures else ""

    def probes(self) -> Iterable[Interval]:
        """Scores of the linear probe and of neighbours, the encoder's beside what it is compared with."""
        scores = self.record("probe").get("scores", ())
        for score in sorted(scores, key=lambda s: (s["num_labels_per_class"] % 1_000_000, s["probe"], s["source"])):
            labels = "all labels" if score["num_labels_per_class"] < 0 else f"{score['num_labels_per_class']} labels"
            name = f"{score['source'].replace('_', ' ')}, {score['probe'].replace('_', ' ')}, {labels}"
            if score["probe"] in ("linear", "knn"):
                yield Interval(name, score["accuracy"], score["low"], score["high"], score["source"] == "encoder")

    def lineage(self) -> Iterable[tuple[str, str, str]]:
        """From the captions to the endpoint: noun, id, fact."""
        if r := self.record("prepare"):
            yield "captions", r["prompt_set_id"], f"{r['num_captions']:,} captions"
        if r := self.record("generator"):
            yield "generator", r["generator_id"], f"{r['pipeline_class'].removesuffix('Pipeline')}, {r['licence']}"
        if r := self.record("commit"):
            yield "groups", r["dataset_id"], f"{r['num_groups']:,} groups of {r['images_per_caption']}"
        if r := self.record("pretrain"):
            yield "training", r["run_key"], f"{r['step']:,} steps"
        if r := self.record("export"):
            yield "encoder", r["model_id"], f"{r['architecture']}, {r['embedding_dim']} dimensions"
        if r := self.record("probe"):
            yield "probe", r["suite"], f"{100 * r['headline']:.1f} % [{100 * r['headline_low']:.1f}, {100 * r['headline_high']:.1f}]"
        if r := self.record("verify") or self.record("deploy"):
            yield "endpoint", r["url"], self.endpoint()

    def endpoint(self) -> str:
        """Whether the endpoint runs on this machine."""
        deployed = self.record("deploy")
        if not deployed:
            return ""
        states = [
            read_state(self._store, key.removeprefix("endpoints/").removesuffix(".json"))
            for key in self._store.list("endpoints")
            if key.endswith(".json")
        ]
        return (
            "serving" if any(state and state.is_running and state.url == deployed["url"] for state in states) else "not on this machine now"
        )

    def _training(self) -> TrainingView | None:
        attempt = self._attempts.get("pretrain")
        run_key = self.record("pretrain").get("run_key") or (attempt.ids[-1] if attempt and attempt.ids else "")
        if not run_key:
            return None
        runs = self._store.at(f"runs/{run_key}")
        points = read_history(runs, METRICS_KEY)
        curves: dict[str, list[tuple[float, float]]] = {}
        for point in points:
            name = "_".join((point.metric.removeprefix(_PREFIX), *point.labels.values()))
            if point.value is not None:
                curves.setdefault(name, []).append((point.step, point.value))
        progress = _progress(runs)
        if progress is None:
            return None
        steps = [int(match[1]) for key in runs.list("checkpoints") if (match := re.search(r"step-(\d+)/COMMITTED\.json$", key))]
        saved_at = progress.metrics.get("checkpoint_timestamp_seconds")
        age = max(self._now - saved_at, 0.0) if saved_at and steps else None
        return TrainingView(progress.step, progress.num_steps, progress.metrics, curves, max(steps, default=None), age)


def facts(overview: Overview) -> list[tuple[str, str]]:
    """What `stablerep status` says below its table."""
    found = [(name, value) for name, value in overview.tiles]
    if training := overview.training:
        found.append(("step", f"{training.step:,} of {training.num_steps:,}"))
        if training.checkpoint_step is not None:
            age = f", {duration(training.checkpoint_age_seconds)} old" if training.checkpoint_age_seconds is not None else ""
            found.append(("last checkpoint", f"step {training.checkpoint_step:,}{age}"))
    if overview.endpoint:
        found.append(("endpoint", f"{overview.lineage[-1][1]} ({overview.endpoint})"))
    return found


def _progress(runs: Store) -> RunProgress | None:
    try:
        return RunProgress.from_json(runs.read_text(PROGRESS_KEY)) if runs.exists(PROGRESS_KEY) else None
    except DataError:
        return None


def _newest_ledger(store: Store) -> str:
    """Key of the ledger whose last entry is the newest; empty where there is none."""
    ended: dict[str, float] = {}
    for key in store.list("ledger"):
        _, name, _ = key.split("/")
        ended[name] = max(ended.get(name, 0.0), float(_json(store, key).get("ended_at", 0.0)))
    return max(ended, key=lambda name: ended[name], default="")


def _entries(store: Store, key: str) -> list[Entry]:
    return [Entry.from_json(store.read_text(name)) for name in store.list(f"ledger/{key}")]


def _description(recipe: str) -> str:
    try:
        return load_recipe(recipe).description
    except Exception:  # another version's recipe, or none yet
        return ""


def _json(store: Store, key: str) -> dict[str, Any]:
    try:
        return json.loads(store.read_text(key))
    except (DataError, ValueError):
        return {}


def _figures(store: Store, key: str) -> list[str]:
    try:
        return re.findall(r"<figure>.*?</figure>", store.read_text(key), flags=re.DOTALL)
    except DataError:
        return []


def _json_lines(store: Store, key: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in store.read_text(key).splitlines()]
    except (DataError, ValueError):
        return []
