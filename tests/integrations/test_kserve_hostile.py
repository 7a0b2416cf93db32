"""The server exactly as the ServingRuntime of manifests/ starts it: its probes, its OpenAPI, requests that mean harm, and its end."""

import base64
import http.client
import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import schemathesis
import yaml
from encoder_server import Server, start, wait_ready
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from tiny_encoder import picture, write_encoder

PROJECT = Path(__file__).resolve().parents[2]
RUNTIME = yaml.safe_load((PROJECT / "manifests/runtimes/serving-runtime.yaml").read_text())["spec"]["containers"][0]
NUM_HOSTILE = 150


def runtime_options() -> list[str]:
    """Arguments of the runtime, but for what a test has elsewhere: folder, address and ports, which `start` gives."""
    values = dict(argument.split("=", 1) for argument in RUNTIME["args"])
    assert values.pop("--folder") == "/mnt/models"
    assert (values.pop("--host"), values.pop("--port"), values.pop("--grpc-port")) == ("0.0.0.0", "8080", "8081")
    assert values.pop("--name") == "{{.Name}}"
    return [word for pair in values.items() for word in pair]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("exported")
    model_id = write_encoder(folder, seed=1)
    assert RUNTIME["command"] == ["python", "-m", "stablerep.integrations.kserve_server"]
    options = [*runtime_options(), "--log-requests", "--max-body-seconds", "2"]
    started = start(folder, model_id, tmp_path_factory.mktemp("log") / "server.log", *options)
    try:
        wait_ready(started)
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def test_what_the_runtime_s_probes_ask_is_answered(server: Server) -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        with server.client() as client:
            assert client.request("GET", RUNTIME[probe]["httpGet"]["path"]).status == 200


def test_the_runtime_s_arguments_and_those_of_an_inference_service_are_understood() -> None:
    from stablerep.integrations.kserve_manifest import EncoderService, _arguments
    from stablerep.integrations.kserve_server import _parser

    appended = _arguments(EncoderService("digits", "serving"))
    options = _parser().parse_args([argument.replace("{{.Name}}", "runtime") for argument in [*RUNTIME["args"], *appended]])
    assert (options.name, options.host, options.port, options.grpc_port, options.folder) == ("digits", "0.0.0.0", 8080, 8081, "/mnt/models")
    assert [port["containerPort"] for port in RUNTIME["ports"]] == [options.port, options.grpc_port]


@pytest.mark.parametrize(
    ("path", "method"), [("/v1/embeddings", "POST"), ("/v2/models/{model_name}/infer", "POST"), ("/v2/models/{model_name}", "GET")]
)
def test_the_routes_keep_their_openapi(server: Server, path: str, method: str) -> None:
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")[path][method]
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

    @given(case=operation.as_strategy())
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    def ask(case: schemathesis.Case) -> None:
        if case.path_parameters:
            case.path_parameters["model_name"] = "stablerep"
        case.call_and_validate(checks=checks, timeout=120)

    ask()


LINES = re.findall(r"```bash\n(.*?)```", (PROJECT / "docs/endpoint.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_the_lines_of_the_documentation_are_answered(server: Server, line: str) -> None:
    command = line.replace("localhost:8080", f"127.0.0.1:{server.port}").replace("curl -s", "curl -sf")
    done = subprocess.run(["bash", "-c", command], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert server.model_id in (answer.get("model_id"), answer.get("model_version"), *answer.get("versions", ()))


def hostile() -> ModuleType:
    """benchmarks/hostile.py, which `make bench-endpoint` sends 10,000 requests of."""
    specification = importlib.util.spec_from_file_location("hostile", PROJECT / "benchmarks/hostile.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["hostile"] = module
    specification.loader.exec_module(module)
    return module


def test_hostile_requests_are_refused_and_leave_the_server_alive(server: Server) -> None:
    statuses = hostile().attack(server.port, NUM_HOSTILE, seed=7, threads=4)
    assert sum(statuses.values()) == NUM_HOSTILE
    assert statuses["400"] > NUM_HOSTILE / 4
    bad = {status: count for status, count in statuses.items() if status == "hung" or (status.startswith("5") and status != "503")}
    assert bad == {}, server.log.read_text()[-2000:]
    with server.client() as client:
        assert client.predict([picture(0)]).status == 200


def test_no_accepted_request_is_lost_when_the_server_is_told_to_end_under_load(server: Server) -> None:
    """The last test of this server."""
    body = json.dumps({"instances": [{"b64": base64.b64encode(picture(0)).decode()}]})
    before = server.log.read_text().count('"protocol": "v1"')
    answered: list[int] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        try:
            while True:
                connection.request("POST", "/v1/models/stablerep:predict", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                answered.append(response.status)
        except (OSError, http.client.HTTPException):  # it was told to end
            pass
        finally:
            connection.close()

    callers = [threading.Thread(target=ask) for _ in range(8)]
    for caller in callers:
        caller.start()
    deadline = time.monotonic() + 120
    while len(answered) < 40:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert server.stop() == 0
    for caller in callers:
        caller.join()
    accepted = server.log.read_text().count('"protocol": "v1"') - before
    assert set(answered) == {200}
    assert len(answered) == accepted
