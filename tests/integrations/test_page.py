"""The web page of the real server in headless Chromium: drop an image, see its label; what goes wrong can be read."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from served_encoder import ServedEncoder, served_encoder
from tiny_encoder import picture

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.remote import RemoteEncoder
from stablerep.endpoint.web_page import web_page

LABELS = ["zero", "o'clock", "<b>seven</b>"]
TEMPLATE = "a handwritten {}"
DROP = """
const [bytes, name, type] = arguments;
const transfer = new DataTransfer();
transfer.items.add(new File([Uint8Array.from(bytes)], name, {type}));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedEncoder]:
    references = {f"reference <{seed}>": picture(seed) for seed in range(8)}
    with served_encoder(tmp_path_factory.mktemp("served"), Limits(max_image_bytes=100_000), references) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1100,900"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver") or "chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(120)
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The page, opened anew."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self._browser = browser
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(url)
        self.wait("the model", lambda: "model-" in self.text("model"))

    def text(self, name: str) -> str:
        return self._browser.find_element(By.ID, name).text

    def wait(self, what: str, condition: Any) -> None:
        WebDriverWait(self._browser, 90, poll_frequency=0.05).until(lambda _: condition(), f"{what}: {self._browser.page_source[-3000:]}")

    def drop(self, content: bytes, name: str, kind: str = "image/png") -> None:
        self._browser.execute_script(DROP, list(content), name, kind)

    def ask(self, labels: list[str], template: str) -> None:
        for name, text in (("labels", ", ".join(labels)), ("template", template)):
            field = self._browser.find_element(By.ID, name)
            field.clear()
            field.send_keys(text)

    def problem(self) -> str:
        self.wait("a problem", lambda: self.text("problem"))
        return self.text("problem")

    def scores(self, name: str = "scores") -> dict[str, str]:
        script = f"return [...document.querySelectorAll('#{name} li')].map((row) => [...row.children].map((part) => part.textContent))"
        return {name: value for name, _, value in self._browser.execute_script(script)}


def test_a_dropped_image_shows_its_label_its_embedding_and_the_line_that_asks_the_same(
    served: ServedEncoder, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    page, image = Page(browser, served.url), picture(3)
    (tmp_path / "it's mine.png").write_bytes(image)
    with RemoteEncoder(served.url) as encoder:
        (scores,) = encoder.classify([image], LABELS, [TEMPLATE])
    best = max(scores, key=lambda label: scores[label])
    page.ask(LABELS, TEMPLATE)
    page.drop(image, "it's mine.png")
    page.wait("the label", lambda: page.text("headline") == best and set(page.scores()) == set(LABELS))
    assert page.scores()[best] == f"{100 * scores[best]:.1f} %"
    assert re.fullmatch(r"48 numbers, length \d+\.\d\d: (-?\d\.\d{3}, ){6}…", page.text("numbers"))
    assert re.fullmatch(rf"\d+ ms there and back · {served.model_id}", page.text("latency"))
    neighbours = list(page.scores("neighbours").items())
    assert (len(neighbours), neighbours[0]) == (5, ("reference <3>", "1.000"))
    line = page.text("curl")
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    (row,) = json.loads(done.stdout)["predictions"]
    assert row["label"] == best
    assert row["scores"] == pytest.approx(scores, abs=1e-5)
    page.ask(LABELS[:1], TEMPLATE)  # changed labels are asked by themselves
    page.wait("new scores", lambda: list(page.scores().items()) == [(LABELS[0], "100.0 %")])
    assert [entry["message"] for entry in browser.get_log("browser")] == []  # no violation of the policy, no error


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"no image at all", "notes.png", r"cannot read this|does not read this format"),
        (b"\x89PNG" + b"\0" * 120_000, "large.png", r"too large for the server\. Expected.*100000 bytes, found 120004"),
    ],
)
def test_what_is_wrong_with_a_file_can_be_read(
    served: ServedEncoder, browser: webdriver.Chrome, content: bytes, name: str, message: str
) -> None:
    page = Page(browser, served.url)
    page.drop(content, name)
    assert re.search(message, page.problem())
    page.drop(picture(1), "good.png")
    page.wait("the answer", lambda: page.text("headline") and not page.text("problem"))


def test_the_keyboard_reaches_everything(served: ServedEncoder, browser: webdriver.Chrome) -> None:
    page = Page(browser, served.url)
    page.drop(picture(1), "good.png")
    page.wait("the answer", lambda: page.text("headline"))
    browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0);")
    reached: list[str] = []
    for _ in range(6):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element.get_attribute("id"))
    assert reached == ["drop", "labels", "template", "ask", "curl", "copy"]


def test_a_server_that_goes_away_is_said(served: ServedEncoder, browser: webdriver.Chrome) -> None:
    page = Page(browser, served.url)
    browser.execute_script("window.fetch = () => Promise.reject(new TypeError('gone'));")
    page.drop(picture(1), "good.png")
    assert page.problem() == "The server does not answer."


def test_busy_and_secret_servers_are_told_apart(served: ServedEncoder, browser: webdriver.Chrome) -> None:
    page = Page(browser, served.url)
    answer = "new Response(JSON.stringify({error: '%s'}), {status: %d, headers: {'Retry-After': '2'}})"
    browser.execute_script(f"window.fetch = () => Promise.resolve({answer % ('256 images are waiting', 503)});")
    page.drop(picture(1), "good.png")
    assert page.problem() == "The server is busy or still loading. 256 images are waiting. Ask again in 2 s."
    browser.execute_script(
        "window.asked = []; window.fetch = (url, options) => { window.asked.push(options.headers); "
        f"return Promise.resolve({answer % ('expected a token', 401)}); }};"
    )
    page.drop(picture(1), "good.png")
    page.wait("the field", lambda: browser.switch_to.active_element.get_attribute("id") == "token")
    browser.switch_to.active_element.send_keys("secret", Keys.TAB)
    page.wait("the token", lambda: any(each.get("Authorization") == "Bearer secret" for each in browser.execute_script("return asked")))
    page.wait("the line", lambda: '-H "Authorization: Bearer $TOKEN"' in page.text("curl"))
    assert "secret" not in page.text("curl")


def test_only_browsers_get_the_page_and_it_needs_nothing_else(served: ServedEncoder) -> None:
    with served.state.client() as client:
        alive = client.send("GET", "/", headers={"Accept": "*/*"})
        page = client.send("GET", "/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (alive.status, alive.body) == (200, {"status": "alive"})
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(rb"https?://|innerHTML|\bon\w+=|style=", page.content)


def test_a_name_is_no_markup() -> None:
    assert 'data-model="&lt;b&gt;&quot;"' in web_page('<b>"').content
