"""The images: one Dockerfile that old engines build, a lock for each role that agrees with everything else, digests, a small context."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.utils import exclude_paths
from third_party import third_party

from stablerep.stages.roles import ROLES, everything

PROJECT = Path(__file__).resolve().parents[2]
IMAGES = PROJECT / "images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text(encoding="utf-8")
WORKFLOW = PROJECT / ".github" / "workflows" / "images.yaml"
BUILD: dict[str, Any] = runpy.run_path(str(IMAGES / "build.py"))

STARTED_BY_NAME = {"kfp", "gcsfs", "s3fs", "torchvision", "accelerate"}
"""Not imported by name: KFP starts tasks, fsspec opens s3://, timm and diffusers import the others."""
OPTIONAL = frozenset({"stablerep.integrations.feast_store", "stablerep.losses.kernels", "stablerep.models.onnx_runtime"})
"""Used where their libraries are installed: Feast in the role `features`, Triton where torch brings it."""


def _instructions() -> list[str]:
    """The Dockerfile without comments, one instruction a line."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    return [" ".join(line.split()) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def _read_lock(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Distribution -> version and hashes."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for line in text.splitlines():
        if match := re.match(r"([a-z0-9][a-z0-9._-]*)==(\S+)", line):
            found[match[1]] = (match[2], frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", line)))
    return found


LOCKS = {name: _read_lock(IMAGES / f"{name}.lock") for name in (*ROLES, "torch")}
DEVELOPMENT = _read_lock(PROJECT / "requirements" / "dev.lock")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class TestDockerfile:
    @pytest.mark.parametrize("path", sorted(PROJECT.glob("images/**/Dockerfile*")), ids=lambda path: path.name)
    def test_hadolint_finds_nothing(self, path: Path) -> None:
        hadolint = Path(sys.executable).parent / "hadolint"
        done = subprocess.run([hadolint, path], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "")

    def test_an_old_engine_builds_it_without_a_frontend_from_a_registry(self) -> None:
        assert not re.search(r"^#\s*syntax\s*=", DOCKERFILE, re.MULTILINE | re.IGNORECASE)
        assert "<<" not in "".join(_instructions())

    def test_runs_as_65532_and_examines_itself_as_that_user(self) -> None:
        final = _instructions()[max(i for i, line in enumerate(_instructions()) if line.startswith("FROM ")) :]
        assert [line for line in final if line.startswith("USER ")] == ["USER 65532:65532"]
        after = final[final.index("USER 65532:65532") :]
        assert [line for line in after if line.startswith("RUN ")] == ["RUN stablerep doctor"]
        assert 'CMD ["stablerep", "doctor"]' in after
        assert "ENV STABLEREP_ROLE=${ROLE}" in final
        assert not any(line.startswith("ENTRYPOINT") for line in _instructions()), "KFP's DockerRunner would append to it"

    def test_every_role_has_its_packages_and_the_gpu_roles_share_a_layer(self) -> None:
        parents = dict(match.groups()[::-1] for line in _instructions() if (match := re.match(r"FROM (\w+) AS packages-(\w+)", line)))
        assert parents == {name: "torch" if role.has_torch else "base" for name, role in ROLES.items()}

    def test_everything_installed_is_hashed(self) -> None:
        installs = [line for line in _instructions() if "pip install" in line]
        assert len(installs) == 4
        assert [line for line in installs if "--require-hashes" not in line and "--no-index" not in line] == []

    def test_no_base_is_called_latest(self) -> None:
        assert "ARG BASE=python:3.11-slim" in _instructions()
        assert "latest" not in DOCKERFILE


class TestLocks:
    def test_every_role_has_one(self) -> None:
        assert set(BUILD["ROLES"]) == set(ROLES)
        assert {path.stem for path in IMAGES.glob("*.lock")} == {*ROLES, "torch", "images"}

    @pytest.mark.parametrize("name", LOCKS)
    def test_agrees_with_the_development_environment(self, name: str) -> None:
        assert LOCKS[name]
        differs = {each: pin for each, pin in LOCKS[name].items() if DEVELOPMENT.get(each) != pin or not pin[1]}
        assert differs == {}, "run `make lock`"

    @pytest.mark.parametrize("name", LOCKS)
    def test_names_no_host(self, name: str) -> None:
        assert re.findall(r"://|--index-url|--find-links", (IMAGES / f"{name}.lock").read_text(encoding="utf-8")) == []

    @pytest.mark.parametrize("name", ROLES)
    def test_the_shared_layer_fits_every_role_with_torch(self, name: str) -> None:
        shared = {each: LOCKS[name].get(each) for each in LOCKS["torch"]}
        assert (shared == LOCKS["torch"]) == ROLES[name].has_torch
        assert ("torch" in LOCKS[name]) == ROLES[name].has_torch

    @pytest.mark.parametrize("name", ROLES)
    def test_holds_what_the_role_imports(self, name: str) -> None:
        distributions = metadata.packages_distributions()
        missing = [each for each in ROLES[name].packages if not {_normal(d) for d in distributions[each]} & set(LOCKS[name])]
        assert missing == []

    def test_the_reader_sees_versions_and_hashes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.lock"
        path.write_text(f"one==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\ntwo==2\n")
        assert _read_lock(path) == {"one": ("1.0", frozenset({"sha256:" + "0" * 64, "sha256:" + "1" * 64})), "two": ("2", frozenset())}


class TestRoles:
    @pytest.mark.parametrize("name", ROLES)
    def test_names_every_package_that_its_code_imports(self, name: str) -> None:
        imported = third_party(ROLES[name].modules, OPTIONAL - set(ROLES[name].modules))
        missing = {package: where for package, where in imported.items() if package not in ROLES[name].packages}
        assert missing == {}

    @pytest.mark.parametrize("name", ROLES)
    def test_names_no_package_that_nothing_imports(self, name: str) -> None:
        imported = third_party(ROLES[name].modules, OPTIONAL - set(ROLES[name].modules))
        assert set(ROLES[name].packages) - set(imported) <= STARTED_BY_NAME

    def test_together_they_run_every_stage(self) -> None:
        from stablerep.stages import STAGES

        runs = {module.rpartition(".")[2] for module in everything().modules}
        assert set(STAGES) <= runs


class TestDigests:
    def test_every_role_is_named_by_digest_and_without_a_host(self) -> None:
        digests = json.loads((IMAGES / "images.lock").read_text(encoding="utf-8"))
        assert list(digests) == list(BUILD["ROLES"])
        wrong = {role: image for role, image in digests.items() if not re.fullmatch(rf"stablerep/{role}@sha256:[0-9a-f]{{64}}", image)}
        assert wrong == {}
        assert len(set(digests.values())) == len(ROLES)


class TestContext:
    def test_holds_what_is_copied_and_nothing_else(self, tmp_path: Path) -> None:
        wanted = ["LICENSE", "README.md", "images/torch.lock", "images/train.lock", "pyproject.toml", "requirements/dev.lock"]
        wanted += ["requirements/uv.lock", "stablerep/cli.py", "stablerep/groups/embedded/mnist/model_index.json"]
        unwanted = [
            ".git/config",
            ".venv/bin/python",
            "build/run/store/a.tar",
            "tests/test_a.py",
            ".env",
            "images/build.py",
            "images/images.lock",
        ]
        unwanted += [
            "stablerep/__pycache__/cli.cpython-311.pyc",
            "stablerep/stages/__pycache__/a.pyc",
            "stablerep.egg-info/PKG-INFO",
            "docs/a.png",
        ]
        for name in wanted + unwanted:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        lines = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        sent = {name for name in exclude_paths(str(tmp_path), patterns) if (tmp_path / name).is_file()}
        assert sent - {"Dockerfile", ".dockerignore"} == set(wanted)

    def test_everything_copied_is_in_the_repository(self) -> None:
        copied = [line.split()[1:-1] for line in _instructions() if line.startswith("COPY ") and "--from" not in line]
        names = [name.replace("${ROLE}", role) for names in copied for name in names for role in ROLES]
        assert [name for name in names if not (PROJECT / name).exists()] == []
        assert "images/runtime.lock" in names


class TestBuild:
    def _run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp")} | environment
        command = [sys.executable, str(IMAGES / "build.py"), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    @pytest.mark.parametrize("verb", [["build"], ["push", "127.0.0.1:1/none"]], ids=lambda verb: verb[0])
    @pytest.mark.parametrize(
        "environment", [{"PATH": "/nowhere"}, {"DOCKER_HOST": "unix:///nowhere/docker.sock"}], ids=["client", "engine"]
    )
    def test_without_an_engine_it_says_so_in_one_sentence(self, verb: list[str], environment: dict[str, str]) -> None:
        done = self._run(*verb, **environment)
        assert done.returncode == 1
        assert re.fullmatch(r"no Docker engine answers at .*: install and start one.*\n", done.stderr)

    def test_an_unknown_role_is_refused(self) -> None:
        done = self._run("build", "trainer")
        assert done.returncode == 1
        assert "expected roles among runtime, generate, train, launch, serve, features or all, found trainer" in done.stderr

    @pytest.mark.parametrize("word", ["train=sha256:123", "trainer=sha256:" + "0" * 64, "train"])
    def test_a_digest_that_is_none_is_refused(self, word: str) -> None:
        before = (IMAGES / "images.lock").read_bytes()
        done = self._run("record", word)
        assert done.returncode == 1
        assert "expected ROLE=sha256:<64 hexadecimal digits>" in done.stderr
        assert (IMAGES / "images.lock").read_bytes() == before

    def test_builds_and_pushes_as_told_and_keeps_the_other_digests(self, tmp_path: Path) -> None:
        """In a copy of the project, with a client that writes down what it is told and answers as the engine does."""
        (tmp_path / "images").mkdir()
        shutil.copy(IMAGES / "build.py", tmp_path / "images")
        shutil.copy(PROJECT / "pyproject.toml", tmp_path)
        (tmp_path / "images" / "images.lock").write_text(json.dumps({"serve": "stablerep/serve@sha256:" + "a" * 64}))
        client = tmp_path / "bin" / "docker"
        client.parent.mkdir()
        client.write_text(_CLIENT.format(python=sys.executable, log=tmp_path / "log"))
        client.chmod(0o755)
        for words in (["build", "train", "launch", "--base", "slim@x", "--cuda-base", "cuda@y"], ["push", "registry.test/team/", "train"]):
            command = [sys.executable, str(tmp_path / "images" / "build.py"), *words]
            subprocess.run(command, check=True, timeout=60, capture_output=True, env={"PATH": f"{client.parent}:/usr/bin:/bin"})
        told = (tmp_path / "log").read_text().splitlines()
        version = BUILD["version"]()
        train, launch = (next(line for line in told if line.startswith("build") and f"ROLE={role}" in line) for role in ("train", "launch"))
        assert "BASE=cuda@y" in train
        assert f"--tag stablerep/train:{version}" in train
        assert "BASE=slim@x" in launch
        assert f"tag stablerep/train:{version} registry.test/team/stablerep/train:{version}" in told
        assert f"push --quiet registry.test/team/stablerep/train:{version}" in told
        digests = json.loads((tmp_path / "images" / "images.lock").read_text())
        assert digests == {"train": "stablerep/train@sha256:" + "b" * 64, "serve": "stablerep/serve@sha256:" + "a" * 64}


_CLIENT = """#!{python}
import json
import sys
words = sys.argv[1:]
with open("{log}", "a") as log:
    print(*words, file=log)
