"""What a refusal of the Kubernetes API server means, who has to do what about it, and which error says so."""

import re
from typing import Any, cast

from stablerep.cluster import Kind
from stablerep.errors import AlreadyExistsError, ClusterError
from stablerep.integrations.kubernetes_transport import Answer, Call

_DENIED = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')


def is_kind_missing(answer: Answer) -> bool:
    """A 404 that is about the path (the kind is not installed), not about one object."""
    details = cast("dict[str, Any]", answer.document.get("details") or {})
    return answer.status == 404 and not details.get("name")


def refusal(answer: Answer, call: Call, kind: Kind | None, origin: str) -> ClusterError:
    """The error for an answer that is not a success.

    Args:
        answer: status 400 or above.
        call: what was asked.
        kind: of the object, None where the call is about the server.
        origin: of the credentials, for messages.
    """
    status, message = answer.status, answer.message
    start = f"the API server refused to {call.what}"
    if status == 401:
        remedy = "log in again so that the kubeconfig is renewed, or in a pod restart it so that its token is"
        return ClusterError(f"{start}: it does not accept {origin} (401), also after it was read again; {remedy}", status)
    if status == 403:
        return ClusterError(_forbidden(start, message, call, origin), status)
    if status == 404 and kind and is_kind_missing(answer):
        remedy = f"install the operator that brings {kind.kind} (docs/operations.md), `kubectl api-resources` lists what is there"
        return ClusterError(f"{start}: it does not serve {kind.plural} of {kind.api_version}; {remedy}", status)
    if status == 404:
        return ClusterError(f"{start}: {message}; see that the name and the namespace are right", status)
    if status == 409 and answer.document.get("reason") == "Conflict":
        return ClusterError(f"{start}: it was changed by somebody else meanwhile; read it again and repeat ({message})", status)
    if status == 409:
        return AlreadyExistsError(f"{start}: {message}; use or delete the one that is there", status)
    return ClusterError(f"{start} (HTTP {status}): {message}; correct what the message names", status)


def _forbidden(start: str, message: str, call: Call, origin: str) -> str:
    if denied := _DENIED.search(message):
        lacks = f"{denied['user']} ({origin}) lacks the verb {denied['verb']} on {denied['resource']}"
        return f"{start}: {lacks}; grant it in the Role of that account (manifests/base) and apply that again; the server said: {message}"
    return f"{start} (403): {message}; change the object, or the quota or policy that the message names"
