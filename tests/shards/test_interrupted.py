"""What kill -9, a full disk and a read-only disk leave of a shard: nothing half-written, and the same digests in the end."""

import itertools
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from made_groups import GENERATOR, prompt_set_of, random_groups
from small_disk import CAN_MOUNT, mount, tmpfs

from stablerep.errors import StoreError
from stablerep.records import DatasetRef
from stablerep.shards.dataset import commit_shard, find_shard, write_manifest
from stablerep.store import Store

PLUGINS = str(Path(__file__).parents[1] / "plugins")


def _commit(store: Store, index: int = 0) -> None:
    commit_shard(store, "groups-x", index, random_groups(index, 5), counts={}, producer={})


def _program(body: str) -> list[str]:
    start = f"import sys; sys.path.insert(0, {PLUGINS!r})\n"
    return [sys.executable, "-c", start + textwrap.dedent(body)]


def _run_until_flush(command: list[str], flush: int) -> bool:
    """Run a program and kill it at its n-th flush; False when it ended before."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for left in reversed(range(flush)):
            if not process.stdout.readline():
                assert process.wait() == 0
                return False
            if left == 0:
                process.kill()
            else:
                process.stdin.write("\n")
                process.stdin.flush()
    return True


def test_kill_9_at_any_write_and_a_re_run_give_the_same_data_set(tmp_path: Path) -> None:
    """The child stops for the parent at every flush to disk, between writing a temporary file and renaming it."""
    store = Store(str(tmp_path / "store"))
    body = f"""
        import os
        from made_groups import random_groups
        from stablerep.shards.dataset import commit_shard, find_shard
        from stablerep.store import Store, local

        def stop(descriptor):
            print("flush", flush=True)
            sys.stdin.readline()

        local.os.fsync = stop
        store = Store({store.uri!r})
        for index in range(2):
            if find_shard(store, "groups-x", index) is None:
                commit_shard(store, "groups-x", index, random_groups(index, 5), counts={{}}, producer={{}})
    """
    for num_kills in itertools.count():
        is_killed = _run_until_flush(_program(body), num_kills + 1)
        for index in range(2):
            assert find_shard(store, "groups-x", index) == find_shard(store, "groups-x", index, verify=True)
        if not is_killed:
            break
    assert num_kills >= 6
    clean = Store(str(tmp_path / "clean"))
    for index in range(2):
        _commit(clean, index)
    made = [write_manifest(each, "groups-x", prompt_set_of(2, 10), GENERATOR, 3, {}) for each in (store, clean)]
    assert made[0].manifest_sha256 == made[1].manifest_sha256
    assert store.list() == clean.list()


def test_a_limit_on_file_sizes_leaves_no_shard(tmp_path: Path) -> None:
    body = f"""
        import resource
        from made_groups import random_groups
        from stablerep.errors import StoreError
        from stablerep.shards.dataset import commit_shard
        from stablerep.store import Store

        store, groups = Store({str(tmp_path)!r}), random_groups(0, 5)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            commit_shard(store, "groups-x", 0, groups, counts={{}}, producer={{}})
        except StoreError as error:
            assert "00000.tar: File too large; a limit on file sizes is reached: raise it" in str(error), error
        else:
            raise SystemExit("the limit did not bind")
    """
    subprocess.run(_program(body), check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    store = Store(str(tmp_path))
    assert find_shard(store, "groups-x", 0) is None
    _commit(store)
    assert find_shard(store, "groups-x", 0, verify=True) is not None


if CAN_MOUNT:

    def test_a_full_disk_leaves_no_shard_and_space_is_all_it_needs(tmp_path: Path) -> None:
        with tmpfs(tmp_path / "disk", "400k") as disk:
            store = Store(str(disk))
            _commit(store, 0)
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(300_000))
            with pytest.raises(StoreError, match=r"00001.*: No space left on device; the disk is full: free some space"):
                _commit(store, 1)
            assert find_shard(store, "groups-x", 1) is None
            assert find_shard(store, "groups-x", 0, verify=True) is not None
            assert list(disk.rglob(".tmp-*")) == []
            ballast.unlink()
            _commit(store, 1)
            assert find_shard(store, "groups-x", 1, verify=True) is not None

    def test_a_read_only_disk_is_explained_and_stays_readable(tmp_path: Path) -> None:
        with tmpfs(tmp_path / "disk", "1m") as disk:
            _commit(Store(str(disk)))
            assert mount(disk, "-o", "remount,ro")
            store = Store(str(disk))
            with pytest.raises(StoreError, match=r"00001.tar: Read-only file system; the file system is read-only: pass another store"):
                _commit(store, 1)
            with pytest.raises(StoreError, match=r"cannot write .*/manifest.json: Read-only file system"):
                write_manifest(store, "groups-x", prompt_set_of(1, 5), GENERATOR, 3, {})
            assert find_shard(store, "groups-x", 0, verify=True) is not None


def test_a_file_in_place_of_the_folder_is_explained(tmp_path: Path, make_dataset: Callable[..., DatasetRef]) -> None:
    (tmp_path / "groups").write_text("a file")
    with pytest.raises(StoreError, match="a file stands where a folder is needed: move it away"):
        make_dataset(Store(str(tmp_path)))
    assert (tmp_path / "groups").read_text() == "a file"
