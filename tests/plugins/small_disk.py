"""Small and read-only disks for tests: tmpfs mounts where this user may mount (root in a container mostly may).

Tests that need a mount are defined only where `CAN_MOUNT`; a test with a limit on file sizes beside them runs everywhere.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def mount(folder: Path, *options: str) -> bool:
    """Whether `mount` succeeded."""
    return subprocess.run(["mount", *options, str(folder)], check=False, capture_output=True).returncode == 0


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory of the given size, such as 256k."""
    folder.mkdir()
    if not mount(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        raise RuntimeError("cannot mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as top:
        try:
            with tmpfs(Path(top) / "probe", "64k"):
                return True
        except (RuntimeError, OSError):
            return False


CAN_MOUNT = _can_mount()
