import re
from xml.etree import ElementTree

from stablerep.config import load_recipe
from stablerep.records import DatasetRef, Evaluation
from stablerep.report import body_of, page, table
from stablerep.report.run import Run, run_html, run_markdown
from stablerep.stages.ledger import Entry

HOSTILE = "<script>alert('x')</script> & \"quoted\""


def _run(state: str = "SUCCEEDED", error: str = "", pages: dict[str, str] | None = None) -> Run:
    dataset = DatasetRef("groups-1", "file:///s/groups/groups-1", "00", "prompts-1", "generator-1", 2, 40, 240, 6, {})
    evaluation = Evaluation("model-1", "suite-1", "file:///s/e", 0.923, 0.91, 0.935, ())
    entries = (Entry("commit", dataset.to_json(), {}, 10, 12.5), Entry("probe", evaluation.to_json(), {}, 20, 30))
    return Run("smoke-1", load_recipe("smoke"), state, error, entries, "file:///s", pages or {})


def test_the_summary_says_how_it_ended_and_what_was_made() -> None:
    text = run_markdown(_run())
    assert text.startswith("# smoke: succeeded")
    assert "40 groups, 240 images" in text
    assert "92.3 % [91.0 %, 93.5 %]" in text
    assert "| commit | 2.5 |" in text
    assert 'n0["groups<br/>groups-1"]' in text
    assert 'n1["probe<br/>suite-1"]' in text


def test_a_failed_run_is_never_shown_as_a_success() -> None:
    run = _run("FAILED", f"task pretrain failed: {HOSTILE}")
    assert "# smoke: failed" in run_markdown(run)
    html = run_html(run)
    assert "smoke: failed" in html
    assert "task pretrain failed" in html
    assert "<script" not in html


def test_the_pages_of_the_stages_become_sections() -> None:
    html = run_html(_run(pages={"commit": page("groups", "<h1>Image groups</h1><p>x</p>")}))
    assert '<section id="commit">' in html
    assert "<h2>Image groups</h2>" in html
    assert html.count("<html") == html.count("<body") == 1


def test_the_report_is_one_file_without_scripts_or_links_elsewhere() -> None:
    html = run_html(_run())
    assert not re.search(r"<script|<link|<iframe|src=\"(?!data:)", html)


def test_table_escapes_every_cell_and_is_well_formed() -> None:
    root = ElementTree.fromstring(table([HOSTILE, "n"], [[HOSTILE, 3]], best_row=0))
    assert [cell.text for cell in root.iter("td")] == [HOSTILE, "3"]
    assert next(root.iter("th")).text == HOSTILE


def test_headings_move_one_level_down() -> None:
    assert body_of(page("t", "<h1>a</h1><h2>b</h2><h3 class='x'>c</h3>")).strip() == "<h2>a</h2><h3>b</h3><h4 class='x'>c</h4>"
