"""What a run asks of a cluster, as plain data: kinds that must be served, objects that must be there, rights that must be given.

Derived from `launch` and `deploy` of the recipe and from the stages that will run; nothing is asked of a server here. The rights are
those that the launcher (stablerep.launch, stablerep.integrations) and the rollout (stablerep.endpoint) use, each with the Role of
manifests/ that gives it.
"""

from dataclasses import dataclass, replace

from stablerep.cluster import (
    CONFIG_MAP,
    EVENT,
    GATEWAY,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    JOB_SET,
    LOCAL_QUEUE,
    POD,
    PRIORITY_CLASS,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    SERVING_RUNTIME,
    TRAIN_JOB,
    TRAINING_RUNTIME,
    VOLCANO_JOB,
    VOLCANO_QUEUE,
    WORKLOAD_PRIORITY_CLASS,
    Kind,
)
from stablerep.config import Recipe
from stablerep.config.schema import LaunchConfig
from stablerep.store import Store

LAUNCH_ROLE, DEPLOY_ROLE = "stablerep-launch", "stablerep-deploy"
INSTALL = "docs/operations.md, Install"


@dataclass(frozen=True)
class Scope:
    """What is about to run, and from where.

    `trains` and `serves` say whether a cluster's API server is asked to do it: a backend other than local, and a stage of the run.
    """

    recipe: Recipe
    store: Store
    is_pod: bool
    stages: frozenset[str]

    @property
    def trains(self) -> bool:
        """Whether the training job runs on a cluster."""
        return "pretrain" in self.stages and self.recipe.launch.backend != "local"

    @property
    def serves(self) -> bool:
        """Whether the endpoint runs on a cluster."""
        return bool({"deploy", "verify"} & self.stages) and self.recipe.deploy.backend != "local"

    @property
    def is_cluster(self) -> bool:
        """Whether a cluster takes part at all."""
        return self.trains or self.serves or self.is_pod


@dataclass(frozen=True)
class ApiGroup:
    """An API group of which a version must be served; `product` is what brings it."""

    group: str
    version: str
    product: str


@dataclass(frozen=True)
class Named:
    """An object that must be there; `is_optional` where the run can do without."""

    kind: Kind
    name: str
    namespace: str
    remedy: str
    is_optional: bool = False


@dataclass(frozen=True)
class Right:
    """Verbs on a kind that these credentials need in a namespace, and the Role that gives them."""

    role: str
    kind: Kind
    verbs: tuple[str, ...]
    namespace: str
    subresource: str = ""


def api_groups(scope: Scope) -> list[ApiGroup]:
    """What must be installed in the cluster."""
    launch, deploy = scope.recipe.launch, scope.recipe.deploy
    wanted: list[ApiGroup] = []
    if scope.trains and launch.backend == "trainjob":
        wanted += [_group(TRAIN_JOB, "Kubeflow Trainer 2"), _group(JOB_SET, "JobSet")]
        wanted += [_group(LOCAL_QUEUE, "Kueue")] if launch.queue else []
    if scope.trains and launch.backend == "volcano":
        wanted += [_group(VOLCANO_JOB, "Volcano"), _group(VOLCANO_QUEUE, "Volcano")]
    if scope.serves:
        wanted.append(_group(INFERENCE_SERVICE, "KServe"))
        wanted += [_group(HTTP_ROUTE, "the Gateway API")] if deploy.backend == "standard_canary" else []
        wanted += [ApiGroup("serving.knative.dev", "v1", "Knative Serving")] if deploy.backend == "knative_canary" else []
        wanted += [ApiGroup("keda.sh", "v1alpha1", "KEDA")] if deploy.autoscaler == "keda" else []
    return wanted


def _group(kind: Kind, product: str) -> ApiGroup:
    return ApiGroup(kind.group, kind.version, product)


def objects(scope: Scope, own_namespace: str) -> list[Named]:
    """What must stand in the namespaces before the run."""
    wanted: list[Named] = []
    if scope.trains:
        wanted += _training_objects(scope.recipe, scope.recipe.launch.namespace or own_namespace)
    if scope.serves:
        wanted += _serving_objects(scope.recipe, scope.recipe.deploy.namespace or own_namespace)
    return wanted


