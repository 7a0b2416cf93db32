"""A cluster with everything that a run asks for, and a client of it, for the tests of preflight."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cluster import FakeCluster
from whole_cluster import furnish

from stablerep.integrations.kubernetes_api import KubernetesApi, connect


@pytest.fixture
def cluster(fake_cluster: FakeCluster) -> FakeCluster:
    furnish(fake_cluster)
    return fake_cluster


@pytest.fixture
def api(cluster: FakeCluster, cluster_kubeconfig: Path) -> Iterator[KubernetesApi]:
    with connect(budget_seconds=0.5) as found:
        yield found
