"""The twins are also what plain Python says: NUMBA_DISABLE_JIT=1 gives the same bits."""

import os
import subprocess
import sys

import pytest
import torch
from numba import config

from tcertify_kernels import count_votes
from tests.kernels.backends import GAUSSIAN, INTEGER, noisy
from tests.kernels.known_answers import FAR_SAMPLES, UNDECIDED_SAMPLES

PROGRAM = """
import sys, torch
from tests.kernels.test_without_jit import results
torch.save(results(), sys.argv[1])
"""


def results():
    """Noise and counts over dtypes and layouts."""
    generator = torch.Generator().manual_seed(0)
    x, rows = torch.randint(256, (2, 3, 2, 2), generator=generator) / 255, 4
    slot = torch.tensor([0, 1, 1, 0])
    arrays = x, slot.int(), slot + 2**32 - 2, torch.arange(rows) + 2**48
    far, undecided = (torch.tensor([*each, 0]) for each in (FAR_SAMPLES, UNDECIDED_SAMPLES))
    found = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            out = torch.empty(rows, 3, 2, 2, dtype=dtype).to(memory_format=layout)
            for kind, samples in ((GAUSSIAN, far), (INTEGER, undecided)):
                numbers = {"kind": kind, "sigma": 0.25, "stream": 1}
                found.append(noisy("numba", out.clone(), *arrays, seed=2**64 - 5, **numbers))
                rare = x, slot.int(), samples - samples, samples
                found.append(noisy("numba", out.clone(), *rare, seed=0, **numbers))
        logits = torch.randint(-2, 2, (40, 19), generator=generator).to(dtype)
        logits[3, 3] = torch.nan
        counts = torch.zeros(1, 20, dtype=torch.int64)
        found.append(count_votes(counts, logits, torch.zeros(40).int()))
    return found


@pytest.mark.skipif(config.DISABLE_JIT, reason="the comparison starts from compiled code")
def test_without_compilation_the_twins_give_the_same_bits(tmp_path):
    path = tmp_path / "found.pt"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", PROGRAM, path], check=True, env=environment)
    for found, expected in zip(torch.load(path), results(), strict=True):
        assert torch.equal(found, expected)
