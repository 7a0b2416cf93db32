"""The runner of the study on a tiny plan, for real: it resumes, chooses on training images only, keeps budgets equal, writes the page."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import paper_trends
import pytest
from trends.page import Results, _told_apart, unpacked, verdict, write_page
from trends.plan import METHODS, RECIPE, TINY, Cell, Pool, Study, choose, choose_cells, learning_rate, scored_cells, words_of
from trends.pools import make_pool, without_class
from trends.spread import Spread

from stablerep.config import load_recipe
from stablerep.shards.read import GroupDataset
from stablerep.store import Store


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trends")
    paper_trends.run(TINY, folder, 0)
    return folder


def _cells(work: Path) -> dict[str, Any]:
    return paper_trends.gather(work)["cells"]


@pytest.mark.slow
def test_choose_cells_answer_training_images_and_others_the_test_images(work: Path) -> None:
    cells = _cells(work)
    assert {value["cell"]["part"]: value["num_test"] for value in cells.values()} == {"choose": 600, "main": 2000}
    assert all(np.isfinite(value["loss"]) for value in cells.values())
    pools = paper_trends.gather(work)["pools"]
    assert {made["pool"]["images"] for made in pools.values()} == {"real", "synthetic"}
    assert not list((work / "store" / "runs").iterdir())  # weights are not kept


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_what_is_lost_is_made_the_same(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _cells(work)
    lost = next(path for path in (work / "cells").iterdir() if path.stem.startswith("main"))
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("*.json") if path.parent.name in ("cells", "pools") and path != lost}
    lost.unlink()
    (work / "cells" / "broken.writing").write_text("{")  # what a kill leaves
    paper_trends.run(TINY, work, 0)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    again = _cells(work)
    assert again.keys() == before.keys()
    for key, value in again.items():
        assert value["answers"] == before[key]["answers"]
        assert value["loss"] == before[key]["loss"]


@pytest.mark.slow
def test_cells_of_a_results_file_are_not_run_again(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, files = tmp_path / "r.json", ["--results", str(tmp_path / "again.json"), "--page", str(tmp_path / "results.md")]
    known.write_text(json.dumps(paper_trends.gather(work)))
    monkeypatch.setattr("trends.cell.run_cell", lambda *_: pytest.fail("a known cell was run"))
    monkeypatch.setattr("trends.pools.make_pool", lambda *_: pytest.fail("a pool was made that nobody needs"))
    assert paper_trends.main(["--work", str(tmp_path / "new"), "--known", str(known), "--tiny", "--workers", "0", *files]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(known.read_text())


@pytest.mark.slow
def test_a_pool_of_another_generator_is_refused(work: Path, tmp_path: Path) -> None:
    known, pool = paper_trends.gather(work), TINY.main_pool("stablerep", 0)
    copy = shutil.copytree(work, tmp_path / "again")
    paper_trends.restore(known, copy)
    assert paper_trends.make(pool, TINY, copy) == pool.key
    known["pools"][pool.key]["facts"]["agreement"] += 0.02
    shutil.rmtree(copy / "known")
    paper_trends.restore(known, copy)
    with pytest.raises(ValueError, match="A fit is exact on one machine only"):
        paper_trends.make(pool, TINY, copy)


@pytest.mark.slow
def test_results_and_page_come_from_the_cells(work: Path, tmp_path: Path) -> None:
    options = ["--work", str(work), "--results", str(tmp_path / "r.json"), "--page", str(tmp_path / "docs" / "results.md")]
    assert paper_trends.main([*options, "--only-gather"]) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    document = json.loads((tmp_path / "r.json").read_text())
    key = next(key for key in document["cells"] if key.startswith("main"))
    score = 100 * document["cells"][key]["scores"]["5"]
    assert f"| StableRep | {score:.1f} (one generator) |" in text
    assert "1 x 1" in text
    assert "trend check, not a" in text
    assert "## Guidance\n\nNot measured" in text
    figures = {path.name for path in (tmp_path / "docs" / "images").iterdir()}
    assert figures == set(re.findall(r"images/(paper_trends_\w+\.svg)", text))
    again = tmp_path / "again" / "results.md"
    assert paper_trends.main(["--only-page", "--results", str(tmp_path / "r.json"), "--page", str(again)]) == 0
    assert again.read_text() == text


@pytest.mark.slow
def test_shuffled_pool_holds_the_same_images_in_other_groups(work: Path) -> None:
    pool = Pool("synthetic", 0, images_per_caption=TINY.images_in_pool)
    store = Store(str(work / "store"))
    groups = [
        GroupDataset(store, make_pool(Pool(images, 0, images_per_caption=pool.images_per_caption), TINY, work).dataset)
        for images in ("synthetic", "shuffled")
    ]
    plain, dealt = ([[*one.group(k).images] for k in range(one.num_groups)] for one in groups)
    assert [groups[0].caption(k) for k in range(30)] == [groups[1].caption(k) for k in range(30)]
    assert Counter(image for group in plain for image in group) == Counter(image for group in dealt for image in group)
    stayed = sum(image in own for own, new in zip(plain, dealt, strict=True) for image in new)
    assert stayed < 0.2 * sum(map(len, plain))


def test_budgets_are_equal_and_test_cells_are_named_once() -> None:
    study = Study()
    cells = [*choose_cells(study), *scored_cells(study, {})]
    for cell in cells:
        views = load_recipe(RECIPE, words_of(cell, study)).pretrain.views_per_batch
        assert study.views_per_step - cell.images_per_caption < views <= study.views_per_step, cell.key
    assert len({cell.key for cell in cells}) == len(cells)
    main = [cell for cell in cells if cell.part == "main"]
    counts = Counter((cell.method, cell.pool.replicate) for cell in main)
    assert set(counts.values()) == {3}
    assert len(counts) == 3 * len(study.core)
    assert [cell.seed for cell in main] == sorted(cell.seed for cell in main)
    assert not {cell.seed for cell in choose_cells(study)} & {cell.seed for cell in scored_cells(study, {})}


def test_replicates_differ_in_generator_captions_and_noise() -> None:
    study = Study()
    recipes = [load_recipe(RECIPE, words_of(_cell(study, k), study)) for k in range(3)]
    assert len({(one.generator.fit, one.generator.fit_seed) for one in recipes}) == 3
    assert len({one.captions.seed for one in recipes}) == 3
    assert len({one.generate.noise_seed for one in recipes}) == 3
    assert len({one.pretrain.seed for one in recipes}) == 1


def _cell(study: Study, replicate: int) -> Cell:
    return Cell("main", "stablerep", study.main_pool("stablerep", replicate), 0, 4e-3, 4)


def test_no_pool_of_the_study_is_refused_for_mixing_things() -> None:
    cells = scored_cells(Study(), {})
    assert {load_recipe(RECIPE, words_of(cell, Study())).quality.allow_low_purity for cell in cells} == {True}


def test_the_best_rate_of_each_method_is_chosen_and_borrowed() -> None:
    chosen = choose({("stablerep", 0.1): 0.5, ("stablerep", 0.2): 0.7, ("clip_real", 0.1): 0.6, ("clip_real", 0.2): 0.6})
    assert chosen == {"stablerep": 0.2, "clip_real": 0.1}
    assert learning_rate("shuffled", chosen) == 0.2
    assert learning_rate("clip_synthetic", chosen) == 0.1
    assert learning_rate("supervised", chosen) == 4e-3


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a photo of a wide upright seven in bold pen", "a photo of a wide upright digit in bold pen"),
        ("thin handwriting of the number four, slim and forward", "thin handwriting of the digit, slim and forward"),
        ("the digit 7 written with a light stroke, straight and broad", "the digit written with a light stroke, straight and broad"),
        ("an upright wide 3 drawn in fine ink", "an upright wide digit drawn in fine ink"),
    ],
)
def test_captions_lose_their_class_and_nothing_else(caption: str, expected: str) -> None:
    assert without_class(caption) == expected


@pytest.mark.parametrize(
    ("mean", "low", "high", "expected"),
    [
        (0.05, 0.01, 0.09, "**holds**"),
        (0.05, -0.01, 0.11, "not significant"),
        (-0.05, -0.11, 0.01, "not significant (mean reversed)"),
        (-0.05, -0.09, -0.01, "**reversed**"),
        (0.05, -float("inf"), float("inf"), "one generator: no verdict"),
    ],
)
def test_verdicts(mean: float, low: float, high: float, expected: str) -> None:
    assert verdict(Spread(mean, low, high, (mean,), (1,), 0.0)) == expected


def test_settings_that_differ_are_told_from_those_that_do_not() -> None:
    changes = {
        name: Spread(0.0, low, high, (0.0,), (1,), 0.0) for name, low, high in (("a", 0.1, 0.2), ("b", -0.2, -0.1), ("c", -0.1, 0.1))
    }
    changes["d"] = Spread(0.0, -float("inf"), float("inf"), (0.0,), (1,), 0.0)
    assert _told_apart(changes, "x") == "Against x: a better; b worse; no difference for c, d is larger than its interval."
    assert _told_apart({"a": changes["a"]}, "x") == "Against x: a better."


def test_committed_results_make_the_committed_page(tmp_path: Path) -> None:
    """docs/results.md is what the stored results say, figure by figure."""
    document = json.loads(paper_trends.RESULTS.read_text())
    write_page(document, tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == paper_trends.PAGE.read_text()
    for figure in (tmp_path / "images").iterdir():
        assert figure.read_text() == (paper_trends.PAGE.parent / "images" / figure.name).read_text()
    for result in Results(document).cells:
        for labels, accuracy in result["scores"].items():
            assert unpacked(result, labels).mean() == pytest.approx(accuracy, abs=1e-9)
    assert {result["cell"]["method"] for result in Results(document).cells} <= set(METHODS)
