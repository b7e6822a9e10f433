"""The backends sm_75 and sm_90 execute NVRTC's PTX on the CPU: what they would find, they find."""

import re

import numpy as np
import pytest
import torch

from tests.kernels import on_ptx, ptx_to_c
from tests.kernels.backends import noisy

pytestmark = on_ptx.needs_both

HEAD = 'extern "C" __global__ void '


def run(code, *tensors, threads=32, name="kernel"):
    """Run one kernel over tensors, the first of which it may write."""
    program = on_ptx.Program(on_ptx.ptx_of(HEAD + code, 90))
    memory = [(tensor, i == 0) for i, tensor in enumerate(tensors)]
    addresses = tuple(tensor.data_ptr() for tensor in tensors)
    program.launch(name, (1, 1), (threads, 1), addresses, memory)


@pytest.mark.parametrize("conversion", ["bf16x2", "f16x2"])
def test_exchanged_operands_are_found(conversion, monkeypatch):
    source = on_ptx._cuda.source("noise")
    swap = re.compile(rf"(cvt\.rn\.{conversion}\.f32 %\w+), (%\w+), (%\w+);")
    swapped, count = swap.subn(r"\1, \3, \2;", on_ptx.ptx_of(source, 90))
    assert count > 0
    dtype = {"bf16x2": torch.bfloat16, "f16x2": torch.float16}[conversion]
    rows = torch.zeros(4, dtype=torch.int64)
    arrays = torch.rand(1, 3, 8, 8), rows.int(), rows, torch.arange(4)

    def bits(backend):
        out = torch.empty(4, 3, 8, 8, dtype=dtype)
        return noisy(backend, out, *arrays, sigma=0.5, seed=1, stream=1)

    assert torch.equal(bits("sm_90"), bits("numba"))
    broken = on_ptx.Program(swapped)
    monkeypatch.setattr(on_ptx, "program", lambda stem, architecture: broken)
    assert (bits("sm_90") != bits("numba")).float().mean() > 0.9


def test_a_kernel_computes_what_its_code_says():
    out, x = torch.empty(32), torch.arange(32.0)
    rounded = "out[threadIdx.x] = __fmul_rn(3, x[threadIdx.x]);"
    run(f"kernel(float* out, const float* x) {{ {rounded} }}", out, x)
    assert torch.equal(out, 3 * x)


def test_an_operation_that_ptxas_may_contract_is_refused():
    with pytest.raises(ptx_to_c.UntranslatableError, match=r"mul\.ftz\.f32"):
        run("kernel(float* out, const float* x) { *out = 3 * *x; }", torch.empty(1), torch.ones(1))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("out[threadIdx.x] = x[threadIdx.x + 1];", "out of bounds: 4 bytes"),
        ("out[-1 - (int)threadIdx.x] = 1;", "out of bounds: 4 bytes"),
        ("((float*)x)[threadIdx.x] = out[threadIdx.x];", "written to an input: 4 bytes"),
        ("*(float2*)(out + 1) = *(float2*)x;", "misaligned: 8 bytes"),
        (
            "__shared__ float s[8]; s[threadIdx.x] = *x; __syncthreads(); *out = s[7];",
            "misaligned or out of bounds in shared memory",
        ),
        ("if (threadIdx.x < 16) __syncthreads(); *out = *x;", "lanes of a warp wait at different"),
        ("if (threadIdx.x < 32) __syncthreads(); *out = *x;", "a barrier that some threads"),
        ("*out = __shfl_xor_sync(0xFFFF, *x, 1);", "shuffle of a part of a warp"),
    ],
)
def test_a_fault_is_found(code, says):
    with pytest.raises(AssertionError, match=says):
        run(
            f"kernel(float* out, float* x) {{ {code} }}",
            torch.zeros(32),
            torch.ones(32),
            threads=64,
        )


def test_shared_memory_that_no_thread_has_written_is_no_number():
    out = torch.zeros(1)
    run(
        "kernel(float* out) { __shared__ float s[64]; s[threadIdx.x] = 1; __syncthreads();"
        " *out = s[threadIdx.x + 32]; }",
        out,
    )
    assert out.isnan()


def test_arguments_of_other_types_are_refused():
    program = on_ptx.Program(on_ptx.ptx_of(HEAD + "kernel(unsigned n) { }", 90))
    program.launch("kernel", (1, 1), (32, 1), (np.uint32(1),), [])
    with pytest.raises(AssertionError):
        program.launch("kernel", (1, 1), (32, 1), (np.float32(1),), [])


@pytest.mark.parametrize(
    "instruction",
    ["ex2.approx.f32 %r1, %r2;", "add.f32 %r1, %r2, %r2;", "mov.u32 %r1, %clock;", "exit;"],
)
def test_an_instruction_that_is_not_known_is_refused_by_name(instruction):
    ptx = f".visible .entry kernel(\n)\n{{\n.reg .b32 %r<9>;\n{instruction}\nret;\n}}\n"
    with pytest.raises(ptx_to_c.UntranslatableError, match=r"ex2|add\.f32|%clock|exit"):
        ptx_to_c.translate(ptx)
