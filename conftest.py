"""What tests and benchmarks share: the GPU marker, and the pages of docs/ as tests."""

import pytest

# pytest finds a hook and fixtures by their names here
from tests.pages import collect as pytest_collect_file  # noqa: F401
from tests.pages import demo_files, page  # noqa: F401


def pytest_addoption(parser):
    """Add --require-gpu."""
    parser.addoption(
        "--require-gpu", action="store_true", help="fail, not skip, GPU tests without a device"
    )


def pytest_runtest_setup(item):
    """Skip what needs a device where there is none."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if item.config.getoption("--require-gpu"):
            pytest.fail("needs a CUDA device and --require-gpu was given")
        pytest.skip("needs a CUDA device")
