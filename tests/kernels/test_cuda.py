"""What can be known of the CUDA side without a device; tests marked gpu show the rest."""

import contextlib
import functools
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import registers
from tcertify_kernels import (
    _cuda,
    add_integer_noise,
    add_noise,
    count_votes,
    counting,
    integer_noise,
    noise,
)
from tests.kernels.backends import KINDS, counted, noisy
from tests.kernels.on_ptx import needs_nvrtc

LAYOUTS = ("contiguous", "channels_last", "colour")
DTYPES = ("float32", "float16", "bfloat16")
NOISE = {
    "noise": {f"{layout}_{dtype}" for layout in LAYOUTS for dtype in DTYPES},
    "integer_noise": {f"integer_{layout}_{dtype}" for layout in LAYOUTS for dtype in DTYPES},
}
KERNELS = {*NOISE["noise"], *NOISE["integer_noise"], "few_32", "few_16", "many_32", "many_16"}
resources = functools.cache(registers.resources)


@needs_nvrtc
@pytest.mark.parametrize("architecture", registers.ARCHITECTURES)
def test_every_kernel_compiles_without_spills_or_local_memory(architecture):
    needs = resources(architecture)
    assert set(needs) == KERNELS
    assert all(need["stack"] == need["spilled"] == 0 for need in needs.values())
    assert all(need["registers"] <= 80 for need in needs.values())  # three blocks of 256 an SM


@needs_nvrtc
def test_the_record_is_what_the_compiler_says():
    record = json.loads(registers.RECORD.read_text())
    assert set(record["kernels"]) == {f"sm_{target}" for target in registers.ARCHITECTURES}
    if record["nvrtc"] == registers.nvrtc_version():
        assert record["kernels"]["sm_90"] == resources(90)


@needs_nvrtc
@pytest.mark.parametrize(
    ("stem", "approximate"), [("noise", {"rsqrt.approx.ftz.f32"}), ("integer_noise", set())]
)
def test_stores_are_of_16_bytes_and_no_operation_but_the_first_guess_of_a_root_is_approximate(
    stem, approximate
):
    ptx = registers.compile_kernels(stem, "-arch=compute_80", method="ptx")[0]
    text = ptx.decode() if isinstance(ptx, bytes) else ptx
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)\n}", text, re.DOTALL))
    assert set(bodies) == NOISE[stem]
    for name, body in bodies.items():
        layout = next(layout for layout in LAYOUTS if layout in name)
        wide = body.count("st.global.v4")
        assert wide == {"contiguous": 2, "channels_last": 0, "colour": 3}[layout]
        assert set(re.findall(r"\b[a-z0-9]+\.approx[\w.]*", body)) == approximate
        assert ".local" not in body
        rounded = re.findall(r"\b(?:fma|mul|add|sub|sqrt|rcp|div)\.[\w.]*f32", body)
        assert rounded
        assert all(".rn" in operation for operation in rounded)


def test_the_source_that_is_compiled_has_nothing_to_include():
    for stem in registers.STEMS:
        assert "#include" not in _cuda.source(stem)
        assert "__global__" in _cuda.source(stem)
        assert _cuda.source(stem).count("uint4 philox(") <= 1


@pytest.fixture
def launches(monkeypatch):
    """Tensors on the CPU take the device's path, and each launch is written down."""
    written = []
    for module in (noise, integer_noise):
        monkeypatch.setattr(module, "_fill_on_host", module._fill_on_device)
    monkeypatch.setattr(counting, "_count_on_host", counting._count_on_device)
    monkeypatch.setattr(_cuda, "launch", lambda *launch: written.append(launch))
    return written


def rows(count):
    return torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize(
    ("shape", "dtype", "channels_last", "name", "grid", "block"),
    [
        ((1000, 3, 32, 32), torch.float32, False, "contiguous_float32", (1, 1000), (256, 1)),
        ((1000, 3, 32, 32), torch.bfloat16, False, "contiguous_bfloat16", (2, 500), (128, 2)),
        ((1000, 3, 32, 32), torch.float16, True, "colour_float16", (1, 500), (128, 2)),
        ((10, 3, 5, 5), torch.float32, True, "channels_last_float32", (1, 2), (32, 8)),
        ((70_000, 1, 8, 8), torch.float32, False, "contiguous_float32", (1, 4375), (16, 16)),
        ((256, 3, 224, 224), torch.float32, False, "contiguous_float32", (19, 256), (256, 1)),
        ((70_000, 1), torch.float32, False, "contiguous_float32", (1, 274), (1, 256)),
    ],
)
def test_noise_is_launched_on_the_kernel_of_its_dtype_and_layout(
    launches, shape, dtype, channels_last, name, grid, block
):
    out = torch.empty(shape, dtype=dtype)
    out = out.to(memory_format=torch.channels_last) if channels_last else out
    x, zero = torch.zeros(2, *shape[1:]), rows(shape[0])
    arrays, numbers = (x, zero.int(), zero, zero), {"seed": 2**64 - 1, "stream": 1}
    size, invalid = int(np.prod(shape[1:])), torch.empty(shape[0], dtype=torch.bool)
    sizes = size, shape[0], 2, shape[1], 1

    add_noise(out, *arrays, sigma=0.1, **numbers)
    stem, found, device, *where, arguments = launches.pop()
    assert (stem, found, device, where) == ("noise", name, out.device, [grid, block])
    assert arguments[0] == out.data_ptr()
    types = [*[int] * 6, np.uint64, *[np.uint32] * 5, np.float32]
    assert [type(argument) for argument in arguments] == types
    assert arguments[6:] == (2**64 - 1, *sizes, np.float32(0.1))

    add_integer_noise(out, invalid, *arrays, sigma=0.1, levels=255, **numbers)
    stem, found, device, *where, arguments = launches.pop()
    assert (stem, found, where) == ("integer_noise", f"integer_{name}", [grid, block])
    assert (arguments[0], arguments[5]) == (out.data_ptr(), invalid.data_ptr())
    types = [*[int] * 8, np.uint64, *[np.uint32] * 6, *[np.float32] * 3]
    assert [type(argument) for argument in arguments] == types
    reach = 255 + 230
    assert arguments[8:-2] == (2**64 - 1, *sizes, reach, 255)
    assert not invalid.any()


