"""Importing tcertify is light: torch, numba, cupy and matplotlib load at first use."""

import subprocess
import sys

import pytest

PROBE = "import sys, {module}; print(*(m for m in {heavy} if m in sys.modules))"
HEAVY = ("torch", "numba", "cupy", "matplotlib", "sklearn", "pandas")


@pytest.mark.parametrize(
    "module", ["tcertify", "tcertify.bounds", "tcertify.cli.main", "tcertify_kernels"]
)
def test_importing_loads_nothing_heavy(module):
    code = PROBE.format(module=module, heavy=HEAVY)
    path = f"import sys; sys.path[:0] = {sys.path!r}; "
    done = subprocess.run(
        [sys.executable, "-c", path + code], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []
