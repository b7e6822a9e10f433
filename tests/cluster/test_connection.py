"""The way to a cluster: a sentence where there is none, localhost where none is named."""

import os
import re
import socket
import subprocess
import sys

import pytest

from tcertify.cluster import connection
from tcertify.cluster.connection import connected
from tcertify.errors import RunError
from tests.cluster.conftest import ENVIRONMENT

LOCAL = """
import glob, os, re
from tcertify.cluster.connection import connected

def listening():
    ours, at = set(), {}
    for name in ("tcp", "tcp6"):
        for line in open(f"/proc/net/{name}").read().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A":
                at[parts[9]] = parts[1].partition(":")[0]
    for process in glob.glob("/proc/[0-9]*"):
        try:
            if os.environ["MARK"] not in open(f"{process}/environ").read():
                continue
            links = [os.readlink(link) for link in glob.glob(f"{process}/fd/*")]
        except OSError:
            continue
        ours |= {at[n] for link in links for n in re.findall(r"socket:.(\\d+)", link) if n in at}
    return ours

with connected(None) as ray:
    print(ray.get(ray.remote(lambda: 7).remote()), *listening())
"""


def test_a_cluster_of_this_machine_listens_on_localhost_alone_and_leaves_nothing(tmp_path):
    pytest.importorskip("ray")
    before = {*os.listdir("/tmp")}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PYTHONPATH": ENVIRONMENT["PYTHONPATH"],
        "HOME": str(tmp_path),  # where Ray keeps its token
        "MARK": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOCAL], env=environment, capture_output=True, text=True, check=True
    )
    answer, *places = done.stdout.split()
    assert answer == "7"
    assert places
    # 127.0.0.1, as IPv4 or within IPv6
    assert {*places} <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert not [name for name in {*os.listdir("/tmp")} - before if re.match("tcr-|ray", name)]


def test_ray_that_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ModuleNotFoundError, match="pip install ray"),
        connected("auto"),
    ):
        pass


@pytest.mark.parametrize("address", ["", "host", "host:", "host:x", "ray://host:10001", "a b:1"])
def test_an_address_that_is_none_is_refused(address):
    with (
        pytest.raises(ValueError, match="takes HOST:PORT of a cluster, or auto"),
        connected(address),
    ):
        pass


def test_an_address_where_nobody_listens_is_one_sentence(monkeypatch):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused = f"No Ray cluster answers at 127.0.0.1:{port}: Connection refused."
    with pytest.raises(RunError, match=re.escape(refused)), connected(f"127.0.0.1:{port}"):
        pass


def test_an_address_that_does_not_answer_is_given_up(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(connection, "PATIENCE", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RunError, match=f"answers at {address} within 2 s"), connected(address):
            pass
