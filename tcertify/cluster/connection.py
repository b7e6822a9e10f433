"""The way to a Ray cluster: one of this machine alone, or one that answers at an address."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tcertify.errors import RunError

#: So long an address may take to answer, in seconds; Ray itself would wait for minutes.
PATIENCE = 25.0

_ADDRESS = re.compile(r"auto|[^\s/:]+:\d{1,5}")

#: Has Ray listen on 127.0.0.1 alone, read when it is imported; elsewhere it listens on all
#: interfaces.
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
_LOCALHOST = "127.0.0.1"


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Yield Ray's module, connected to a cluster; a connection that is there already is used.

    Without an address a cluster of this machine is started, which listens on localhost alone,
    sends no usage statistics, and leaves nothing behind but Ray's token in the home folder.

    Raises
    ------
    ModuleNotFoundError
        Ray is not installed.
    ValueError
        The address is none.
    RunError
        No cluster answers there.
    """
    if address is not None and not _ADDRESS.fullmatch(address):
        raise ValueError(f"`ray` takes HOST:PORT of a cluster, or auto, got {address!r}.")
    ray = _imported(local=address is None)
    if ray.is_initialized():
        _check_same(ray, address)
        yield ray
    elif address is None:
        with _started(ray):
            yield ray
    else:
        _join(ray, address)
        try:
            yield ray
        finally:
            ray.shutdown()


def _imported(*, local: bool) -> Any:
    if local:
        for name, value in _LOCAL.items():
            os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError("A cluster is reached through Ray: pip install ray.") from None
    return ray


def _check_same(ray: Any, address: str | None) -> None:
    there = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", there):
        raise ValueError(f"`ray` is {address}, but this process is connected to {there}.")


@contextmanager
def _started(ray: Any) -> Iterator[None]:
    """Start a cluster of this machine, and end it."""
    # short, since the path of a socket has at most 107 bytes
    folder = tempfile.mkdtemp(prefix="tcr-", dir="/tmp")
    try:
        try:
            ray.init(
                address="local",
                _temp_dir=folder,
                _node_ip_address=_LOCALHOST,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise RunError(f"Ray cannot start on this machine: {_line(error)}") from error
        if ray.util.get_node_ip_address() != _LOCALHOST:
            raise RunError(
                "Ray was imported before tcertify could have it listen on localhost alone: start a"
                " cluster yourself and give its address."
            )
        yield
    finally:
        ray.shutdown()
        _remove(folder)


def _remove(folder: str) -> None:
    """Remove a folder that processes which are ending may still write to, for some seconds."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.1)


def _join(ray: Any, address: str) -> None:
    """Connect to a cluster; only where it is healthy, since Ray would wait for it too long."""
    if address != "auto":
        _check_answer(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        raise RunError(f"No Ray cluster can be joined at {address}: {_line(error)}") from error


def _check_answer(address: str) -> None:
    """Raise unless a cluster answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE / 2).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"No Ray cluster answers at {address}: {_line(error)}") from None
    asking = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answer = subprocess.run(
            asking, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"No Ray cluster answers at {address} within {PATIENCE:g} s.") from None
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise RunError(f"What answers at {address} is no Ray cluster to be joined: {last}")


def _line(error: BaseException) -> str:
    """Return the first line of a message, as the end of a sentence."""
    text = str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)
    return f"{(text.strip() or type(error).__name__).splitlines()[0].rstrip('.')}."
