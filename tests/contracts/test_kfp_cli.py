"""The README's `kfp` lines against a small API server in this process: what is submitted is the committed pipeline, whole."""

import json
import re
import shlex
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
KFP = str(Path(sys.executable).parent / "kfp")


class FakeApi(BaseHTTPRequestHandler):
    """Health, experiments and runs of the KFP v2beta1 API, kept in the server's `received`."""

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/apis/v2beta1")
        kept: dict[str, Any] = self.server.received  # type: ignore[attr-defined]
        if path == "/healthz":
            self._answer({"multi_user": False})
        elif path in ("/experiments", "/runs"):
            self._answer({path[1:]: kept[path[1:]], "total_size": len(kept[path[1:]])})
        else:
            found = [each for each in kept["runs"] + kept["experiments"] if path.rpartition("/")[2] in each.values()]
            self._answer(found[0]) if found else self._answer({"error": f"no {path}"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self.path.partition("?")[0].rpartition("/")[2]
        identity = {"experiments": "experiment_id", "runs": "run_id"}[kind]
        stamped = {**body, identity: str(uuid.uuid4()), "created_at": "2026-11-23T00:00:00Z", "state": "PENDING"}
        self.server.received[kind].append(stamped)  # type: ignore[attr-defined]
        self._answer(stamped)

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def api() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeApi)
    server.received = {"experiments": [], "runs": []}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _readme_lines(verb: str) -> list[list[str]]:
    text = (PROJECT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(rf"^\s*(kfp .*run {verb} .*)$", text, flags=re.MULTILINE)]


@pytest.mark.parametrize("verb", ["create", "submit"])
def test_readme_line_submits_the_committed_pipeline(verb: str, api: ThreadingHTTPServer) -> None:
    lines = _readme_lines(verb)
    assert len(lines) == 1, f"expected one `kfp ... run {verb}` line in README.md"
    words = lines[0]
    words[words.index("--endpoint") + 1] = f"http://127.0.0.1:{api.server_address[1]}"
    result = subprocess.run([KFP, *words[1:]], capture_output=True, text=True, timeout=120, check=False, cwd=PROJECT)
    assert result.returncode == 0, result.stdout + result.stderr
    run = _submitted(api, "stablerep")
    expected = dict(word.split("=", 1) for word in words if re.match(r"^(store|recipe|overrides)=", word))
    assert run["runtime_config"]["parameters"] == expected
    assert {"store", "recipe"} <= set(expected)
    assert [each["display_name"] for each in api.received["experiments"]] == [words[words.index("-e") + 1]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("verb", "name", "given"),
    [
        (
            "create",
            "generate_dataset",
            {"spot_node_selector": {"pool": "spot"}, "spot_tolerations": [{"key": "pool", "operator": "Exists"}]},
        ),
        ("submit", "pretrain_and_probe", {"accelerator": "", "overrides": "launch.backend=trainjob pretrain.seed=1"}),
        ("create", "promote_encoder", {"recipe": "smoke"}),
    ],
)
def test_parts_are_submitted_with_what_the_user_passes(verb: str, name: str, given: dict[str, Any], api: ThreadingHTTPServer) -> None:
    parameters = {"store": "s3://bucket/stablerep", **given}
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in parameters.items()]
    endpoint = f"http://127.0.0.1:{api.server_address[1]}"
    command = [KFP, "--endpoint", endpoint, "run", verb, "-e", "stablerep", "-f", f"pipelines/compiled/{name}.yaml", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=PROJECT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert _submitted(api, name)["runtime_config"]["parameters"] == parameters


def _submitted(api: ThreadingHTTPServer, name: str) -> dict[str, Any]:
    """The one run that the server was given; its pipeline is the committed one, with what it asks of Kubernetes."""
    (run,) = api.received["runs"]  # type: ignore[attr-defined]
    pipeline, platform = yaml.safe_load_all((PROJECT / "pipelines" / "compiled" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert run["pipeline_spec"]["pipeline_spec"] == pipeline
    assert run["pipeline_spec"]["platform_spec"] == platform
    return run