def _training_objects(recipe: Recipe, namespace: str) -> list[Named]:
    launch = recipe.launch
    apply = f"kubectl apply -k manifests/overlays/<yours>, in namespace {namespace}"
    wanted = [Named(SERVICE_ACCOUNT, launch.service_account, namespace, f"{apply}; or set launch.service_account")]
    if launch.backend == "trainjob":
        wanted.insert(0, Named(TRAINING_RUNTIME, launch.runtime, namespace, f"{apply}; or set launch.runtime"))
    wanted += _queue_objects(launch, namespace)
    if launch.store_secret:
        why = "processes get their credentials from it, unless their ServiceAccount has an identity at the cloud"
        wanted += [Named(kind, launch.store_secret, namespace, why, is_optional=True) for kind in (CONFIG_MAP, SECRET)]
    return wanted


def _queue_objects(launch: LaunchConfig, namespace: str) -> list[Named]:
    """The queue and the priority that are named: Kueue's for a TrainJob, Volcano's and Kubernetes' own for a Volcano job."""
    is_kueue = launch.backend == "trainjob"
    product = "kueue" if is_kueue else "volcano"
    make = f"kubectl apply -k manifests/cluster/{product}, as an administrator"
    wanted: list[Named] = []
    if launch.queue and is_kueue:
        wanted.append(Named(LOCAL_QUEUE, launch.queue, namespace, "add manifests/components/kueue to the overlay; or set launch.queue"))
    elif launch.queue:
        wanted.append(Named(VOLCANO_QUEUE, launch.queue, "", f"{make}; or set launch.queue"))
    if launch.priority_class:
        kind = WORKLOAD_PRIORITY_CLASS if is_kueue else PRIORITY_CLASS
        wanted.append(Named(kind, launch.priority_class, "", f"{make}; or set launch.priority_class"))
    return wanted


def _serving_objects(recipe: Recipe, namespace: str) -> list[Named]:
    deploy = recipe.deploy
    apply = f"kubectl apply -k manifests/overlays/<yours>, in namespace {namespace}"
    wanted = [
        Named(SERVING_RUNTIME, deploy.runtime, namespace, f"{apply}; or set deploy.runtime"),
        Named(SERVICE_ACCOUNT, deploy.service_account, namespace, f"{apply}; or set deploy.service_account"),
    ]
    if deploy.backend == "standard_canary":
        where, _, name = deploy.gateway.partition("/")
        wanted.append(Named(GATEWAY, name, where, "create the Gateway; or set deploy.gateway=namespace/name"))
    return wanted


def rights(scope: Scope, own_namespace: str) -> list[Right]:
    """Every right that the stages use, and no other (tests/contracts/test_rights.py compares it with their code)."""
    launch, deploy = scope.recipe.launch, scope.recipe.deploy
    wanted: list[Right] = []
    if scope.trains:
        namespace = launch.namespace or own_namespace
        job = TRAIN_JOB if launch.backend == "trainjob" else VOLCANO_JOB
        wanted += [
            Right(LAUNCH_ROLE, job, ("get", "create", "delete"), namespace),
            *([Right(LAUNCH_ROLE, TRAINING_RUNTIME, ("get",), namespace)] if job is TRAIN_JOB else []),
            Right(LAUNCH_ROLE, POD, ("list", "watch"), namespace),
            Right(LAUNCH_ROLE, POD, ("get",), namespace, "log"),
            Right(LAUNCH_ROLE, EVENT, ("list",), namespace),
        ]
    if scope.serves:
        namespace = deploy.namespace or own_namespace
        splits_service, splits_route = deploy.backend == "blue_green", deploy.backend == "standard_canary"
        wanted += [
            Right(DEPLOY_ROLE, INFERENCE_SERVICE, ("get", "create", "patch", "delete"), namespace),
            Right(DEPLOY_ROLE, SERVICE, ("get", "create", "patch") if splits_service else ("get",), namespace),
            *([Right(DEPLOY_ROLE, HTTP_ROUTE, ("get", "create", "patch", "delete"), namespace)] if splits_route else []),
            Right(DEPLOY_ROLE, POD, ("list",), namespace),
            Right(DEPLOY_ROLE, EVENT, ("list",), namespace),
        ]
    return wanted


def probe_rights(scope: Scope, own_namespace: str) -> list[Right]:
    """What the probe pod needs beyond: given to people who install, not to pipelines."""
    namespace = scope.recipe.launch.namespace or own_namespace
    return [
        Right("", POD, ("list", "watch", "create", "delete"), namespace),
        Right("", POD, ("get",), namespace, "log"),
    ]


def in_version(kind: Kind, versions: list[str]) -> Kind:
    """The kind in its own version, or in the one that the server prefers."""
    return kind if kind.version in versions or not versions else replace(kind, version=versions[0])
