"""`stablerep embed` and the Python client against the real server, killed and run again."""

import hashlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from served_encoder import ServedEncoder, served_encoder
from tiny_encoder import picture

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor, Question
from stablerep.endpoint.remote import RemoteEncoder

NUM_IMAGES = 120
MANUAL = Path(__file__).resolve().parents[2] / "docs" / "client.md"
COMMAND = [sys.executable, "-m", "stablerep.cli", "embed"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedEncoder]:
    with served_encoder(tmp_path_factory.mktemp("served"), Limits(max_image_bytes=100_000)) as found:
        yield found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "deep").mkdir()
    for number in range(NUM_IMAGES):
        name = f"deep/{number:03}.PNG" if number % 2 else f"{number:03}.jpg"
        (folder / name).write_bytes(picture(number, image_format="PNG" if number % 2 else "JPEG"))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def expected(served: ServedEncoder, images: Path) -> dict[str, np.ndarray]:
    predictor, files = (
        Predictor(served.folder, Limits()),
        sorted(str(path) for path in images.rglob("*") if path.suffix in (".jpg", ".PNG")),
    )
    rows = [predictor.predict([Path(file).read_bytes() for file in files[start : start + 60]]).embedding_NF for start in (0, 60)]
    return dict(zip(files, np.concatenate(rows), strict=True))


