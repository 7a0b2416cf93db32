"""Whether the Prometheus that judges a canary answers a query. One request; what its numbers mean is stablerep.endpoint's matter."""

import json
import urllib.error
import urllib.parse
import urllib.request

from stablerep.stages.preflight_table import Check, judged

_TIMEOUT_SECONDS = 5.0


def check_prometheus(url: str) -> Check:
    """Ask for the constant 1, which needs no series."""
    remedy = "set deploy.prometheus_url to its address as seen from here, and let a NetworkPolicy pass it (manifests/base)"
    address = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': 'vector(1)'})}"
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as answer:  # the scheme is checked by DeployConfig
            status = json.loads(answer.read()).get("status")
    except (OSError, ValueError, AttributeError, urllib.error.URLError) as error:
        return judged("Prometheus", False, f"{url} does not answer a query: {error}", remedy)
    return judged("Prometheus", status == "success", f"{url} answers {status}", remedy)
