"""What every test shares: hypothesis profiles and the GPU marker."""

import os

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser):
    parser.addoption(
        "--require-gpu", action="store_true", help="fail, not skip, GPU tests without a device"
    )


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if item.config.getoption("--require-gpu"):
            pytest.fail("needs a CUDA device and --require-gpu was given")
        pytest.skip("needs a CUDA device")
