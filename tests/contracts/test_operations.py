"""docs/operations.md names only what exists: make targets, files, pipelines and their parameters, verbs, settings, accounts, exit codes."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stablerep import errors
from stablerep.cli import _parser
from stablerep.config import RECIPES, load_recipe
from stablerep.config.codec import parse_overrides

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
ROLES_WITHOUT_MANIFEST = {"stablerep-canary", "stablerep-blue", "stablerep-green", "stablerep-traffic"}  # made by the rollout


def _commands() -> list[list[str]]:
    """Words of every command of the document's shell blocks, one list a program."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", TEXT, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found: list[list[str]] = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("&|;"):
                found.append(words)
                words = []
            else:
                words.append(word)
        found.append(words)
    return [words for words in found if words]


COMMANDS = _commands()


def _starting(*program: str) -> list[list[str]]:
    return [words for words in COMMANDS if tuple(words[: len(program)]) == program]


def _inline(pattern: str) -> list[str]:
    return [found for code in re.findall(r"`([^`\n]+)`", TEXT) for found in re.findall(pattern, code)]


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_make_targets_exist() -> None:
    named = {words[1] for words in _starting("make")} | set(_inline(r"^make ([a-z-]+)"))
    assert len(named) >= 4
    assert named - _targets() == set()


def _paths() -> Iterator[str]:
    folders = r"(?:manifests|pipelines|images|docs|stablerep|tests)/[\w./-]+"
    for words in COMMANDS:
        for word in words:
            yield from re.findall(rf"^(?:\./)?({folders})$", word)
    yield from _inline(rf"(?:^|\s)({folders})(?:$|\s)")


@pytest.mark.parametrize("path", sorted(set(_paths())))
def test_files_exist(path: str) -> None:
    if path.startswith("stablerep/") and "." not in Path(path).name:
        return  # an image
    assert (PROJECT / path).exists()


def test_kustomizations_can_be_applied() -> None:
    folders = [words[words.index("-k") + 1] for words in _starting("kubectl") if "-k" in words]
    assert len(folders) >= 4
    assert [folder for folder in folders if not (PROJECT / folder / "kustomization.yaml").exists()] == []


