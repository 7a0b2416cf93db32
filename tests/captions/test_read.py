"""Captions from every kind of file, and what a user reads when a file is wrong."""

import csv
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from stablerep.captions.derived import CLASS_NAMES, class_of_caption
from stablerep.captions.packaged import load_packaged
from stablerep.captions.read import check_source, read_captions
from stablerep.errors import CaptionError, DataError, StoreError

TEXTS = ["a dog, running", 'she said "hi"', "две кошки", "two\nlines", "", "日本の猫 🐈"]


def _write_csv(path: Path, texts: list[str], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([["url", "caption"], *([f"u{i}", text] for i, text in enumerate(texts))])


def _write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("\n".join(json.dumps({"caption": text, "n": i}) for i, text in enumerate(texts)) + "\n\n")


def _write_parquet(path: Path, texts: list[str]) -> None:
    parquet.write_table(pa.table({"n": list(range(len(texts))), "caption": texts}), path, row_group_size=2)


WRITERS: dict[str, Callable[[Path, list[str]], None]] = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
def test_any_text_comes_back_from_every_kind_of_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"my captions{suffix}"
    WRITERS[suffix](path, TEXTS)
    for source in (str(path), path.as_uri()):
        rows = list(read_captions(source, "caption"))
        assert [text for text, _ in rows] == TEXTS
        assert {provenance["source"] for _, provenance in rows} == {f"my captions{suffix}"}
    places = [provenance.get("line", provenance.get("row")) for _, provenance in rows]
    assert places == {".csv": [2, 3, 4, 6, 7, 8], ".jsonl": [1, 2, 3, 4, 5, 6], ".parquet": [0, 1, 2, 3, 4, 5]}[suffix]


def test_plain_text_has_a_caption_a_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes("\ufeffa dog\r\n\n兎\n  last line without an end".encode())
    assert list(read_captions(str(path), "ignored")) == [
        ("a dog", {"source": "captions.txt", "line": 1}),
        ("", {"source": "captions.txt", "line": 2}),
        ("兎", {"source": "captions.txt", "line": 3}),
        ("  last line without an end", {"source": "captions.txt", "line": 4}),
    ]


def test_a_quote_is_a_character_like_any_other_in_tsv(tmp_path: Path) -> None:
    path = tmp_path / "captions.TSV"
    path.write_text('caption\turl\n"stop" sign\tu1\n6" ruler\tu2\n')
    assert [text for text, _ in read_captions(str(path), "caption")] == ['"stop" sign', '6" ruler']


def test_missing_values_are_empty_captions(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"caption": null}\n{"caption": "x"}\n')
    parquet.write_table(pa.table({"caption": pa.array([None, "x"]).dictionary_encode()}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert [text for text, _ in read_captions(str(tmp_path / name), "caption")] == ["", "x"]


def test_packaged_captions_know_their_image() -> None:
    captions = load_packaged("digits").captions
    drawn = list(read_captions("packaged:digits", "ignored", num_captions=30, seed=3))
    assert len(drawn) == 30
    assert all(captions[provenance["source_index"]] == text for text, provenance in drawn)
    assert all(provenance["source"] == "packaged:digits" for _, provenance in drawn)
    assert all(class_of_caption(text) == CLASS_NAMES.index(provenance["label"]) for text, provenance in drawn)
    assert drawn == list(read_captions("packaged:digits", "ignored", num_captions=30, seed=3))
    assert drawn != list(read_captions("packaged:digits", "ignored", num_captions=30, seed=4))
    everything = list(read_captions("packaged:digits", "ignored"))
    assert [text for text, _ in everything] == list(captions)
    assert [provenance["source_index"] for _, provenance in everything] == list(range(len(captions)))
    with pytest.raises(DataError, match="expected a packaged data set, one of"):
        list(read_captions("packaged:nothing", "ignored"))


def test_classes_come_from_a_column_of_any_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("caption,kind\nx,dog\ny,\n")
    (tmp_path / "a.tsv").write_text("kind\tcaption\ndog\tx\n\ty\n")
    (tmp_path / "a.jsonl").write_text('{"caption": "x", "kind": "dog"}\n{"caption": "y"}\n')
    parquet.write_table(pa.table({"kind": pa.array(["dog", None]), "caption": pa.array(["x", "y"])}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"kind": pa.array([7, None]), "caption": pa.array(["x", "y"])}), tmp_path / "b.parquet")
    for name, label in (("a.csv", "dog"), ("a.tsv", "dog"), ("a.jsonl", "dog"), ("a.parquet", "dog"), ("b.parquet", "7")):
        rows = list(read_captions(str(tmp_path / name), "caption", label_column="kind"))
        assert [(text, place.get("label")) for text, place in rows] == [("x", label), ("y", None)], name
        assert not any("label" in place for _, place in read_captions(str(tmp_path / name), "caption"))
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(
            CaptionError, match=r"expected a column 'kine', found the columns .*did you mean 'kind'\? set captions.label_col"
        ):
            list(read_captions(str(tmp_path / name), "caption", label_column="kine"))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CaptionError, match=r"expected a table with captions.label_column=kind, found plain text"):
        list(read_captions(str(tmp_path / "a.txt"), "caption", label_column="kind"))


@pytest.mark.parametrize("suffix", [".txt", *WRITERS])
def test_any_fsspec_uri_is_a_source(tmp_path: Path, suffix: str, s3_store_uri: str) -> None:
    path = tmp_path / f"captions{suffix}"
    WRITERS.get(suffix, lambda path, texts: path.write_text("\n".join(texts)))(path, ["a dog", "a cat"] * 500)
    for folder in (s3_store_uri, "memory://captions"):
        with fsspec.open(f"{folder}/captions{suffix}", "wb") as stream:
            stream.write(path.read_bytes())
        assert [text for text, _ in read_captions(f"{folder}/captions{suffix}", "caption")] == ["a dog", "a cat"] * 500
        with pytest.raises(CaptionError, match=r"gone.*expected a file with captions, found nothing there; check captions.source"):
            list(read_captions(f"{folder}/gone{suffix}", "caption"))


def _failing(source: Path | str, column: str = "caption") -> str:
    with pytest.raises(CaptionError) as caught:
        list(read_captions(str(source), column))
    return str(caught.value)


@pytest.mark.parametrize("name", ["captions.txt", "captions.csv", "captions.tsv", "captions.jsonl", "captions.parquet"])
def test_a_missing_an_empty_and_a_folder_source_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert _failing(path) == f"{path}: expected a file with captions, found nothing there; check captions.source"
    path.touch()
    assert _failing(path) == f"{path}: expected captions, found an empty file; write at least one"
    path.unlink()
    path.mkdir()
    assert _failing(path) == f"{path}: expected a file with captions, found a folder; name one file inside it"


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_table_without_rows_is_no_source(tmp_path: Path, suffix: str) -> None:
    WRITERS[suffix](tmp_path / f"a{suffix}", [])
    if suffix == ".parquet":
        parquet.write_table(pa.table({"caption": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert _failing(tmp_path / f"a{suffix}").endswith("expected captions, found no rows; write at least one")


@pytest.mark.parametrize(("name", "found"), [("captions.xlsx", ".xlsx"), ("captions", "no ending"), ("s3://b/captions.tar.gz", ".gz")])
def test_an_unknown_kind_of_file_is_refused(name: str, found: str) -> None:
    assert f"expected packaged:<name> or a file ending in .txt, .csv, .tsv, .jsonl, .parquet, found {found};" in _failing(name)


def test_an_unknown_scheme_is_explained() -> None:
    assert "expected a path or a URI whose package is installed" in _failing("nosuch://host/captions.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_text_that_is_not_utf8_is_found_at_its_byte_and_line(tmp_path: Path, name: str) -> None:
    lines = {".txt": b"good\n", ".csv": b"caption\n", ".tsv": b"caption\n", ".jsonl": b'{"caption": "good"}\n'}[Path(name).suffix]
    start = lines + "grün\n".encode() * (name != "a.jsonl")
    (tmp_path / name).write_bytes(start + b"caf\xe9\nrest\n")
    line = 2 if name == "a.jsonl" else 3
    expected = f"expected UTF-8, found byte 0xe9 at byte {len(start) + 3} (line {line}); save the file as UTF-8"
    assert _failing(tmp_path / name) == f"{tmp_path / name}: {expected}"


def test_utf16_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("caption\na dog\n", encoding="utf-16")
    assert "expected UTF-8, found UTF-16 at byte 0 (line 1)" in _failing(tmp_path / "a.csv")


def test_parquet_text_that_is_not_utf8_is_found_at_its_row(tmp_path: Path) -> None:
    values = pa.array([b"good", b"caf\xe9"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"caption": values}), tmp_path / "a.parquet")
    assert _failing(tmp_path / "a.parquet").endswith("a.parquet, row 1: expected UTF-8, found byte 3 that is not; save the column as UTF-8")


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_column_lists_the_columns_and_the_closest(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, TEXTS)
    first = {".csv": "url, caption", ".jsonl": "caption, n", ".parquet": "n, caption"}[suffix]
    where = f"{path}, line 1" if suffix == ".jsonl" else str(path)
    expected = f"{where}: expected a column 'captions', found the columns {first}, did you mean 'caption'? set captions.column"
    assert _failing(path, "captions") == expected
    assert _failing(path, "zzz").endswith(f"found the columns {first}; set captions.column")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "url,caption\nu,ok\nu,too,many\n", "line 3: expected 2 fields as in the header, found 3; quote a field"),
        ("a.csv", "url,caption\nu\n", "line 2: expected 2 fields as in the header, found 1"),
        ("a.tsv", "url\tcaption\nu\tok\nu\tto\to\n", "line 3: expected 2 fields as in the header, found 3"),
        ("a.csv", 'caption\n"never closed\nmore\n', "line 3: expected a row of fields, found: unexpected end of data; check its quotes"),
        ("a.csv", 'caption\n"a"b\n', "line 2: expected a row of fields, found: ',' expected after '\"'"),
        ("a.jsonl", '{"caption": "ok"}\n{"caption": \n', "line 2: expected a JSON object, found '{\"caption\":'"),
        ("a.jsonl", '{"caption": "ok"}\n\n["no"]\n', 'line 3: expected a JSON object, found list; write {"caption": ...}'),
        ("a.jsonl", '{"caption": 7}\n', "line 1: expected text in 'caption', found int 7; write it as a string"),
        ("a.jsonl", '{"caption": "ok"}\n{"text": "x"}\n', "line 2: expected a column 'caption', found the columns text;"),
        ("a.parquet", "PAR1 but not really", "expected a Parquet file, found one that cannot be read"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    assert message in _failing(tmp_path / name)


def test_a_truncated_parquet_file_is_explained(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "a.parquet", [f"caption {i}" for i in range(5000)])
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[: len(content) // 2])
    assert "expected a Parquet file, found one that cannot be read" in _failing(tmp_path / "a.parquet")


def test_a_column_of_numbers_is_no_caption_column(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "a.parquet", TEXTS)
    assert "expected text in column 'n', found int64; set captions.column" in _failing(tmp_path / "a.parquet", "n")


def test_an_object_store_that_does_not_answer_is_a_retryable_error(s3_store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"captions.txt: cannot be read, .*check that it can be reached"):
        list(read_captions(f"{s3_store_uri}/captions.txt", ""))
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("suffix", WRITERS)
def test_reading_is_a_stream(tmp_path: Path, suffix: str) -> None:
    texts = [f"caption number {i} of a file that is far larger than what may be held in memory at once" for i in range(60_000)]
    WRITERS[suffix](tmp_path / f"a{suffix}", texts)
    if suffix == ".parquet":
        parquet.write_table(pa.table({"caption": texts}), tmp_path / "a.parquet", row_group_size=4096)
    size_bytes = sum(map(len, texts))
    tracemalloc.start()
    count = sum(1 for _ in read_captions(str(tmp_path / f"a{suffix}"), "caption"))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000
    assert peak_bytes < size_bytes / 2


def test_a_source_is_checked_by_its_first_caption(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a dog\n\xff\n")
    assert check_source(str(tmp_path / "a.txt"), "") == f"{tmp_path / 'a.txt'} is readable; it starts with 'a dog'"
    with pytest.raises(CaptionError, match="found nothing there"):
        check_source(str(tmp_path / "b.txt"), "")