def test_votes_are_launched_on_the_kernel_of_their_width_and_number_of_classes(launches):
    for classes, dtype, name, grid in (
        (10, torch.float32, "few_32", (8, 1)),
        (128, torch.bfloat16, "few_16", (8, 1)),
        (1000, torch.float16, "many_16", (125, 1)),
        (129, torch.float32, "many_32", (125, 1)),
    ):
        logits, counts = torch.zeros(1000, classes, dtype=dtype), torch.zeros(1, classes + 1)
        count_votes(counts.long(), logits, rows(1000).int())
        stem, found, _, *sizes, arguments = launches.pop()
        assert (stem, found, sizes) == ("counting", name, [grid, (256, 1)])
        assert [type(argument) for argument in arguments] == [*[int] * 4, *[np.uint32] * 4]


def test_a_launch_goes_to_the_current_stream_under_the_guard_of_the_device(monkeypatch):
    events = []

    @contextlib.contextmanager
    def guard(device):
        events.append(f"enter {device}")
        yield
        events.append("leave")

    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=f"of {device}")
    )
    monkeypatch.setattr(
        _cuda, "kernel", lambda *name: lambda *sizes, stream: events.append(stream.ptr)
    )
    _cuda.launch("noise", "contiguous_float32", "cuda:1", (1, 1), (256, 1), ())
    assert events == ["enter cuda:1", "of cuda:1", "leave"]


def test_a_missing_cupy_is_an_error_that_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ModuleNotFoundError, match="pip install cupy-cuda13x 'nvidia"):
        _cuda.kernel.__wrapped__("noise", "contiguous_float32")


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_set(monkeypatch):
    class Unwritable:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise PermissionError(13, "Permission denied", "/nowhere")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Unwritable(), *sys.meta_path])
    with pytest.raises(OSError, match="in /nowhere: set CUPY_CACHE_DIR to a folder"):
        _cuda.kernel.__wrapped__("noise", "contiguous_float32")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_graph_replays_with_samples_that_the_device_advances(kind):
    batch, steps, shape = 64, 3, (3, 8, 8)
    x, zero = (torch.randint(256, (1, *shape)) / 255).cuda(), rows(batch).cuda()
    out, sample = torch.empty(batch, *shape).cuda(), torch.arange(batch).cuda()
    invalid = torch.ones(batch, dtype=torch.bool).cuda()
    counts, limit = rows(11).view(1, 11).cuda(), torch.tensor(150).cuda()
    weights = torch.randn(192, 10).cuda()

    def step():
        arrays, numbers = (x, zero.int(), zero, sample), {"sigma": 0.5, "seed": 3, "stream": 1}
        if kind == "integer":
            add_integer_noise(out, invalid, *arrays, **numbers, **KINDS[kind])
            logits = (out.flatten(1) @ weights).masked_fill(invalid[:, None], torch.nan)
        else:
            add_noise(out, *arrays, **numbers)
            logits = out.flatten(1) @ weights
        count_votes(counts, logits, zero.int(), limit=limit)
        sample.add_(batch)
        limit.sub_(batch)

    saved = [tensor.clone() for tensor in (sample, counts, limit)]
    for _ in range(steps):
        step()
    eager = counts.clone(), out.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for tensor, before in zip((sample, counts, limit), saved, strict=True):
        tensor.copy_(before)
    for _ in range(steps):
        graph.replay()
    assert torch.equal(counts, eager[0])
    assert torch.equal(out, eager[1])
    assert int(counts.sum()) == 150


@pytest.mark.gpu
def test_kernels_run_on_the_stream_and_device_of_the_tensors():
    side = torch.cuda.Stream()
    x, zero = torch.zeros(1, 4096), rows(64)
    numbers = {"sigma": 1.0, "seed": 3, "stream": 1}
    expected = noisy("numba", torch.empty(64, 4096), x, zero.int(), zero, zero, **numbers)
    with torch.cuda.stream(side):
        found = noisy("cuda", torch.empty(64, 4096), x, zero.int(), zero, zero, **numbers)
        votes = counted("cuda", rows(11).view(1, 11), torch.rand(64, 10), zero.int())
    assert torch.equal(found, expected)
    assert int(votes.sum()) == 64
