"""How a classifier runs: modes and flags are switched once for all threads, and restored."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch
from torch import nn

from tcertify import SmoothedClassifier
from tcertify.classifiers import Execution
from tcertify.classifiers.execution import evaluating, float32_precision

GETTERS = (
    torch.get_float32_matmul_precision,
    lambda: torch.backends.cuda.matmul.allow_tf32,
    lambda: torch.backends.cudnn.allow_tf32,
    lambda: torch.backends.cuda.matmul.fp32_precision,
    lambda: torch.backends.cudnn.conv.fp32_precision,
    lambda: torch.backends.cudnn.rnn.fp32_precision,
)


@pytest.mark.parametrize("tf32", [None, False, True])
def test_a_forward_pass_may_read_all_flags_of_tf32_and_set_those_of_cudnn(tf32):
    before = [get() for get in GETTERS]

    def classifier(batch):
        found = [get() for get in GETTERS]
        if tf32 is None:
            assert found == before
        else:
            assert found[1:3] == [tf32, tf32]
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=not tf32):
            assert torch.backends.cudnn.allow_tf32 is not tf32
        return batch.flatten(1)[:, :3]

    smoothed = SmoothedClassifier(classifier, 3, 0.5, execution=Execution(tf32=tf32))
    assert smoothed.certify(torch.rand(3, 2, 2), 10, 100).counts.sum() == 100
    assert [get() for get in GETTERS] == before


def test_flags_that_were_set_in_a_way_that_torch_cannot_read_are_as_before():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with float32_precision(False):
            assert torch.get_float32_matmul_precision() == "highest"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
    assert torch.get_float32_matmul_precision() == "highest"


def test_two_settings_of_tf32_do_not_run_at_the_same_time():
    with float32_precision(True), float32_precision(True):
        refused = pytest.raises(RuntimeError, match="different `tf32` cannot run in one process")
        with refused, float32_precision(False):
            pass
    with float32_precision(False):
        assert not torch.backends.cudnn.allow_tf32


def test_a_module_stays_in_eval_mode_until_the_last_thread_has_left_it():
    """Two objects around one module in train mode with dropout, met in the middle of a pass."""
    torch.manual_seed(0)
    entered, left = threading.Event(), threading.Event()

    class Held(nn.Module):
        """The first to come is held until the second object has left the module."""

        def forward(self, batch):
            if threading.current_thread().name.startswith("held"):
                entered.set()
                assert left.wait(60)
            return batch

    shared = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    holding = nn.Sequential(Held(), shared).train()
    image = torch.rand(3, 2, 2)
    expected = SmoothedClassifier(shared, 3, 0.5).certify(image, 10, 100).counts.tolist()
    with ThreadPoolExecutor(1, "held") as pool:
        held = pool.submit(lambda: SmoothedClassifier(holding, 3, 0.5).certify(image, 10, 100))
        assert entered.wait(60)
        for _ in range(2):
            found = SmoothedClassifier(shared, 3, 0.5).certify(image, 10, 100)
            assert found.counts.tolist() == expected
            assert not shared.training
        left.set()
        assert held.result().counts.tolist() == expected
    assert all(module.training for module in holding.modules())


def test_each_module_gets_its_own_mode_back():
    frozen, dropping = nn.BatchNorm1d(3).eval(), nn.Dropout(0.5)
    module = nn.Sequential(frozen, dropping)
    module.training = True
    with suppress(KeyError), evaluating(module):
        assert not any(part.training for part in module.modules())
        raise KeyError
    assert [part.training for part in module.modules()] == [True, False, True]
