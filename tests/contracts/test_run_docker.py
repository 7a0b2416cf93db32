"""`make run-docker`: which image a task gets, how its container is shut in, what is said where no engine answers."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def _options(*words: str):  # type: ignore[no-untyped-def]
    from pipelines.run_local import argument_parser

    parser = argument_parser("make run-docker", "what", recipe="smoke", root="build/docker")
    parser.add_argument("--network", default="")
    return parser.parse_args(words)


def test_without_an_engine_one_sentence_and_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.run_docker import main

    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert main(["--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"no Docker engine answers at unix://{tmp_path}/nobody.sock: ")
    assert said.count("\n") == 1


def test_every_stage_has_a_local_image() -> None:
    from pipelines.on_this_machine import adapted
    from pipelines.run_docker import image_of, tag
    from pipelines.stablerep import stablerep
    from stablerep.stages import STAGES

    given = adapted(stablerep, {"HOME": "/tmp"}, image_of).pipeline_spec
    executors = dict(given.deployment_spec["executors"].items())
    found = {label.removeprefix("exec-"): executor["container"]["image"] for label, executor in executors.items()}
    assert set(found) == set(STAGES)
    assert found["generate"] == tag("generate")
    assert found["pretrain"] == found["probe"] == tag("train")
    assert found["deploy"] == found["verify"] == tag("serve")
    assert all(re.fullmatch(r"stablerep/[a-z]+:\d+\.\d+\.\d+", image) for image in found.values())


def test_containers_are_shut_in(tmp_path: Path) -> None:
    from kfp import local

    from pipelines.run_docker import container_arguments

    given = container_arguments(_options("--root", str(tmp_path)), (1000, 1001))
    assert local.DockerRunner(**given).container_run_args == given, "DockerRunner knows all of them"
    assert given["user"] == "1000:1001"
    assert (given["read_only"], given["cap_drop"], given["security_opt"]) == (True, ["ALL"], ["no-new-privileges"])
    assert set(given["tmpfs"]) == {"/tmp"}
    assert given["network_mode"] == "none"
    assert [(mount["Source"], mount["Target"], mount["Type"]) for mount in given["mounts"]] == [
        (str(tmp_path / "store"), str(tmp_path / "store"), "bind")
    ]


def test_an_object_store_needs_a_network_and_no_mount() -> None:
    from pipelines.run_docker import container_arguments

    given = container_arguments(_options("--store", "s3://bucket/prefix"), (1000, 1001))
    assert (given["network_mode"], given["mounts"]) == ("bridge", [])


def test_nothing_but_images_environment_and_retries_is_changed() -> None:
    from google.protobuf import json_format

    from pipelines.on_this_machine import MAX_RETRIES, adapted
    from pipelines.stablerep import stablerep

    compiled = json_format.MessageToDict(stablerep.pipeline_spec)
    changed = json_format.MessageToDict(adapted(stablerep, {"HOME": "/tmp"}).pipeline_spec)
    assert changed["deploymentSpec"]["executors"]["exec-generate"]["container"]["env"] == [{"name": "HOME", "value": "/tmp"}]
    retries = {}
    for specification in (compiled, changed):
        for executor in specification["deploymentSpec"]["executors"].values():
            executor["container"].pop("env", None)
            executor["container"].pop("resources", None)
        for component in specification["components"].values():
            for name, task in component.get("dag", {}).get("tasks", {}).items():
                if policy := task.pop("retryPolicy", None):
                    retries.setdefault(name, []).append(policy["maxRetryCount"])
    assert changed == compiled
    assert retries == {"generate": [20, MAX_RETRIES], "pretrain": [3, MAX_RETRIES]}
