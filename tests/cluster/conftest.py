"""A cluster of Ray's for a module of tests: on localhost, in a folder of its own, then gone."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tcertify.cluster.connection import _remove

ROOT = Path(__file__).parents[2]

#: Read when Ray is imported and by the processes that it starts.
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": os.pathsep.join(str(part) for part in (ROOT, ROOT / "kernels")),
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def one_ray():
    """Return a context: a cluster with one node of one core."""

    @contextmanager
    def started():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENT.items():
                patch.setenv(name, value)
            folder = tempfile.mkdtemp(prefix="tcr-", dir="/tmp")  # a socket's path must be short
            patch.setenv("RAY_TMPDIR", folder)
            ray = pytest.importorskip("ray")
            from ray.cluster_utils import Cluster

            head = {
                "num_cpus": 1,
                "include_dashboard": False,
                "object_store_memory": 80 * 2**20,
            }
            cluster = Cluster(initialize_head=True, head_node_args=head)
            try:
                yield cluster
            finally:
                ray.shutdown()
                cluster.shutdown()
                _remove(folder)

    return started
