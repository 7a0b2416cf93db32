"""What people see of a run: while it goes, when it fails, after it. The page is looked at in a real browser."""

import io
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from played_run import HOSTILE, START, PlayedRun
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from stablerep.cli import main
from stablerep.errors import PortInUseError
from stablerep.report.overview import Overview, duration, overview_html
from stablerep.stages.dashboard import open_server, whole_page
from stablerep.stages.overview import look
from stablerep.stages.status import drawn
from stablerep.store import Store
from stablerep.telemetry import Reporter
from stablerep.telemetry.reporter import JsonlSink


def _states(overview: Overview) -> dict[str, str]:
    return {stage.name: stage.state for stage in overview.stages}


def _text(overview: Overview) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(drawn(overview))
    return console.export_text()


def test_nothing_has_run_yet(store: Store) -> None:
    overview = look(store)
    assert set(_states(overview).values()) == {"waiting"}
    assert "no run yet" in _text(overview)
    assert "no run yet" in overview_html(overview)


def test_a_run_that_trains(store: Store) -> None:
    played = PlayedRun(store)
    played.until_pretrain()
    played.train(num_steps=9)
    overview = look(store, now=played.now + 1)
    assert _states(overview)["commit"] == "done"
    assert _states(overview)["pretrain"] == "running"
    assert _states(overview)["export"] == "waiting"
    assert overview.state == "running"
    training = overview.training
    assert training
    assert (training.step, training.num_steps, training.checkpoint_step) == (9, 12, 8)
    assert training.curves["loss_total"][-1] == (9, pytest.approx(6 / 9))
    (pretrain,) = [stage for stage in overview.stages if stage.name == "pretrain"]
    assert pretrain.progress == 0.75
    assert pretrain.left_seconds == pytest.approx(3.0)
    text = _text(overview)
    assert "3.0 s" in text
    assert "step 8" in text
    assert dict(overview.tiles)["captions"] == "48"


def test_groups_are_shown_while_lanes_make_them_then_those_of_the_data_set(store: Store) -> None:
    for lane in (0, 1):
        sink = JsonlSink(store, f"telemetry/generate-{lane}.jsonl")
        Reporter("generate", (sink,)).report("stablerep_run_info", 1, stage="generate", id="groups-1")
        sink.close()
    assert look(store).groups_html == ""
    for lane in (0, 1):
        figures = "".join(f"<figure>lane {lane} group {number}</figure>" for number in range(5))
        store.write(f"groups/groups-1/sheets/lane-{lane}.html", figures)
    store.write("groups/groups-2/sheets/lane-0.html", "<figure>of another run</figure>")
    shown = look(store).groups_html
    assert [f"lane {lane} group {number}" in shown for lane in (0, 1) for number in range(5)] == [True, True, True, False, False] * 2
    assert "another" not in shown
    PlayedRun(store).until_pretrain()
    store.write("groups/groups-1/contact_sheet.html", "<figure>of the data set</figure>")
    assert look(store).groups_html == '<div class="groups"><figure>of the data set</figure></div>'


def test_an_attempt_that_has_long_been_silent_was_stopped(store: Store) -> None:
    played = PlayedRun(store)
    played.until_pretrain()
    played.train(num_steps=6)
    assert _states(look(store, now=played.now + 1000))["pretrain"] == "stopped"


def test_a_run_that_failed_says_so(store: Store) -> None:
    played = PlayedRun(store)
    played.until_pretrain()
    played.fail("pretrain", "DivergenceError")
    overview = look(store, now=played.now)
    assert (_states(overview)["pretrain"], overview.state) == ("failed", "failed")
    assert "pretrain ended with DivergenceError" in _text(overview)
    assert "pretrain ended with DivergenceError" in overview_html(overview)


def test_a_run_that_is_done(store: Store) -> None:
    played = PlayedRun(store)
    played.until_pretrain()
    played.train(num_steps=12)
    played.until_the_end()
    overview = look(store, "smoke", now=played.now)
    states = _states(overview)
    assert states.pop("hold") == "left out"
    states.pop("preflight")
    assert set(states.values()) == {"done"}
    assert overview.state == "done"
    assert overview.verdicts == {"good": 192, "black": 8}
    assert [noun for noun, _, _ in overview.lineage] == ["captions", "generator", "groups", "training", "encoder", "probe", "endpoint"]
    assert [probe.is_ours for probe in overview.probes] == [True, False]
    assert look(store).title == "stablerep smoke"  # the newest without being named


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0.4 s"), (47, "47 s"), (192, "3 m 12 s"), (18420, "5 h 7 m"), (273_600, "3 d 4 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_command_line_prints_and_writes(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PlayedRun(store).until_pretrain()
    assert main(["status", "--store", store.uri]) == 0
    assert "commit" in capsys.readouterr().out
    assert main(["dashboard", "--store", store.uri, "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert HOSTILE not in page
    assert "src=" not in page.replace('src="data:', "")


@contextmanager
def _served(store: Store) -> Iterator[str]:
    server = open_server(lambda: overview_html(look(store)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_server_answers_this_machine_only_and_two_paths(store: Store) -> None:
    with _served(store) as url:
        for path, host, code in (("nothing", "127.0.0.1:1", 404), ("", "evil.example.org:80", 403), ("live", "evil.example.org", 403)):
            with pytest.raises(urllib.error.HTTPError) as found:
                urllib.request.urlopen(urllib.request.Request(url + path, headers={"Host": host}))
            assert found.value.code == code
            found.value.close()
        with urllib.request.urlopen(url) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        with pytest.raises(PortInUseError, match=r"port \d+ on 127.0.0.1 is taken; pass --port"):
            open_server(str, int(url.rsplit(":", 1)[1].strip("/")))


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


_HEIGHTS = """
const charts = [...document.querySelectorAll("svg")];
return Object.fromEntries(charts.map(svg => [svg.getAttribute("aria-label"), svg.getBoundingClientRect().height]))
"""


@pytest.mark.slow
def test_a_browser_shows_the_page_and_keeps_it_up_to_date(store: Store, browser: webdriver.Chrome) -> None:
    played = PlayedRun(store)
    played.until_pretrain()
    played.train(num_steps=4)
    with _served(store) as url:
        browser.get(url)
        wait = WebDriverWait(browser, 120)
        assert browser.find_element(By.TAG_NAME, "h1").text == "stablerep smoke"
        heights = browser.execute_script(_HEIGHTS)
        assert {"Loss by step", "Images a second by step", "Images by verdict"} <= set(heights)
        assert min(heights.values()) > 40
        width = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], "the page scrolls sideways"
        played.train(num_steps=12)
        played.until_the_end()
        wait.until(lambda driver: driver.execute_script("return document.querySelector('header .chip').textContent") == "done")
        assert browser.execute_script("return [...document.querySelectorAll('.chain b')].pop().textContent") == "endpoint"
        assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []


def test_light_and_dark_have_the_same_colours_named() -> None:
    style = whole_page("").partition("</style>")[2]
    light, dark = style.partition("prefers-color-scheme: dark")[::2]
    assert all(light.count(f"--{name}:") == dark.count(f"--{name}:") == 1 for name in ("s0", "s1", "s2", "s3", "bad"))


def test_time_is_when_it_was_taken(store: Store) -> None:
    assert "2026-05-28" in overview_html(look(store, now=START))
