"""Counting issue slots in machine code, and what they predict."""

import json
import shutil
from importlib.util import find_spec

import pytest

from benchmarks import slots
from benchmarks.registers import nvrtc_version

CODE = """
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   FFMA R8, R8, R9, R10 ;
        /*0030*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0040*/               @P0 BRA `(.L_x_2) ;
.L_x_1:
        /*0050*/                   FMUL R8, R8, R8 ;
        /*0060*/               @P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0070*/                   STG.E.128 desc[UR4][R2.64], R8 ;
        /*0080*/              @!P2 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
.L_x_3:
        /*00a0*/                   BRA `(.L_x_3);
"""


def test_the_hot_path_leaves_out_what_a_branch_over_a_loop_skips():
    names = [line.split()[0] for line in slots.hot_path(CODE)]
    assert names == ["LDG.E.128", "FFMA", "IADD3", "@P0", "STG.E.128", "@!P2"]


def test_counts_are_per_element():
    found = slots.counted(CODE, 4)
    assert found == {"slots": 6 / 4, "alu_cycles": 2 / 4, "fma_instructions": 1 / 4}
    assert slots.counted(CODE, 2)["slots"] == 6 / 8


def test_kernels_are_told_apart():
    found = slots.kernels_of(f".text.first:\n{CODE}\n.text.second:\n{CODE}")
    assert list(found) == ["first", "second"]
    assert slots.hot_path(found["first"]) == slots.hot_path(CODE)


def test_the_slower_of_memory_and_cycles_is_expected():
    device = slots.Device(10, (1.0, 2.0), 1e12)
    many = slots.expected(100.0, (1000, 1280), 4, device)
    assert many["cycles"] == [50.0, 100.0]  # 1.28 M elements by 1,280 per cycle, 100 times
    assert many["expected"] == [
        pytest.approx(50 / 0.85, abs=0.1),
        pytest.approx(100 / 0.85, abs=0.1),
    ]
    few = slots.expected(1.0, (1000, 1280), 4, device)
    assert few["memory"] == 5.1
    assert few["expected"] == [5.5, 5.5]


def test_the_record_is_what_the_disassembler_says():
    """Needs ``pip install nvidia-cuda-nvdisasm`` and CuPy."""
    record = json.loads(slots.RECORD.read_text())
    assert all(20 < kernel["slots"] < 80 for kernel in record["kernels"].values())
    if find_spec("nvidia") is None or find_spec("cupy") is None:
        pytest.skip("CuPy or NVRTC is not installed")
    try:
        tool = slots._nvdisasm()
    except SystemExit:
        pytest.skip("nvdisasm is not installed")
    assert shutil.which(tool)
    if record["nvrtc"] == nvrtc_version():
        assert record["kernels"] == json.loads(json.dumps(slots.predictions()))
