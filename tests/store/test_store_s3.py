"""The store on a real S3 server, also from forked processes, and what a user sees when the server or the bucket is not there."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_server import S3Server

from stablerep.errors import DataError, StoreError
from stablerep.store import Store


def test_objects_are_written_listed_read_and_removed(s3_store_uri: str, tmp_path: Path) -> None:
    store = Store(s3_store_uri)
    assert not store.is_local
    assert store.local_path("a") is None
    assert store.list() == []
    store.write("a/b.bin", b"0123456789")
    store.write("a/c/d.txt", "Grüße")
    store.write("ab", b"")
    assert store.list() == ["a/b.bin", "a/c/d.txt", "ab"]
    assert store.list("a") == ["a/b.bin", "a/c/d.txt"]
    assert store.sizes("a")["a/b.bin"] == 10
    assert [store.size(key) for key in ("a/b.bin", "a", "gone")] == [10, None, None]
    assert store.list("ab") == ["ab"]
    assert store.read("a/b.bin") == b"0123456789"
    assert store.at("a").read_text("c/d.txt") == "Grüße"
    assert store.read("ab") == b""
    assert list(store.read_ranges("a/b.bin", [(2, 4), (0, 1), (8, 20), (10, 12), (30, 40)])) == [b"23", b"0", b"89", b"", b""]
    assert store.sha256("a/b.bin") == "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    with store.open("a/b.bin") as stream:
        stream.seek(7)
        assert stream.read() == b"789"
    assert store.exists("a")
    assert store.exists("a/b.bin")
    assert not store.exists("a/b")
    store.delete("a")
    store.delete("a")
    assert store.list() == ["ab"]


def test_of_several_writers_of_a_new_object_one_wins(s3_store_uri: str) -> None:
    store = Store(s3_store_uri)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: Store(s3_store_uri).write_new("a/new", f"writer {number}"), range(8)))
    assert sum(won) == 1
    assert store.read_text("a/new") == f"writer {won.index(True)}"
    assert not store.write_new("a/new", b"later")
    store.delete("a/new")
    assert store.write_new("a/new", b"later")


def test_large_files_go_both_ways(s3_store_uri: str, tmp_path: Path) -> None:
    store, source = Store(s3_store_uri), tmp_path / "source.bin"
    source.write_bytes(os.urandom(12_000_000))
    store.put(source, "big.bin")
    assert store.get("big.bin", tmp_path / "back.bin").read_bytes() == source.read_bytes()
    assert store.read("big.bin") == source.read_bytes()
    assert store.read_ranges("big.bin", [(11_999_990, 12_000_000)]) == [source.read_bytes()[-10:]]


def test_what_another_client_wrote_is_seen_at_once(s3_store_uri: str) -> None:
    import s3fs

    store, other = Store(s3_store_uri), s3fs.S3FileSystem(skip_instance_cache=True)
    folder = s3_store_uri.removeprefix("s3://")
    assert store.list() == []
    assert not store.exists("a/key")
    other.pipe_file(f"{folder}/a/key", b"1")
    assert store.exists("a/key")
    assert store.list() == ["a/key"]
    other.pipe_file(f"{folder}/a/key", b"22")
    other.pipe_file(f"{folder}/a/new", b"333")
    assert (store.size("a/key"), store.size("a/new")) == (2, 3)
    assert store.exists("a/new")
    assert store.sizes() == {"a/key": 2, "a/new": 3}
    other.rm_file(f"{folder}/a/key")
    assert store.size("a/key") is None
    assert store.list() == ["a/new"]


def _read_in_child(store: Store, queue: "multiprocessing.Queue[bytes]") -> None:
    queue.put(store.read("key"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers_may_share_a_store(s3_store_uri: str, method: str) -> None:
    store = Store(s3_store_uri)
    store.write("key", b"from the parent")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_read_in_child, args=(store, queue))
    process.start()
    assert queue.get(timeout=60) == b"from the parent"
    process.join()
    assert process.exitcode == 0
    assert store.read("key") == b"from the parent"


def test_what_is_missing_is_a_data_error(s3_store_uri: str, tmp_path: Path) -> None:
    store = Store(s3_store_uri)
    for action in (store.read, store.sha256, lambda key: store.read_ranges(key, [(0, 1)]), lambda key: store.get(key, tmp_path / "x")):
        with pytest.raises(DataError, match=r"cannot .* s3://.*/gone: there is no such object") as caught:
            action("gone")
        assert not isinstance(caught.value, StoreError)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_bucket_is_explained(s3_store_uri: str) -> None:
    with pytest.raises(StoreError, match=r"cannot write s3://no-such-bucket/x/key: there is no such bucket; create it"):
        Store("s3://no-such-bucket/x").write("key", b"1")


def test_wrong_credentials_are_explained(s3_store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    store = Store(s3_store_uri)
    for action in (lambda: store.write("key", b"1"), lambda: store.read("key"), lambda: store.exists("key"), lambda: store.list()):
        with pytest.raises(StoreError, match=r"permission denied; check credentials"):
            action()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_server_that_is_not_there_is_a_retryable_store_error(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"cannot read s3://stablerep/x/key: .*check that the store is reachable") as caught:
        Store("s3://stablerep/x").read("key")
    assert caught.value.is_retryable
    s3fs.S3FileSystem.clear_instance_cache()
