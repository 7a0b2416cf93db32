"""The InferenceService of an encoder as a plain document, built with KServe's typed models; what KServe cannot serve is refused here.

Names follow KServe 0.16 and later (`Standard`, `Knative`; before: RawDeployment, Serverless). KServe merges the ServingRuntime's
container with `predictor.model`: arguments are appended, so `--name` wins over the runtime's and the model keeps the endpoint's name in
every path, whatever the InferenceService is called. Of the runtime's pod only volumes, node selection and pull secrets are taken over
(MergePodSpec); the security context and the service account are therefore given here.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import kserve
from kubernetes import client

from stablerep.cluster import Document
from stablerep.cluster.restricted import USER_ID
from stablerep.endpoint.local import ENGINE_OPTIONS
from stablerep.endpoint.release import LABELS, NO_SIDECAR, Release, annotations_for
from stablerep.errors import ConfigError
from stablerep.identity import digest

Autoscaler = Literal["none", "hpa", "keda", "external", "knative"]
MAX_NAME = 41  # of an endpoint: the label app=isvc.<name>-canary-predictor has at most 63 characters
SCHEMES = ("s3", "gs", "pvc", "https", "hf", "oci", "hdfs", "webhdfs")  # what KServe's storage initialiser reads, inside the cluster
IN_FLIGHT = 'sum(stablerep_endpoint_in_flight{{namespace="{namespace}",pod=~"{name}-predictor-.*"}})'
TARGET_IN_FLIGHT = 4  # requests a replica, for KEDA
TARGET_CPU_PERCENT = 70


@dataclass(frozen=True)
class EncoderService:
    """Everything about the served pods but the model."""

    endpoint: str  # the model's name in the paths
    namespace: str
    mode: Literal["Standard", "Knative"] = "Standard"
    runtime: str = "stablerep-encoder"
    service_account: str = "stablerep-serve"
    autoscaler: Autoscaler = "none"
    min_replicas: int = 1
    max_replicas: int = 1
    gpus: int = 0
    cpus: int = 2
    memory_gib: int = 4
    prometheus_url: str = ""  # KEDA scales on requests in flight where it is given, on CPU where not
    max_image_bytes: int = 8_388_608
    max_image_pixels: int = 25_000_000
    max_batch: int = 64
    runtime_engine: Literal["torch", "torch_compile", "onnx"] = "torch"

    def __post_init__(self) -> None:
        """Refuse what KServe would refuse, or accept and not do."""
        is_knative = self.mode == "Knative"
        _check(
            bool(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", self.endpoint)) and len(self.endpoint) <= MAX_NAME,
            f"deploy.name: expected lower-case letters, digits and hyphens, at most {MAX_NAME}, first a letter, found {self.endpoint!r}",
        )
        _check(
            self.autoscaler in (("knative", "none") if is_knative else ("none", "hpa", "keda", "external")),
            f"deploy.autoscaler={self.autoscaler}: {self.mode} mode takes {'knative' if is_knative else 'none, hpa, keda or external'}",
        )
        _check(self.min_replicas >= (0 if is_knative else 1), f"deploy.min_replicas={self.min_replicas}: only Knative scales to zero")
        _check(self.max_replicas >= max(1, self.min_replicas), f"deploy.max_replicas={self.max_replicas}: expected min_replicas or more")
        _check(
            self.autoscaler != "none" or is_knative or self.max_replicas == self.min_replicas,
            f"deploy.max_replicas={self.max_replicas}: nothing scales without deploy.autoscaler, so expected min_replicas",
        )
        _check(self.gpus >= 0, f"deploy.gpus: expected 0 or more, found {self.gpus}")

    def release(self, model_id: str, uri: str) -> Release:
        """A model served this way; equal values give equal releases.

        Raises:
            ConfigError: the cluster cannot read the model's address.
        """
        scheme = urlsplit(uri).scheme
        _check(
            scheme in SCHEMES,
            f"expected a model that pods can read ({', '.join(f'{known}://' for known in SCHEMES)}), found {uri}; run the pipeline with "
            "--store on object storage",
        )
        return Release(model_id, uri, self.spec_sha256)

    @property
    def spec_sha256(self) -> str:
        """Digest of everything about the pods but the model; the same for a canary and what it replaces."""
        return digest(_plain(_predictor(self, self.endpoint, "", None)))


def inference_service(
    service: EncoderService,
    name: str,
    release: Release,
    *,
    previous: Release | None = None,
    previous_revision: str = "",
    canary_percent: int | None = None,
) -> Document:
    """The InferenceService of a release.

    Args:
        service: how it is served.
        name: of the InferenceService.
        release: from `service.release`.
        previous: what a roll-back restores; kept in annotations.
        previous_revision: latest Knative revision before this one.
        canary_percent: of the traffic, Knative only; None: all of it.

    Raises:
        ConfigError: KServe cannot do this.
    """
    _check(canary_percent is None or service.mode == "Knative", f"canaryTrafficPercent={canary_percent}: only Knative mode splits traffic")
    _check(canary_percent is None or 0 <= canary_percent < 100, f"canaryTrafficPercent: expected 0 to 99, found {canary_percent}")
    annotations = {
        "serving.kserve.io/deploymentMode": service.mode,
        **annotations_for(replace(release, spec_sha256=service.spec_sha256), previous, previous_revision),
        **({"serving.kserve.io/enable-tag-routing": "true"} if service.mode == "Knative" else {}),
        **({"serving.kserve.io/autoscalerClass": service.autoscaler} if service.mode == "Standard" else {}),
    }
    # traffic of Standard mode comes through our own HTTPRoute or Service; an Ingress of KServe would go around it, to the canary too
    labels = LABELS | NO_SIDECAR | ({"networking.kserve.io/visibility": "cluster-local"} if service.mode == "Standard" else {})
    document = kserve.V1beta1InferenceService(
        api_version="serving.kserve.io/v1beta1",
        kind="InferenceService",
        metadata=client.V1ObjectMeta(
            name=name,
            namespace=service.namespace,
            labels=labels,
            annotations={key: value for key, value in annotations.items() if value is not None},
        ),
        spec=kserve.V1beta1InferenceServiceSpec(predictor=_predictor(service, name, release.uri, canary_percent)),
    )
    return _plain(document)


def _predictor(service: EncoderService, name: str, uri: str, canary_percent: int | None) -> Any:
    is_standard = service.mode == "Standard"
    return kserve.V1beta1PredictorSpec(
        service_account_name=service.service_account,
        automount_service_account_token=False,
        min_replicas=service.min_replicas,
        max_replicas=service.max_replicas,
        canary_traffic_percent=canary_percent,
        # Knative refuses a pod's security context unless its operator allows it; the container's own says the same
        security_context=client.V1PodSecurityContext(**_USER, fs_group=USER_ID, seccomp_profile=_SECCOMP) if is_standard else None,
        **_scaling(service, name),
        model=kserve.V1beta1ModelSpec(
            model_format=kserve.V1beta1ModelFormat(name="stablerep", version="1"),
            runtime=service.runtime,
            storage_uri=uri,
            args=_arguments(service),
            resources=_resources(service),
            security_context=client.V1SecurityContext(
                **_USER,
                allow_privilege_escalation=False,
                read_only_root_filesystem=True,
                capabilities=client.V1Capabilities(drop=["ALL"]),
                seccomp_profile=_SECCOMP,
            ),
        ),
    )


_USER = {"run_as_non_root": True, "run_as_user": USER_ID, "run_as_group": USER_ID}
_SECCOMP = client.V1SeccompProfile(type="RuntimeDefault")


def _arguments(service: EncoderService) -> list[str]:
    limits = ("max_image_bytes", "max_image_pixels", "max_batch")
    return [
        f"--name={service.endpoint}",
        *(f"--{limit.replace('_', '-')}={getattr(service, limit)}" for limit in limits),
        *ENGINE_OPTIONS[service.runtime_engine],
    ]


def _resources(service: EncoderService) -> Any:
    gpus = {"nvidia.com/gpu": str(service.gpus)} if service.gpus else {}
    memory = f"{service.memory_gib}Gi"
    return client.V1ResourceRequirements(
        requests={"cpu": "1", "memory": memory, **gpus}, limits={"cpu": str(service.cpus), "memory": memory, **gpus}
    )


def _scaling(service: EncoderService, name: str) -> dict[str, Any]:
    if service.autoscaler == "hpa":
        return {"scale_metric": "cpu", "scale_target": TARGET_CPU_PERCENT}
    if service.autoscaler == "keda":
        return {"auto_scaling": kserve.V1beta1AutoScalingSpec(metrics=[_keda_metric(service, name)])}
    return {}


def _keda_metric(service: EncoderService, name: str) -> Any:
    if not service.prometheus_url:
        target = kserve.V1beta1MetricTarget(type="Utilization", average_utilization=TARGET_CPU_PERCENT)
        return kserve.V1beta1MetricsSpec(type="Resource", resource=kserve.V1beta1ResourceMetricSource(name="cpu", target=target))
    query = IN_FLIGHT.format(namespace=service.namespace, name=name)
    metric = kserve.V1beta1ExternalMetrics(backend="prometheus", server_address=service.prometheus_url, query=query)
    target = kserve.V1beta1MetricTarget(type="Value", value=str(TARGET_IN_FLIGHT))
    return kserve.V1beta1MetricsSpec(type="External", external=kserve.V1beta1ExternalMetricSource(metric=metric, target=target))


def _plain(model: Any) -> Document:
    """A typed model as the API server takes it: its own field names, nothing that is unset."""
    return cast("Document", client.ApiClient().sanitize_for_serialization(model))


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
