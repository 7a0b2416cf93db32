"""What `make run` shows while it works, from the lines of the log."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

LINES = [
    "07:29:36 - INFO - Executing task 'generate'",
    "    07:29:40 INFO generate 50/1200 images (50.0 %), 5.7 images/s, 3 m 23 s left, shard 0",
    "07:29:41 - INFO - Task 'generate' finished with status SUCCESS",
    "07:29:42 - INFO - Task probe cache hit (key=039a45dd546a); skipping execution.",
    "07:29:43 - INFO - Executing task 'pretrain'",
    "07:29:44 - INFO - Task 'pretrain' finished with status FAILURE",
]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_line_a_task_and_progress_in_between(is_terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.run_local import TaskView

    view = TaskView(is_terminal)
    for line in LINES:
        view.read(line)
    view.close()
    shown = capsys.readouterr().out
    assert "done    generate" in shown
    assert "cached  probe" in shown
    assert "FAILED  pretrain" in shown
    assert "generate 50/1200 images (50.0 %)" in shown
    assert ("█" * 10 + "░" * 10 in shown) == is_terminal


def test_a_failure_is_explained_by_the_error_of_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.run_local import _explain

    log = tmp_path / "run.log"
    log.write_text("noise\n    stablerep.errors.DivergenceError: loss is nan at step 7\nRuntimeError: Pipeline failed\n", encoding="utf-8")
    assert _explain(log, 1) == 5
    assert "DivergenceError: loss is nan at step 7" in capsys.readouterr().err


def test_what_preflight_found_is_shown_with_its_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.run_local import _explain
    from stablerep.stages.preflight_table import Check, plain

    checks = [
        Check("store", "ok", "written"),
        Check("captions", "failed", "nothing there " * 12, "set captions.source " * 12),
        Check("nodes", "not checked", "no right"),
    ]
    table = "".join(f"    {line}\n" for line in plain(checks, num_columns=80).splitlines())
    log = tmp_path / "run.log"
    log.write_text(f"{table}    stablerep.errors.CaptionError: preflight: 1 failed: captions\n", encoding="utf-8")
    assert _explain(log, 1) == 3
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.count("nothing there") == shown.count("set captions.source") == 12
    assert shown.startswith("FAILED")
    assert "written" not in shown
    assert "no right" not in shown


def test_the_code_digest_follows_the_code(tmp_path: Path) -> None:
    from pipelines.run_local import code_digest

    for name in ("stablerep/a.py", "components/x/component.py", "docs/other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    before = code_digest(tmp_path)
    (tmp_path / "docs/other.py").write_text("x = 2\n", encoding="utf-8")
    assert code_digest(tmp_path) == before
    (tmp_path / "components/x/component.py").write_text("x = 2\n", encoding="utf-8")
    assert code_digest(tmp_path) != before
