"""What a run leaves in the store, stage by stage, without running it: for whoever looks at runs."""

import json
from dataclasses import replace
from pathlib import Path

from stablerep.config import load_recipe
from stablerep.groups.contact_sheet import contact_sheet_html
from stablerep.records import (
    CheckpointRef,
    DatasetRef,
    EndpointRef,
    Evaluation,
    GateDecision,
    GeneratorRef,
    LaneReport,
    ModelRef,
    ProbeScore,
    PromptSet,
    Record,
    ShardRecord,
    Verification,
)
from stablerep.stages.ledger import Entry, Ledger
from stablerep.store import Store
from stablerep.telemetry import Reporter
from stablerep.telemetry.reporter import JsonlSink
from stablerep.training.journal import Journal

START = 1_780_000_000.0
HOSTILE = "<script>alert('a caption')</script>"


class PlayedRun:
    """Stages of recipe smoke end one after another, each ten seconds long."""

    def __init__(self, store: Store) -> None:
        self.store, self.now = store, START
        self.ledger = Ledger(store, load_recipe("smoke"))

    def end(self, name: str, record: Record) -> None:
        """A stage ends well."""
        self.ledger.keep(Entry(name, record.to_json(), {}, self.now, self.now + 10))
        self.now += 10

    def until_pretrain(self) -> None:
        """Captions and groups are there."""
        self.end("prepare", PromptSet("prompts-1", "uri", "sha", 48, 4, 2, {"read": 52, "kept": 48, "duplicate": 3, "empty": 1}))
        self.end("generator", GeneratorRef("generator-1", "uri", "StableDiffusionPipeline", "sha", "1", HOSTILE, 32))
        for lane in (0, 1):
            self.end(f"generate-{lane}", LaneReport(lane, "groups-1", 2, 96, 96, 10.0))
        shard = ShardRecord(0, "00000.tar", "sha", 1, 48, 192, {"good": 192, "black": 8}, {})
        self.store.write("groups/groups-1/shards/00000.json", shard.to_json())
        self.store.write("groups/groups-1/contact_sheet.html", contact_sheet_html([], title="Groups", facts={}))
        self.end("commit", DatasetRef("groups-1", "uri", "sha", "prompts-1", "generator-1", 4, 48, 192, 4, {}))

    def train(self, num_steps: int) -> None:
        """Training writes down its steps; it has a checkpoint every four."""
        reporter = Reporter("pretrain", (JsonlSink(self.store, "telemetry/pretrain.jsonl", clock=lambda: self.now),))
        reporter.report("stablerep_run_info", 1, stage="pretrain", id="run-1")
        runs = self.store.at("runs/run-1")
        journal = Journal(runs, is_first=True, attempt="a", after_step=0, num_steps=12, log_every_seconds=0)
        with reporter.progress(12, "steps") as progress:
            for step in range(1, num_steps + 1):
                self.now += 1
                journal.step(step, {"total": 6.0 / step, "image": 4.0 / step, "text": 2.0 / step}, 1e-3, 1.0, 128 * step, 0.1 * step)
                progress.advance()
                if step % 4 == 0:
                    runs.write(f"checkpoints/step-{step}/COMMITTED.json", "{}")
                    journal.checkpoint(step, 0.1)
        journal.flush()
        self.sink_of(reporter).close()

    def fail(self, stage: str, error: str) -> None:
        """A stage ends in an error."""
        sink = JsonlSink(self.store, f"telemetry/{stage}.jsonl", clock=lambda: self.now)
        reporter = Reporter(stage, (sink,))
        reporter.report("stablerep_stage_progress_ratio", 0.0, stage=stage)
        self.now += 5
        reporter.report("stablerep_stage_failures_total", 1, stage=stage, error=error)
        reporter.close()

    def until_the_end(self) -> None:
        """Trained, measured, served, verified."""
        self.end("pretrain", CheckpointRef("run-1", "uri", 12, 12, "f", "sha", {"loss": 0.5}))
        self.end("export", ModelRef("model-1", "uri", "sha", "vit_tiny", 96, 32, True))
        score = ProbeScore("encoder", "linear", 5, 0.75, 0.7, 0.8)
        scores = (score, replace(score, source="raw_pixels", accuracy=0.65, low=0.6, high=0.7))
        self.end("probe", Evaluation("model-1", "digits", "uri", 0.75, 0.7, 0.8, scores))
        self.end("gate", GateDecision("model-1", True, ("better",), "", 0.0))
        self.end("deploy", EndpointRef("model-1", "http://127.0.0.1:1/v1/models/stablerep:predict", "127.0.0.1:2", 1, "uri"))
        self.end("verify", Verification("model-1", "http://127.0.0.1:1/v1/models/stablerep:predict", 0.0, 3.0, 9.0, {}))
        self.end("finish", _Report("smoke", "SUCCEEDED", "uri"))

    @staticmethod
    def sink_of(reporter: Reporter) -> JsonlSink:
        """The metrics file of a reporter, to flush without ending the attempt."""
        (sink,) = reporter._sinks
        assert isinstance(sink, JsonlSink)
        return sink


class _Report(LaneReport):
    """Any record will do."""

    def __init__(self, key: str, state: str, uri: str) -> None:
        super().__init__(0, key, 0, 0, 0, 0.0)


def lines_of(path: Path) -> list[dict[str, object]]:
    """The lines of a metrics file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
