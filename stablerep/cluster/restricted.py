"""What Pod Security `restricted` asks of every pod we make as a document, and the user of our images.

https://kubernetes.io/docs/concepts/security/pod-security-standards/. The pods of manifests/ say the same in YAML; tests apply one list of
policies to all of them.
"""

from stablerep.cluster.api import Document

USER_ID = 65532


def pod_security() -> Document:
    """SecurityContext of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Document:
    """SecurityContext of a container, with a read-only root as well."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
