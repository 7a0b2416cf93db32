"""What the product asks of a Kubernetes API server: a few verbs over plain documents.

`ClusterApi` is the protocol; `stablerep.integrations.kubernetes_api` speaks it to a real server. Training jobs, endpoints and preflight
are written against the protocol, with the documents as dictionaries in the API's own field names.
"""

from stablerep.cluster.api import (
    CONFIG_MAP,
    EVENT,
    GATEWAY,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    JOB_SET,
    LOCAL_QUEUE,
    NAMESPACE,
    NODE,
    POD,
    RESOURCE_QUOTA,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    SERVING_RUNTIME,
    TRAIN_JOB,
    TRAINING_RUNTIME,
    VOLCANO_JOB,
    VOLCANO_QUEUE,
    ClusterApi,
    Document,
    Kind,
    WatchEvent,
    section,
)

__all__ = [
    "CONFIG_MAP",
    "EVENT",
    "GATEWAY",
    "HTTP_ROUTE",
    "INFERENCE_SERVICE",
    "JOB_SET",
    "LOCAL_QUEUE",
    "NAMESPACE",
    "NODE",
    "POD",
    "RESOURCE_QUOTA",
    "SECRET",
    "SERVICE",
    "SERVICE_ACCOUNT",
    "SERVING_RUNTIME",
    "TRAINING_RUNTIME",
    "TRAIN_JOB",
    "VOLCANO_JOB",
    "VOLCANO_QUEUE",
    "ClusterApi",
    "Document",
    "Kind",
    "WatchEvent",
    "section",
]
