"""njit: a cache where there is a place for one, and one warning where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tcertify_kernels
from tcertify_kernels.jit import njit

_COUNT_VOTES = """
import torch
from tcertify_kernels import count_votes
counts = torch.zeros(1, 3, dtype=torch.int64)
count_votes(counts, torch.tensor([[1.0, 2.0]]), torch.zeros(1, dtype=torch.int32))
print(counts.tolist())
"""


def test_without_a_place_for_the_cache_kernels_run_and_say_so_once(tmp_path):
    package = tmp_path / "tcertify_kernels"
    shutil.copytree(
        Path(tcertify_kernels.__file__).parent,
        package,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    # Not even root can make a cache folder of these.
    (package / "__pycache__").write_text("")
    environment = {**os.environ, "HOME": "/proc/nowhere", "PYTHONPATH": str(tmp_path)}
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_VOTES],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[0, 1, 0]]\n"
    assert done.stderr.count("Set NUMBA_CACHE_DIR") == 1


def test_other_refusals_of_numba_are_not_hidden(monkeypatch):
    def refuse(**options):
        raise RuntimeError("another reason")

    monkeypatch.setattr("numba.njit", refuse)
    with pytest.raises(RuntimeError, match="another reason"):
        njit(cache=True)(abs)