def _inputs(pipeline: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((PROJECT / "pipelines" / "compiled" / f"{pipeline}.yaml").read_text(encoding="utf-8"))
    return next(documents)["root"]["inputDefinitions"]["parameters"]


def _runs() -> list[tuple[str, dict[str, str]]]:
    words = [words for words in _starting("kfp") if words[3:5] == ["run", "create"]]
    return [
        (Path(line[line.index("-f") + 1]).stem, dict(word.split("=", 1) for word in line[line.index("-f") + 2 :] if "=" in word))
        for line in words
    ]


@pytest.mark.parametrize(("pipeline", "parameters"), _runs())
def test_runs_pass_parameters_that_the_pipeline_takes(pipeline: str, parameters: dict[str, str]) -> None:
    known = _inputs(pipeline)
    assert set(parameters) - set(known) == set()
    assert {name for name, about in known.items() if not about.get("isOptional")} - set(parameters) == set()
    assert parameters["recipe"] in RECIPES
    load_recipe(parameters["recipe"], parameters.get("overrides", ""))


def test_the_table_of_pipelines_is_whole() -> None:
    run = TEXT[TEXT.index("\n## Run") : TEXT.index("\n## Watch")]
    rows = {
        match[1]: set(re.findall(r"`(\w+)`", match[2])) for match in re.finditer(r"^\| `(\w+)` \| [^|]+ \|([^|]+)\|$", run, re.MULTILINE)
    }
    compiled = {path.stem for path in (PROJECT / "pipelines" / "compiled").glob("*.yaml")}
    assert rows == {name: set(_inputs(name)) - {"store", "recipe", "overrides"} for name in compiled}


@pytest.mark.parametrize("words", _starting(".venv/bin/stablerep"), ids=" ".join)
def test_verbs_and_options_are_those_of_the_command(words: list[str]) -> None:
    options = _parser().parse_args(words[1:])
    assert isinstance(options, argparse.Namespace)
    load_recipe(options.recipe, shlex.join(options.set))


def _settings() -> set[str]:
    sections = "captions|generator|generate|pretrain|launch|probe|gate|deploy"
    return set(re.findall(rf"(?<![\w./-])((?:{sections})\.[a-z_0-9]+)\b", TEXT.replace(".json", "")))


def test_settings_exist() -> None:
    sections = {name: values for name, values in vars(load_recipe("smoke")).items() if hasattr(values, "__dict__")}
    known = {f"{section}.{key}" for section, values in sections.items() for key in vars(values)} | {"generate.preset"}  # short for others
    assert len(_settings()) > 20
    assert _settings() - known == set()


def test_words_of_the_cluster_are_valid() -> None:
    (line,) = re.findall(r"^# (launch\.backend=.*) \.\.\.$", TEXT, flags=re.MULTILINE)
    load_recipe("smoke", cluster=line)
    assert parse_overrides(line)


def _manifests() -> list[dict[str, Any]]:
    paths = [path for path in (PROJECT / "manifests").rglob("*.yaml") if "patch" not in path.name]
    documents = [document for path in sorted(paths) for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [document for document in documents if isinstance(document, dict) and "metadata" in document]


def test_names_of_objects_exist() -> None:
    known = {document["metadata"].get("name", "") for document in _manifests()}
    named = set(_inline(r"\b(stablerep-[a-z-]+)\b")) - ROLES_WITHOUT_MANIFEST
    assert {"stablerep-launch", "stablerep-cluster", "stablerep-preflight"} <= named
    assert named - known == set()


def test_config_map_keys_exist() -> None:
    maps = {document["metadata"]["name"]: document["data"] for document in _manifests() if document.get("kind") == "ConfigMap"}
    assert "cluster" in maps["stablerep-cluster"]
    keys = {example["metadata"]["name"]: set(example["stringData"]) for example in _secrets()}
    made: dict[str, set[str]] = {}
    for words in COMMANDS:
        if words[3:6] == ["create", "secret", "generic"]:
            made.setdefault(words[6], set()).update(word.split("=")[1] for word in words if word.startswith("--from-file="))
    assert made == keys


def test_annotations_of_the_secret_are_those_of_the_example() -> None:
    """KServe's initializer asks AWS without them."""
    (example,) = (each for each in _secrets() if each["metadata"]["name"] == "stablerep-store")
    (words,) = [words for words in _starting("kubectl", "-n", "stablerep") if words[3:6] == ["annotate", "secret", "stablerep-store"]]
    assert dict(word.split("=", 1) for word in words[6:]) == example["metadata"]["annotations"]


def _secrets() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((PROJECT / "manifests" / "base" / "secret.example.yaml").read_text(encoding="utf-8")))


def test_one_release_of_kubernetes_is_the_oldest() -> None:
    from manifests.render import KUBERNETES_VERSIONS
    from stablerep.stages.preflight_cluster import MIN_VERSION

    oldest = ".".join(map(str, MIN_VERSION))
    (said,) = re.findall(r"^\| Kubernetes \| ([\d.]+) and later", TEXT, flags=re.MULTILINE)
    (read_me,) = re.findall(r"Kubernetes ([\d.]+) and newer", (PROJECT / "manifests" / "README.md").read_text(encoding="utf-8"))
    assert said == read_me == oldest
    assert KUBERNETES_VERSIONS[0].startswith(f"{oldest}.")


def test_removing_names_everything_that_installing_applies() -> None:
    folders = {
        verb: {words[-1 - ("--ignore-not-found" in words)] for words in _starting("kubectl", verb, "-k")} for verb in ("apply", "delete")
    }
    applied = folders["apply"] | set(re.findall(r"`kubectl apply -k (manifests/single-user/gpu)`", TEXT))
    assert len(applied) == 3
    assert folders["delete"] == applied | {"manifests/overlays/kubeflow"}
    deletes = [words for words in _starting("kubectl", "-n") if words[3] == "delete" and "-l" in words]
    assert {words[4] for words in deletes} == {"trainjobs", "jobs.batch.volcano.sh", "httproutes", "inferenceservices", "services"}
    assert all("--ignore-not-found" in words for words in [*deletes, *_starting("kubectl", "delete", "-k")])


def test_exit_codes_are_those_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+)", TEXT, flags=re.MULTILINE)
    named = {name: int(code) for code, name in rows if isinstance(getattr(errors, name, None), type)}
    assert {"ConfigError", "GateError", "Preempted"} <= set(named)
    assert named == {name: getattr(errors, name).exit_code for name in named}


def test_links_lead_to_headings() -> None:
    headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([\w-]+)\)", TEXT))
    assert links
    assert links - headings == set()


ESTIMATES = [
    (10e6, 82.8, 1.0, 291),
    (10e6, 82.8, 0.3, 970),
    (4e6, 34.7, 1.0, 49),
    (4e6, 34.7, 0.3, 163),
    (900e6, 0.1054, 1.0, 33),
    (900e6, 0.1054, 0.45, 74),
]


@pytest.mark.parametrize(("images", "teraflop", "share", "hours"), ESTIMATES)
def test_the_arithmetic_of_the_estimates(images: float, teraflop: float, share: float, hours: int) -> None:
    assert round(images * teraflop / (share * 790 * 3600)) == hours
    assert re.search(rf"\b{hours}\b", TEXT)
