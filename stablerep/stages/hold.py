"""hold: the gate turned the model down; say why, and leave the champion where it is."""

from pathlib import Path

from stablerep.records import GateDecision
from stablerep.stages.context import open_stage


def run(recipe: str, overrides: str, store: str, *, decision: str, reasons_path: str = "") -> GateDecision:
    """Write the gate's reasons as Markdown to `reasons_path` when given; returns the decision unchanged."""
    verdict = GateDecision.from_json(decision)
    with open_stage("hold", recipe, overrides, store) as stage:
        stage.reporter.report("stablerep_gate_promoted", 0)
    if reasons_path:
        lines = "\n".join(f"- {reason}" for reason in verdict.reasons)
        champion = verdict.champion_id or "none"
        text = f"# {verdict.model_id} is not deployed\n\n{lines}\n\nThe champion stays: {champion}\n"
        Path(reasons_path).write_text(text, encoding="utf-8")
    return verdict
