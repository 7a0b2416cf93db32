"""The store on a local folder: names, atomic writes, ranges, and errors that say what to do."""

import os
import pickle
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stablerep.errors import DataError, StoreError
from stablerep.store import Store


def test_writes_are_read_back_whole_in_parts_and_by_digest(store: Store) -> None:
    store.write("a/b.bin", b"0123456789")
    store.write("a/text.txt", "Grüße")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read_text("a/text.txt") == "Grüße"
    assert store.read_ranges("a/b.bin", [(2, 4), (0, 1), (8, 20), (10, 12), (30, 40)]) == [b"23", b"0", b"89", b"", b""]
    assert store.sha256("a/b.bin") == "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    with store.open("a/b.bin") as stream:
        stream.seek(7)
        assert stream.read() == b"789"


def test_list_is_sorted_and_leaves_unfinished_writes_out(store: Store) -> None:
    for key in ("b", "a/z", "a/b/c", "c"):
        store.write(key, key)
    folder = store.local_path("a")
    assert folder is not None
    (folder / ".tmp-0123").write_bytes(b"half")
    assert store.list() == ["a/b/c", "a/z", "b", "c"]
    assert store.list("a") == ["a/b/c", "a/z"]
    assert store.sizes("a") == {"a/b/c": 5, "a/z": 3}
    assert store.list("b") == ["b"]
    assert [store.size(key) for key in ("a/b/c", "a/b", "gone")] == [5, None, None]
    assert store.list("nothing/here") == []


def test_put_get_delete_and_sub_store(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(3_000_000))
    store.put(source, "x/copy.bin")
    assert store.at("x").read("copy.bin") == source.read_bytes()
    assert store.get("x/copy.bin", tmp_path / "new" / "back.bin").read_bytes() == source.read_bytes()
    store.delete("x/copy.bin")
    assert not store.exists("x/copy.bin")
    store.write("x/y/z", b"1")
    assert store.exists("x/y")
    store.delete("x")
    store.delete("x")
    assert store.list() == []


@pytest.mark.parametrize("name", ["with space", "hash#tag", "per%20cent", "ünï", "plus+"])
def test_any_folder_name_means_one_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    by_path = Store(str(folder))
    by_path.write("key", b"1")
    assert (folder / "key").read_bytes() == b"1"
    for uri in (folder.as_uri(), by_path.uri, by_path.at("sub").uri.removesuffix("/sub")):
        assert Store(uri).read("key") == b"1"
        assert Store(uri).uri == by_path.uri


def test_a_relative_path_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Store("runs/one").write("key", b"1")
    assert (tmp_path / "runs" / "one" / "key").exists()
    with pytest.raises(StoreError, match=r"expected file:///absolute/folder with three slashes, found a relative path"):
        Store("file://runs/one")


@pytest.mark.parametrize("key", ["", ".", "/etc/passwd", "../up", "a/../../up", "a\0b"])
def test_keys_stay_inside_the_store(store: Store, key: str) -> None:
    with pytest.raises(DataError, match="expected a relative key inside the store"):
        store.write(key, b"")
    with pytest.raises(DataError, match="expected a relative key inside the store"):
        store.read(key)


@pytest.mark.parametrize("key", ["a*", "a?b", "a[0]"])
def test_patterns_are_not_keys(store: Store, key: str) -> None:
    with pytest.raises(DataError, match=r"expected a name without the characters \* \? \["):
        store.delete(key)


def test_what_is_missing_is_a_data_error_that_names_it(store: Store, tmp_path: Path) -> None:
    store.write("folder/x", b"1")
    for action in (store.read, store.read_text, store.sha256, lambda key: store.read_ranges(key, [(0, 1)])):
        with pytest.raises(DataError, match=r"cannot read file://.*/gone: there is no such object") as caught:
            action("gone")
        assert not isinstance(caught.value, StoreError)
    with pytest.raises(DataError, match="no such object"), store.open("gone"):
        raise AssertionError("opened")
    with pytest.raises(DataError, match="expected an object, found a folder"):
        store.read("folder")
    with pytest.raises(DataError, match=r"cannot copy to .*out.bin.*no such object"):
        store.get("gone", tmp_path / "out.bin")
    with pytest.raises(DataError, match="expected a file, found nothing"):
        store.put(tmp_path / "no-such-file", "key")
    assert not (tmp_path / "out.bin").exists()
    assert list(tmp_path.glob(".tmp-*")) == []


