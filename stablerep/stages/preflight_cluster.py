"""Checks of a cluster: the API server and its version, kinds, named objects, rights, then room and, when asked for, a probe pod.

What is needed is said in preflight_needs. Nothing is changed in the cluster but by the probe pod. What these credentials may not look at
is not checked, and the table says so; where no API server answers, nothing behind it is checked.
"""

import re
from collections.abc import Callable

from stablerep.cluster import ClusterApi
from stablerep.errors import ClusterError, StablerepError
from stablerep.stages.preflight_condition import problem_of
from stablerep.stages.preflight_needs import INSTALL, ApiGroup, Named, Right, Scope, api_groups, in_version, objects, probe_rights, rights
from stablerep.stages.preflight_probe import check_probe_pod
from stablerep.stages.preflight_prometheus import check_prometheus
from stablerep.stages.preflight_queue import check_task_queue
from stablerep.stages.preflight_room import check_nodes, check_quota
from stablerep.stages.preflight_runtime import check_runtime
from stablerep.stages.preflight_table import Check, judged, looked, unknown

API_SERVER = "Kubernetes API server"
MIN_VERSION = (1, 32)  # as manifests/README.md says


def check_cluster(scope: Scope, connect: Callable[[], ClusterApi], *, has_probe_pod: bool = False, image: str = "") -> list[Check]:
    """Every check of the cluster that matters to what will run.

    Args:
        scope: what will run.
        connect: opens the API server with the credentials that are here.
        has_probe_pod: whether a pod may be started.
        image: of that pod: the training image.
    """
    remedy = "run inside the cluster or with a kubeconfig (KUBECONFIG) whose server answers `kubectl version`"
    try:
        api = connect()
        version = api.server_version()
    except StablerepError as error:
        if not (scope.trains or scope.serves or has_probe_pod):
            return [unknown(API_SERVER, f"{error}; nothing is asked of it")]
        return [judged(API_SERVER, False, str(error), remedy), unknown("cluster", "the API server was not reached")]
    checks = [_version(version)]
    checks += [_group(api, wanted) for wanted in api_groups(scope)]
    checks += [_object(api, wanted) for wanted in objects(scope, api.namespace)]
    checks += check_task_queue(api, scope)
    checks += [_right(api, wanted) for wanted in rights(scope, api.namespace)]
    if scope.trains:
        checks += check_runtime(api, scope)
        checks += [check_quota(api, scope), check_nodes(api, scope, version)]
    if scope.serves and scope.recipe.deploy.has_steps:
        checks.append(check_prometheus(scope.recipe.deploy.prometheus_url))
    if has_probe_pod:
        missing = [check for wanted in probe_rights(scope, api.namespace) if not (check := _right(api, wanted)).is_ok]
        checks += missing or check_probe_pod(api, scope.recipe.launch, image)
    return checks


def _version(version: str) -> Check:
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    is_new = numbers is not None and (int(numbers[1]), int(numbers[2])) >= MIN_VERSION
    wanted = ".".join(map(str, MIN_VERSION))
    return judged(API_SERVER, is_new, version, f"upgrade the cluster: the product is written for Kubernetes {wanted} and later")


def _group(api: ClusterApi, wanted: ApiGroup) -> Check:
    name = f"API {wanted.group}"
    remedy = f"install {wanted.product} in a release that serves {wanted.version} ({INSTALL})"

    def look() -> Check:
        served = api.served_versions(wanted.group)
        found = f"serves {', '.join(served)}" if served else f"not installed ({wanted.product})"
        return judged(name, wanted.version in served, f"{found}; {wanted.version} is used", remedy)

    return looked(name, look, remedy)


def _object(api: ClusterApi, wanted: Named) -> Check:
    name = f"{wanted.kind.kind} {wanted.name}"
    place = f"in namespace {wanted.namespace}" if wanted.namespace else "in the cluster"

    def look() -> Check:
        kind = in_version(wanted.kind, api.served_versions(wanted.kind.group)) if wanted.kind.group else wanted.kind
        if wanted.is_optional and not api.is_allowed("get", kind, wanted.namespace):
            return unknown(name, f"these credentials may not read it {place}, nor need they", wanted.remedy)
        found = api.get(kind, wanted.name, wanted.namespace)
        if found is None and wanted.is_optional:
            return unknown(name, f"none {place}", wanted.remedy)
        if found is None:
            return judged(name, False, f"none {place}", wanted.remedy)
        problem, remedy = problem_of(kind, found)
        return judged(name, not problem, problem or f"there {place}", remedy)

    return looked(name, look, wanted.remedy)


def _right(api: ClusterApi, wanted: Right) -> Check:
    what = f"{wanted.kind.plural}/{wanted.subresource}" if wanted.subresource else wanted.kind.plural
    what = f"{what}.{wanted.kind.group}" if wanted.kind.group else what
    name = f"may {'/'.join(wanted.verbs)} {what}" if len(wanted.verbs) == 1 else f"rights on {what}"
    remedy = (
        f"bind Role {wanted.role} of namespace {wanted.namespace} to the account that runs this (manifests/base)"
        if wanted.role
        else "run it as somebody who may start pods, as with `kubectl run`; pipelines are not given that right"
    )
    try:
        missing = [v for v in wanted.verbs if not api.is_allowed(v, wanted.kind, wanted.namespace, subresource=wanted.subresource)]
    except ClusterError as error:
        return judged(name, False, str(error), remedy)
    granted = f"{', '.join(wanted.verbs)} ({wanted.role or 'given'})"
    found = f"missing in namespace {wanted.namespace}: {', '.join(missing)}" if missing else granted
    return judged(name, not missing, found, remedy)
