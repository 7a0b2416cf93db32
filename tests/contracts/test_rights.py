"""Least privilege, from three sides: what the code asks of an API server, what preflight checks, what the Roles of manifests/ give."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

import stablerep.cluster
from stablerep.cluster import CONFIG_MAP, GATEWAY, POD, RESOURCE_QUOTA, SECRET, TRAIN_JOB, VOLCANO_JOB, Kind
from stablerep.config import load_recipe
from stablerep.stages import STAGES
from stablerep.stages.preflight_needs import DEPLOY_ROLE, LAUNCH_ROLE, Right, Scope, objects, rights
from stablerep.store import Store

PROJECT = Path(__file__).parents[2]
VERBS = {
    "get": ("get",),
    "find": ("list",),
    "watch": ("list", "watch"),
    "create": ("create",),
    "patch": ("patch",),
    "apply": ("patch", "create"),
    "delete": ("delete",),
    "log_lines": ("get",),
}
FOLDERS = {LAUNCH_ROLE: "launch", DEPLOY_ROLE: "endpoint"}
WORDS = [
    "launch.backend=trainjob launch.queue=stablerep deploy.backend=blue_green",
    "launch.backend=volcano deploy.backend=standard_canary deploy.gateway=a/b deploy.canary_percents=[]",
    "launch.backend=trainjob deploy.backend=knative_canary deploy.canary_percents=[]",
]
Use = tuple[str, str]  # group/plural or plural/subresource, verb


def _scope(words: str) -> Scope:
    return Scope(load_recipe("smoke", words), Store("memory://rights"), True, frozenset(STAGES))


def _resource(kind: Kind, subresource: str = "") -> str:
    return f"{kind.group}/{kind.plural}" + (f"/{subresource}" if subresource else "")


def _asked(role: str) -> set[Use]:
    found = [right for words in WORDS for right in rights(_scope(words), "stablerep") if right.role == role]
    return {(_resource(right.kind, right.subresource), verb) for right in found for verb in right.verbs}


def _used(folder: str) -> set[Use]:
    """Verbs that the code of a package calls on a ClusterApi (`api.`, `self._api.`), by kind; a kind that is no constant is a job's."""
    used: set[Use] = set()
    for path in sorted((PROJECT / "stablerep" / folder).glob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)):
            function = call.func
            if not isinstance(function, ast.Attribute) or function.attr not in VERBS:
                continue
            owner = function.value
            if (owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")).lstrip("_") != "api":
                continue
            used |= {(resource, verb) for resource in _resources(function.attr, call) for verb in VERBS[function.attr]}
    return used


def _resources(method: str, call: ast.Call) -> list[str]:
    if method == "log_lines":
        return [_resource(POD, "log")]
    kind = getattr(stablerep.cluster, getattr(call.args[0], "id", ""), None)
    return [_resource(kind)] if isinstance(kind, Kind) else [_resource(TRAIN_JOB), _resource(VOLCANO_JOB)]


def _documents() -> list[dict[str, Any]]:
    paths = sorted((PROJECT / "manifests" / "base").rglob("*.yaml"))
    return [document for path in paths for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def _given(role: str) -> list[dict[str, Any]]:
    return next(doc["rules"] for doc in _documents() if doc.get("kind") == "Role" and doc["metadata"]["name"] == role)


def _gives(role: str, kind: Kind, verb: str, subresource: str = "", name: str = "") -> bool:
    plural = f"{kind.plural}/{subresource}" if subresource else kind.plural
    return any(
        kind.group in rule["apiGroups"]
        and plural in rule["resources"]
        and verb in rule["verbs"]
        and name in rule.get("resourceNames", [name])
        for rule in _given(role)
    )


@pytest.mark.parametrize("role", FOLDERS)
def test_preflight_asks_for_what_the_code_uses_and_no_more(role: str) -> None:
    assert _asked(role) == _used(FOLDERS[role])


@pytest.mark.parametrize("words", WORDS)
def test_every_right_is_given_by_the_role_that_the_remedy_names(words: str) -> None:
    wanted = rights(_scope(words), "stablerep")
    assert {right.role for right in wanted} == {LAUNCH_ROLE, DEPLOY_ROLE}

    def is_given(right: Right) -> bool:
        return all(_gives(right.role, right.kind, verb, right.subresource) for verb in right.verbs)

    assert [right for right in wanted if not is_given(right)] == []


def test_preflight_may_look_at_what_it_looks_for() -> None:
    """In its namespace, Secrets left out: no Role reaches what is cluster-wide, or a Gateway in a namespace of its own."""
    every = [one for words in WORDS for one in objects(_scope(words), "stablerep")]
    named = [one for one in every if one.kind is not SECRET and one.kind.is_namespaced]
    assert [one for one in named if not _gives("stablerep-preflight", one.kind, "get", name=one.name)] == []
    assert GATEWAY in {one.kind for one in named}
    assert _gives("stablerep-preflight", RESOURCE_QUOTA, "list")
    assert CONFIG_MAP in {one.kind for one in named}


def test_no_role_has_a_wildcard_or_reads_every_secret() -> None:
    rules = [rule for document in _documents() if document.get("kind") == "Role" for rule in document["rules"]]
    assert rules
    assert [rule for rule in rules if "*" in rule["verbs"] + rule["resources"] + rule["apiGroups"]] == []
    assert [rule for rule in rules if "secrets" in rule["resources"] and not rule.get("resourceNames")] == []