def embed(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_a_folder_gives_a_row_an_image_in_order(
    served: ServedEncoder, images: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    done = embed(served.url, str(images), "--to", str(tmp_path / "out.parquet"))
    assert (done.returncode, done.stdout.strip()) == (0, f"{NUM_IMAGES} embeddings of {served.model_id} in {tmp_path / 'out.parquet'}")
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["path"] for row in rows] == list(expected)
    assert rows[0]["sha256"] == hashlib.sha256(Path(rows[0]["path"]).read_bytes()).hexdigest()
    for row in rows:
        np.testing.assert_allclose(row["embedding"], expected[row["path"]], atol=1e-5)


def test_killed_at_any_moment_and_run_again_it_is_the_file_of_one_run(
    served: ServedEncoder, images: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    out, journal = tmp_path / "out.npy", tmp_path / "out.npy.journal"
    command = [*COMMAND, served.url, str(images), "--to", str(out), "--batch", "1", "--concurrency", "1"]
    num_kept = 0
    for num_wanted in (3, 20):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 90
        while not journal.exists() or journal.read_bytes().count(b"\n") <= num_wanted:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_kept = journal.read_bytes().count(b"\n") - 1
    assert not out.exists()
    assert 20 <= num_kept < NUM_IMAGES
    before = num_predicted(served)
    assert embed(*command[len(COMMAND) :]).returncode == 0
    assert num_predicted(served) - before - (NUM_IMAGES - num_kept) in (0, 1)  # 1: the killed run's last request, answered meanwhile
    np.testing.assert_allclose(np.load(out), np.array(list(expected.values())), atol=1e-5)
    content = out.read_bytes()
    before = num_predicted(served)
    assert embed(*command[len(COMMAND) :]).returncode == 0
    assert num_predicted(served) == before
    assert out.read_bytes() == content


def num_predicted(served: ServedEncoder) -> int:
    """Requests for embeddings that the server has answered over V2."""
    with served.state.client() as client:
        text = client.send("GET", "/metrics").content.decode()
    return sum(int(float(number)) for number in re.findall(r'stablerep_endpoint_requests_total\{[^}]*protocol="v2"[^}]*\} (\S+)', text))


def test_bad_images_cost_no_other(served: ServedEncoder, tmp_path: Path) -> None:
    files = {"a.png": picture(1), "junk.png": b"junk", "b.png": picture(2), "large.png": b"\x89PNG" * 50_000}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = "".join(f"{tmp_path / name}\n" for name in [*files, "missing.png", "a.png"])
    done = embed(served.url, "-", "--to", str(tmp_path / "out.parquet"), "--normalise", stdin=paths)
    assert done.returncode == 3
    assert "3 of 5 images have no embedding" in done.stderr
    rows = {Path(row["path"]).name: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    assert [(name, (row["error"] or "")[:30]) for name, row in rows.items()] == [
        ("a.png", ""),
        ("junk.png", "400: expected a JPEG, PNG, Web"),
        ("b.png", ""),
        ("large.png", "413: expected an image of at m"),
        ("missing.png", "cannot be read: No such file o"),
    ]
    assert np.linalg.norm(rows["b.png"]["embedding"]) == pytest.approx(1.0, abs=1e-5)


def test_texts_are_embedded_too(served: ServedEncoder, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a handwritten zero\n\ndata:image/png;base64,no image\na handwritten zero\n")
    done = embed(
        served.url, str(tmp_path / "captions.txt"), "-", "--text", "--to", str(tmp_path / "out.parquet"), stdin="three\n" + "x" * 9_000
    )
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["text"][:20] for row in rows] == ["a handwritten zero", "data:image/png;base6", "three", "x" * 20]
    assert (done.returncode, rows[3]["embedding"], rows[3]["error"][:30]) == (3, None, "413: expected a text of at mos")
    expected = Predictor(served.folder, Limits()).embed_texts([row["text"] for row in rows[:3]], Question())[0]
    np.testing.assert_allclose([row["embedding"] for row in rows[:3]], expected, atol=1e-5)


def test_a_changed_image_is_asked_again_and_only_that(served: ServedEncoder, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    assert embed(served.url, str(tmp_path), "--to", str(out), "--batch", "1").returncode == 0
    first, before = pq.read_table(out).to_pylist(), num_predicted(served)
    (tmp_path / "1.png").write_bytes(picture(7))
    assert embed(served.url, str(tmp_path), "--to", str(out), "--batch", "1").returncode == 0
    second = pq.read_table(out).to_pylist()
    assert num_predicted(served) - before == 1
    assert [old == new for old, new in zip(first, second, strict=True)] == [True, False, True]
    with RemoteEncoder(served.url) as encoder:
        np.testing.assert_allclose(second[1]["embedding"], encoder.embed([picture(7)])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{url}", "empty"], 3, "expected images in empty, found none"),
        (["{url}", "x.png", "--model", "other"], 2, "answered 404"),
        (["{url}", "x.png", "--to", "x.txt"], 2, "ends with .parquet or .npy"),
        (["{url}", "x.png", "--batch", "0"], 2, "expected --batch and --concurrency of 1 or more"),
        (["http://127.0.0.1:9", "x.png", "--patience", "0"], 6, "does not answer"),
    ],
)
def test_what_cannot_be_done_is_said(served: ServedEncoder, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [argument.replace("{url}", served.url) for argument in arguments]
    done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_the_snippet_of_the_manual(served: ServedEncoder) -> None:
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.DOTALL) if "RemoteEncoder" in block]
    snippet = snippet.replace("http://localhost:8080", served.url)
    done = subprocess.run(
        [sys.executable, "-c", snippet + "\nimport sys\nassert 'torch' not in sys.modules"],
        cwd=MANUAL.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert re.fullmatch(rf"{served.model_id}\n\(1, 48\) (four|nine)\n", done.stdout)


def test_from_python(served: ServedEncoder, images: Path, expected: dict[str, np.ndarray]) -> None:
    files = list(expected)[:20]
    with RemoteEncoder(served.url) as encoder:
        assert encoder.model_id() == served.model_id
        np.testing.assert_allclose(encoder.embed(files, batch_size=7), [expected[file] for file in files], atol=1e-5)
        scores = encoder.classify(files[:2], ["zero", "seven"], ["a handwritten {}"])
    assert [sum(score.values()) for score in scores] == pytest.approx([1.0, 1.0], abs=1e-5)
