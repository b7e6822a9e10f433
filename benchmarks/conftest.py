"""One core for every benchmark on the CPU: what is compared is the code, not its threads."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Run torch, and with it our kernels, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
