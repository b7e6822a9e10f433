"""Memory: which errors say that it ran out, what is freed then, and what is kept."""

import gc
import json
import os
import platform
import subprocess
import sys
import weakref
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from tcertify.classifiers import Classifier
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler, memory
from tcertify.sampling.memory import free_memory, is_out_of_memory, kept
from tests.tiny import CLASSES, Network, images


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


on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not on glibc")

FAULTS = """
import json, resource, torch
from tcertify.sampling.memory import kept
def faults(size=2**26):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.empty(size, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1])
faults()
found = {"before": faults()}
with kept() as keeps:
    for _ in range(15):
        faults()  # until small blocks have found their places between the large ones
    found |= {"within": faults(), "resident within": resident()}
found |= {"resident after": resident(), "after": faults(2**28), "keeps": keeps}
print(json.dumps(found))
"""


def run(**environment):
    """What a process finds whose environment says nothing of its allocator but this."""
    bare = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={**bare, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@on_glibc
def test_blocks_above_every_limit_are_kept_within_and_given_back_afterwards():
    found = run()
    assert found["keeps"]
    assert found["before"] >= 4 * 2**26 // 2**21  # once per page, of 2 MiB at most
    assert found["within"] < found["before"] / 10
    assert found["after"] > found["before"]  # larger than what may lie free in the heap
    pages = 2**26 // os.sysconf("SC_PAGE_SIZE")
    assert found["resident after"] < found["resident within"] - pages // 2


@on_glibc
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=65536")],
)
def test_limits_that_the_user_has_set_are_left_alone(name, value):
    found = run(**{name: value})
    assert not found["keeps"]
    assert found["within"] > found["before"] / 2


class Libc:
    """Writes down what it is asked."""

    def __init__(self):
        self.asked = []

    def mallopt(self, parameter, value):
        self.asked.append((parameter, value))
        return 1

    def malloc_trim(self, pad):
        self.asked.append("trim")


def test_the_first_has_memory_kept_and_the_last_ends_it(monkeypatch):
    libc = Libc()
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    with ExitStack() as last:
        with ExitStack() as first:
            assert first.enter_context(kept())
            assert libc.asked == [(-4, 0), (-1, -1)]
            assert last.enter_context(kept())
        assert libc.asked == [(-4, 0), (-1, -1)]
    assert libc.asked[2:] == [(-4, 65536), (-3, 2**25), (-1, 2**26), "trim"]
    with pytest.raises(ZeroDivisionError), kept():
        raise ZeroDivisionError
    assert libc.asked[-1] == "trim"


def test_settling_raises_the_limits_but_not_while_memory_is_kept(monkeypatch):
    libc = Libc()
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    memory.settle()
    assert libc.asked == [(-4, 65536), (-3, 2**25), (-1, 2**26)]
    with kept():
        del libc.asked[:]
        memory.settle()
        assert libc.asked == []


@pytest.mark.parametrize(("samples", "kept_within"), [(100, False), (2**24, True)])
def test_memory_is_kept_for_counts_that_last(monkeypatch, samples, kept_within):
    seen = []
    sampler = Sampler(Classifier(Network(), CLASSES), GaussianNoise(0.5), batch_size=64)

    def fitting(images, work):
        seen.append(memory._HOLDERS._count > 0)
        return np.array([[samples, 0, 0, 0]])

    monkeypatch.setattr(memory, "_glibc", Libc)
    monkeypatch.setattr(sampler, "fitting", fitting)
    sampler.count(images(1).images, [0], 0, samples, ESTIMATION)
    assert seen == [kept_within]


@pytest.mark.parametrize("what", ["another system", "another C library", "another allocator"])
def test_elsewhere_nothing_happens(monkeypatch, what):
    if what == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        real = memory.ctypes.CDLL

        def library(name):
            if name is not None and what == "another C library":
                raise OSError("libc.so.6: cannot open shared object file")
            found = real(name)
            if name is None and what == "another allocator":
                found.malloc = found.calloc
            return found

        monkeypatch.setattr(memory.ctypes, "CDLL", library)
    monkeypatch.setattr(memory, "_chosen_by_the_user", lambda: False)
    assert memory._glibc.__wrapped__() is None
    monkeypatch.setattr(memory, "_glibc", memory._glibc.__wrapped__)
    with kept() as keeps:
        assert keeps is False
