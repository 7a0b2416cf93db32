"""preflight on a machine without a cluster: what is looked at where, the tables, the class of the error."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stablerep.cli import main
from stablerep.config import load_recipe
from stablerep.errors import CaptionError, ConfigError, PortInUseError, StoreError
from stablerep.stages import STAGES, preflight, preflight_local
from stablerep.stages.preflight_local import check_here
from stablerep.stages.preflight_needs import Scope
from stablerep.stages.preflight_table import Check, judged, markdown, plain, unknown
from stablerep.store import Store


def _checks(store: str, overrides: str = "", *, is_pod: bool = False, stages: tuple[str, ...] = STAGES) -> dict[str, Check]:
    scope = Scope(load_recipe("smoke", overrides), Store(store), is_pod, frozenset(stages))
    return {check.name: check for check in check_here(scope)}


def test_every_failure_is_listed_with_its_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, table = (tmp_path / "store").as_uri(), tmp_path / "table.md"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        overrides = f"captions.source={tmp_path}/none.csv deploy.port={port}"
        with pytest.raises(CaptionError, match=r"^preflight: 2 failed: captions, endpoint ports$"):
            preflight.run("smoke", overrides, store, table_path=str(table))
        with pytest.raises(PortInUseError, match=r"^preflight: 1 failed: endpoint ports$"):
            preflight.run("smoke", f"deploy.port={port}", store)
    assert "| **failed** | captions |" in table.read_text(encoding="utf-8")
    assert "| ok | store |" in table.read_text(encoding="utf-8")
    printed = capsys.readouterr().err
    assert "FAILED       captions" in printed
    assert f"taken: {port}" in printed
    assert "-> set deploy.port" in printed
    lines = map(json.loads, Store(store).read_text("telemetry/preflight.jsonl").splitlines())
    counted = [line["labels"]["error"] for line in lines if line["metric"] == "stablerep_stage_failures_total"]
    assert counted == ["CaptionError", "PortInUseError"]


def test_a_sound_machine_passes(store: Store) -> None:
    result = preflight.run("smoke", "", store.uri)
    expected = "Python, packages, torchrun, store, free space, captions, endpoint ports"
    assert ", ".join(check.name for check in result.checks) == expected
    assert all(check.state == "ok" for check in result.checks)


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in place of a folder", encoding="utf-8")
    check = _checks(str(tmp_path / "file"))["store"]
    assert check.state == "failed"
    assert "cannot write" in check.found


def test_a_store_that_cannot_be_written_raises_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in place of a folder", encoding="utf-8")
    with pytest.raises(StoreError, match="preflight: 1 failed: store"):
        preflight._raise_first(list(_checks(str(tmp_path / "file")).values()))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.mark.parametrize(("keys", "found"), [(KEYS, "Could not connect to the endpoint URL"), ({}, "Unable to locate credentials")])
def test_an_object_store_out_of_reach_is_a_row_with_its_remedy_and_soon(keys: dict[str, str], found: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "500", "AWS_EC2_METADATA_DISABLED": "true", **keys}
    environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{_free_port()}"
    words = ["--recipe", "smoke", "--store", "s3://bucket/prefix", "--set", f"captions.source={tmp_path}/none.csv"]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "stablerep.cli", "preflight", *words], env=environment, capture_output=True, text=True, timeout=60
    )
    seconds = time.monotonic() - started
    assert done.returncode == StoreError.exit_code
    assert done.stdout == ""
    assert re.search(rf"^FAILED +store +cannot write s3://bucket/prefix/.*{found}", done.stderr, re.MULTILINE)
    assert re.search(r"^ +-> pass a store that .*AWS_ENDPOINT_URL.*AWS_ACCESS_KEY_ID", done.stderr, re.MULTILINE)
    assert re.search(r"^FAILED +captions ", done.stderr, re.MULTILINE)
    assert done.stderr.splitlines()[-1] == "StoreError: preflight: 2 failed: store, captions"
    assert done.stderr.count(found) == 1
    assert "Traceback" not in done.stderr
    assert seconds < 12, "botocore alone tries for up to 15 s"


def test_a_store_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_local, "_STORE_SECONDS", 0.05)
    is_over = threading.Event()
    monkeypatch.setattr(Store, "write", lambda *_: is_over.wait(30))
    check = _checks("memory://silent")["store"]
    is_over.set()
    assert (check.state, check.found) == ("failed", "memory://silent did not answer within 0.05 s")
    assert check.remedy == "pass a store that this account may write, read and delete in"


def test_pods_cannot_use_a_folder_of_this_machine(tmp_path: Path) -> None:
    for check in (_checks(tmp_path.as_uri(), "deploy.backend=blue_green"), _checks(tmp_path.as_uri(), is_pod=True)):
        assert check["store"].state == "failed"
        assert "a folder of this machine, which the pods of a cluster do not see" in check["store"].found
    assert _checks(tmp_path.as_uri(), "deploy.backend=blue_green", stages=("pretrain",))["store"].state == "ok"


def test_in_a_pod_only_what_matters_there_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_local, "_PACKAGES", ("torch", "a_package_nobody_has"))
    here, pod = _checks("memory://here"), _checks("memory://pod", is_pod=True)
    assert here["packages"].state == "failed"
    assert "a_package_nobody_has" in here["packages"].found
    assert pod["packages"].state == "not checked"
    assert {"torchrun", "endpoint ports", "free space"} & set(pod) == set()
    assert pod["store"].state == "ok"
    trained_elsewhere = _checks("memory://laptop", "launch.backend=trainjob")
    assert trained_elsewhere["packages"].state == "not checked"
    assert "torchrun" not in trained_elsewhere
    assert "endpoint ports" in trained_elsewhere
    assert "endpoint ports" not in _checks("memory://laptop", "deploy.backend=blue_green")


def test_what_other_stages_need_is_not_looked_at() -> None:
    assert {"captions", "endpoint ports", "torchrun"} & set(_checks("memory://a", stages=("export", "probe"))) == set()
    assert "torchrun" in _checks("memory://b", stages=("pretrain",))
    assert "captions" in _checks("memory://c", stages=("prepare",))


def test_a_stage_that_does_not_exist_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"expected some of preflight, prepare.*, found trian"):
        preflight.run("smoke", "", store.uri, stages="trian probe")


def test_the_command_prints_the_record_and_shows_the_table(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "--recipe", "smoke", "--store", store.uri, "--stages", "export probe"]) == 0
    printed = capsys.readouterr()
    assert [check["name"] for check in json.loads(printed.out)["checks"]] == ["Python", "packages", "store", "free space"]
    assert printed.err.splitlines()[-1] == "4 ok"


TABLE = (
    judged("store", True, "s3://bucket written", "never shown"),
    judged("quota", False, "of 8 requests.nvidia.com/gpu, 8 are held", "ask for a larger quota"),
    unknown("nodes", "not allowed to look"),
)


def test_the_plain_table_is_aligned_and_wrapped() -> None:
    assert plain(TABLE, 60) == "\n".join(
        [
            "ok           store  s3://bucket written",
            "FAILED       quota  of 8 requests.nvidia.com/gpu, 8 are held",
            "                    -> ask for a larger quota",
            "not checked  nodes  not allowed to look",
            "1 ok, 1 failed, 1 not checked",
        ]
    )
    long = plain([judged("store", False, "word " * 40, "remedy " * 20)], 60)
    assert all(len(line) <= 60 for line in long.splitlines())
    assert all(line.startswith("                    ") for line in long.splitlines()[1:-1])


def test_markdown_keeps_its_columns() -> None:
    rows = markdown([*TABLE, judged("a", True, "one | two\nthree", "")]).splitlines()
    assert rows[4] == "| ok | store | s3://bucket written |  |"
    assert rows[5] == "| **failed** | quota | of 8 requests.nvidia.com/gpu, 8 are held | ask for a larger quota |"
    assert rows[6] == "| not checked | nodes | not allowed to look |  |"
    assert rows[7] == "| ok | a | one \\| two three |  |"


def test_in_an_image_of_one_role_packages_of_other_stages_are_not_missing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_local, "_PACKAGES", ("torch", "a_package_nobody_has"))
    assert _checks(store.uri)["packages"].state == "failed"
    monkeypatch.setenv("STABLEREP_ROLE", "runtime")
    checks = _checks(store.uri)
    assert checks["packages"].state == "not checked"
    assert "torchrun" not in checks