def test_bytes_that_are_not_text_are_a_data_error(store: Store) -> None:
    store.write("record.json", b"ok\xff")
    with pytest.raises(DataError, match=r"record.json: expected UTF-8 text, found byte 2"):
        store.read_text("record.json")


def test_errors_of_a_readers_own_block_are_not_explained_away(store: Store) -> None:
    store.write("key", b"1")
    with pytest.raises(FileNotFoundError, match="mine"), store.open("key"):
        raise FileNotFoundError("mine")


@pytest.mark.parametrize("uri", ["nosuch://bucket/x", "abfs://bucket/x"])
def test_an_unknown_scheme_or_missing_package_is_explained(uri: str) -> None:
    with pytest.raises(StoreError, match=r"expected file://, s3:// or gs:// with its package installed"):
        Store(uri)


@pytest.mark.parametrize("uri", ["s3://", "s3:///"])
def test_an_object_store_needs_a_bucket(uri: str) -> None:
    with pytest.raises(StoreError, match="expected a bucket"):
        Store(uri)


def test_a_file_in_place_of_a_folder_is_explained(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("I am no folder")
    for action in (
        lambda: Store(str(tmp_path / "file")).write("key", b"1"),
        lambda: Store(str(tmp_path / "file" / "deeper")).write("a/b", b"1"),
    ):
        with pytest.raises(StoreError, match=r"cannot write .*a file stands where a folder is needed"):
            action()
    store.write("a/b", b"1")
    with pytest.raises(StoreError, match="a folder stands where an object is needed"):
        store.write("a", b"1")
    assert store.list() == ["a/b"]
    assert sorted(path.name for path in store.local_path("a").parent.iterdir()) == ["a"]  # type: ignore[union-attr]


def test_readers_see_an_object_whole_while_it_is_replaced(store: Store) -> None:
    contents = [bytes([digit]) * 2_000_000 for digit in range(4)]
    store.write("key", contents[0])
    stop, torn = threading.Event(), list[int]()

    def read() -> None:
        while not stop.is_set():
            if (seen := store.read("key")) not in contents:
                torn.append(len(seen))

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents * 5:
        store.write("key", content)
    stop.set()
    reader.join()
    assert torn == []


def test_a_killed_writer_leaves_the_old_object(store: Store) -> None:
    store.write("key", b"old")
    program = f"""
        import os
        from stablerep.store import local, Store
        local.os.fsync = lambda descriptor: os._exit(9)  # dies after writing, before the rename
        Store({store.uri!r}).write("key", b"new" * 100000)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == 9
    assert store.read("key") == b"old"
    assert store.list() == ["key"]


def test_a_store_travels_to_another_process(store: Store) -> None:
    store.write("key", b"1")
    assert pickle.loads(pickle.dumps(store)).read("key") == b"1"


def test_of_several_writers_of_a_new_object_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.write_new("a/b/new", f"writer {number}"), range(32)))
    assert sum(won) == 1
    assert store.read_text("a/b/new") == f"writer {won.index(True)}"
    assert not store.write_new("a/b/new", b"later")
    assert store.list() == ["a/b/new"]


def test_a_folder_may_be_removed_while_others_write_into_it(store: Store) -> None:
    """A worker that is late writes a part of a shard that another one has committed and is cleaning up."""

    def write(number: int) -> None:
        store.write_new(f"folder/{number}", b"1")
        if number % 3 == 0:
            store.delete("folder")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(200)))
    store.delete("folder")
    assert store.list() == []