if words[:2] == ["image", "inspect"]:
    names = ["other/train@sha256:" + "c" * 64, "registry.test/team/stablerep/train@sha256:" + "b" * 64]
    print(12 if "Size" in words[3] else json.dumps(names))
elif words[0] == "version":
    print("20.10.24")
"""


class TestWorkflow:
    def _workflow(self) -> dict[Any, Any]:
        return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))

    def _steps(self) -> list[dict[str, Any]]:
        return [step for job in self._workflow()["jobs"].values() for step in job["steps"]]

    def test_runs_for_tags_and_by_hand_only(self) -> None:
        assert self._workflow()[True] == {"push": {"tags": ["v*"]}, "workflow_dispatch": None}  # YAML 1.1 reads `on` as true

    def test_every_action_is_pinned_by_commit(self) -> None:
        used = [step["uses"] for step in self._steps() if "uses" in step]
        assert len(used) >= 8
        assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)] == []

    def test_builds_every_role_with_bill_of_materials_and_provenance(self) -> None:
        job = self._workflow()["jobs"]["build"]
        assert set(job["strategy"]["matrix"]["role"]) == set(ROLES)
        build = next(step["with"] for step in job["steps"] if step.get("id") == "build")
        assert (build["sbom"], build["provenance"], build["file"]) == (True, "mode=max", "images/Dockerfile")

    def test_signs_only_what_was_scanned(self) -> None:
        names = [step.get("uses", step.get("run", "")) for step in self._workflow()["jobs"]["build"]["steps"]]
        scan = next(i for i, name in enumerate(names) if "trivy-action" in name)
        sign = next(i for i, name in enumerate(names) if "cosign sign" in name)
        settings = next(step["with"] for step in self._steps() if "trivy-action" in step.get("uses", ""))
        assert scan < sign
        assert (settings["severity"], settings["exit-code"]) == ("CRITICAL", "1")

    def test_rights_are_given_job_by_job(self) -> None:
        workflow = self._workflow()
        assert workflow["permissions"] == {}
        assert {name: job.get("permissions", {}) for name, job in workflow["jobs"].items()} == {
            "base": {},
            "build": {"contents": "read", "packages": "write", "id-token": "write"},
            "lock": {"contents": "read"},
        }
