"""Memory: which errors say that it ran out, and what is freed then."""

import gc
import weakref

import pytest
import torch

from tcertify.sampling.memory import free_memory, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_errors_that_say_so(error, expected):
    assert is_out_of_memory(error) is expected


def test_garbage_in_cycles_is_freed():
    class Node:
        pass

    node = Node()
    node.itself, gone = node, weakref.ref(node)
    gc.disable()
    try:
        del node
        assert gone() is not None
        free_memory(torch.device("cpu"))
        assert gone() is None
    finally:
        gc.enable()
