"""A full disk and a read-only disk: StoreError with the remedy, and nothing half-written left.

A limit on file sizes stands in for a full disk everywhere; where this user may mount, small tmpfs mounts are tried as well.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from small_disk import CAN_MOUNT, mount, tmpfs

from stablerep.errors import StoreError
from stablerep.store import Store


def test_a_limit_on_file_sizes_leaves_nothing_behind(tmp_path: Path) -> None:
    program = f"""
        import resource
        from pathlib import Path
        from stablerep.errors import StoreError
        from stablerep.store import Store

        store = Store({str(tmp_path / "store")!r})
        store.write("kept", b"1")
        source = Path({str(tmp_path / "source")!r})
        source.write_bytes(bytes(1_000_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for action in (lambda: store.write("big", bytes(1_000_000)), lambda: store.put(source, "big")):
            try:
                action()
            except StoreError as error:
                assert "limit on file sizes" in str(error), error
            else:
                raise SystemExit("the limit did not bind")
        store.write("small", b"2")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    assert sorted(path.name for path in (tmp_path / "store").rglob("*")) == ["kept", "small"]


if CAN_MOUNT:

    def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
        with tmpfs(tmp_path / "disk", "256k") as disk:
            store = Store(str(disk))
            store.write("kept", bytes(50_000))
            with pytest.raises(
                StoreError, match=r"cannot write file://.*/big: No space left on device; the disk is full: free some space"
            ) as caught:
                store.write("big", bytes(1_000_000))
            assert caught.value.is_retryable
            with pytest.raises(StoreError, match="No space left on device"):
                store.write("kept", bytes(1_000_000))
            assert [path.name for path in disk.iterdir()] == ["kept"]
            assert store.read("kept") == bytes(50_000)
            store.write("big", bytes(150_000))

    def test_a_read_only_disk_is_explained(tmp_path: Path) -> None:
        with tmpfs(tmp_path / "disk", "256k") as disk:
            Store(str(disk)).write("kept", b"1")
            assert mount(disk, "-o", "remount,ro")
            store = Store(str(disk))
            for action in (lambda: store.write("new", b"2"), lambda: store.write("a/b", b"2"), lambda: store.delete("kept")):
                with pytest.raises(StoreError, match="read-only: pass another store or mount it writable"):
                    action()
            assert store.read("kept") == b"1"
            assert store.list() == ["kept"]
