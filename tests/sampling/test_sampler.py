"""Sampler: votes that depend on nothing but seed, image, sample and stream."""

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tcertify.classifiers import Classifier, Execution
from tcertify.errors import VotesLostError
from tcertify.sampling import ESTIMATION, SELECTION, GaussianNoise, IntegerNoise, Sampler
from tcertify.sampling.graphs import _set_sync_debug_mode

IMAGES = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def sampler(batch_size=64, seed=0):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    return Sampler(Classifier(network, 3), GaussianNoise(1.0, seed), batch_size=batch_size)


def of(classifier, batch_size=None, **options):
    """Return a sampler of three classes under noise of deviation 0.5."""
    return Sampler(Classifier(classifier, 3, **options), GaussianNoise(0.5), batch_size=batch_size)


@given(
    batch_size=st.integers(1, 200),
    stops=st.lists(st.integers(0, 90), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_counts_do_not_depend_on_the_batches_or_the_order_of_images(batch_size, stops, order):
    ids, stops, order = np.arange(10, 14), np.array(stops), list(order)
    whole = sampler().count(IMAGES, ids, 0, stops, ESTIMATION)
    assert whole.sum(1).tolist() == stops.tolist()
    shuffled = sampler(batch_size).count(IMAGES[order], ids[order], 0, stops[order], ESTIMATION)
    assert shuffled.tolist() == whole[order].tolist()


@given(st.integers(0, 100))
def test_a_range_is_the_sum_of_its_parts(cut):
    ids = range(4)
    whole = sampler().count(IMAGES, ids, 0, 100, ESTIMATION)
    first = sampler().count(IMAGES, ids, 0, cut, ESTIMATION)
    second = sampler().count(IMAGES, ids, cut, 100, ESTIMATION)
    assert (first + second).tolist() == whole.tolist()


def test_streams_and_seeds_draw_different_votes():
    counts = [
        sampler(seed=seed).count(IMAGES, range(4), 0, 5000, stream).tolist()
        for seed in (0, 1)
        for stream in (SELECTION, ESTIMATION)
    ]
    assert all(a != b for i, a in enumerate(counts) for b in counts[:i])


def test_sample_ids_far_beyond_32_bits_are_drawn():
    counts = sampler().count(IMAGES, range(4), 2**40, 2**40 + 50, ESTIMATION)
    assert counts.sum(1).tolist() == [50] * 4


def test_votes_are_those_of_a_plain_loop_with_the_same_noise():
    """Against one forward pass over all noisy copies of one image."""
    seen = []

    def classifier(batch):
        seen.append(batch.clone())
        return batch.flatten(1)[:, :3]

    counts = of(classifier, batch_size=32).count(IMAGES[:1], [5], 0, 800, ESTIMATION)
    votes = torch.cat(seen).flatten(1)[:, :3].argmax(1)
    assert counts[0, :3].tolist() == torch.bincount(votes, minlength=3).tolist()
    noise = (torch.cat(seen) - IMAGES[0]) / 0.5
    assert abs(float(noise.mean())) < 5 / np.sqrt(noise.numel())
    assert abs(float(noise.std()) - 1) < 5 / np.sqrt(noise.numel())


def test_nan_logits_in_one_of_a_thousand_rows_are_invalid_votes():
    def classifier(batch):
        logits = torch.zeros(len(batch), 3)
        logits[::1000] = torch.nan
        return logits

    counts = of(classifier, batch_size=1000).count(IMAGES[:1], [0], 0, 3000, ESTIMATION)
    assert counts.tolist() == [[2997, 0, 0, 3]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_classifier_runs_in_the_precision_and_layout_that_are_stated(dtype, channels_last):
    seen = []

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, 3)

        def forward(self, batch):
            layout = torch.channels_last if channels_last else torch.contiguous_format
            seen.append((batch.dtype, self.linear.weight.dtype))
            assert batch.is_contiguous(memory_format=layout)
            return self.linear(batch.flatten(1))

    network = Network()
    execution = Execution(dtype=dtype, channels_last=channels_last)
    sampler = of(network, execution=execution)
    assert sampler.count(IMAGES, range(4), 0, 10, ESTIMATION).sum() == 40
    assert set(seen) == {(getattr(torch, dtype), getattr(torch, dtype))}
    assert network.linear.weight.dtype == torch.float32


def test_the_surroundings_neither_change_the_run_nor_are_changed():
    def classifier(batch):
        assert not torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
        return batch.flatten(1)[:, :3]

    precision = torch.backends.cuda.matmul.fp32_precision
    with torch.autocast("cpu"):
        of(classifier).count(IMAGES, range(4), 0, 10, ESTIMATION)
    assert torch.backends.cuda.matmul.fp32_precision == precision


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_compiled_code_gives_the_same_counts():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    plain, compiled = (
        of(network, batch_size=32, execution=Execution(compile=compile))
        for compile in (False, True)
    )
    arguments = IMAGES, range(4), 0, [50, 20, 0, 31], ESTIMATION
    assert compiled.count(*arguments).tolist() == plain.count(*arguments).tolist()
    arguments = IMAGES[:2], [8, 9], [5, 90], [6, 100], ESTIMATION  # padding after fewer images
    assert compiled.count(*arguments).tolist() == plain.count(*arguments).tolist()


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_running_out_of_memory_halves_the_batch_and_changes_no_count(error):
    sizes = []

    def tight(batch):
        sizes.append(len(batch))
        if len(batch) > 20:
            raise error("too large")
        return batch.flatten(1)[:, :3]

    roomy = of(lambda batch: batch.flatten(1)[:, :3], batch_size=100)
    sampler = of(tight, batch_size=100)
    arguments = IMAGES, range(4), 0, [90, 10, 0, 33], ESTIMATION
    assert sampler.count(*arguments).tolist() == roomy.count(*arguments).tolist()
    assert sampler.batch_size == 12
    assert sizes[:4] == [100, 50, 25, 12]


def test_a_memory_limit_of_the_process_halves_the_batch():
    code = """
import resource, torch
from tcertify.classifiers import Classifier
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler
def wide(b):
    return b.repeat(1, 400).sum(1, keepdim=True) * torch.ones(2)
sampler = Sampler(Classifier(wide, 2), GaussianNoise(0.5))
images = torch.zeros(1, 100)
sampler.count(images, [0], 0, 8, ESTIMATION)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
assert sampler.count(images, [0], 0, 5000, ESTIMATION).sum() == 5000
assert sampler.batch_size <= 2048, sampler.batch_size
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_memory_to_keep_costs_nothing_but_time(monkeypatch):
    empty = torch.empty

    def tight(*size, **options):
        if options.get("dtype") is torch.uint8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", tight)
    kept = sampler(batch_size=50)
    assert kept.count(IMAGES, range(4), 0, 100, ESTIMATION).sum() == 400
    assert kept.batch_size == 50


def test_memory_that_does_not_suffice_for_one_row_is_an_error():
    def hopeless(batch):
        raise MemoryError("always")

    with pytest.raises(MemoryError):
        of(hopeless).count(IMAGES, range(4), 0, 10, ESTIMATION)


@pytest.mark.parametrize("recording", ["succeeds", "fails"])
def test_the_batches_before_a_graph_and_its_replays_count_each_sample_once(monkeypatch, recording):
    """The order of work of a CUDA device, its graph replaced by the step that it would hold."""
    stepped = []

    class Graphs(dict):
        def __init__(self, device):
            super().__init__()

        def warm_up(self, step, batches):
            for _ in range(batches):
                stepped.append("warm up")
                step()
            return None

        def record(self, stream, step):
            if recording == "fails":
                return "operation not permitted when stream is capturing"
            self[stream] = step
            return None

        def replay(self, stream):
            stepped.append("replay")
            self[stream]()

    arguments = IMAGES, range(4), 0, [600, 1, 0, 333], ESTIMATION
    expected = sampler(batch_size=1000).count(*arguments)
    monkeypatch.setattr("tcertify.sampling.batch._KERNEL_ELEMENTS", 0)
    monkeypatch.setattr("tcertify.sampling.batch.Graphs", Graphs)
    monkeypatch.setattr(Classifier, "fixed_shape", True)
    replaying = sampler(batch_size=64)
    replaying.classifier.graphable = True
    if recording == "fails":
        with pytest.warns(UserWarning, match="No CUDA graph"):
            assert replaying.count(*arguments).tolist() == expected.tolist()
        assert stepped == ["warm up"] * 3
    else:
        assert replaying.count(*arguments).tolist() == expected.tolist()
        assert stepped == ["warm up"] * 3 + ["replay"] * 12
        stepped.clear()
        assert replaying.count(*arguments).tolist() == expected.tolist()
        assert stepped == ["replay"] * 15


def test_votes_that_are_lost_are_an_error(monkeypatch):
    """A graph that is empty replays nothing, and says nothing."""

    class Empty(dict):
        def __init__(self, device):
            super().__init__()

        def warm_up(self, step, batches):
            for _ in range(batches):
                step()

        def record(self, stream, step):
            self[stream] = None

        def replay(self, stream):
            pass

    monkeypatch.setattr("tcertify.sampling.batch._KERNEL_ELEMENTS", 0)
    monkeypatch.setattr("tcertify.sampling.batch.Graphs", Empty)
    losing = sampler(batch_size=64)
    losing.classifier.graphable = True
    with pytest.raises(VotesLostError, match=r"Image 7 got 192 votes for 5000 samples"):
        losing.count(IMAGES[:1], [7], 0, 5000, ESTIMATION)


def test_threads_that_meet_in_the_middle_of_a_batch_get_their_own_votes():
    entered, done = threading.Event(), threading.Event()

    def classifier(batch):
        entered.set()
        done.wait(0.3)  # long enough for another thread to write into shared buffers
        return batch.flatten(1)[:, :3]

    shared = of(classifier, batch_size=32)
    first = IMAGES[:1], [0], 0, 32, ESTIMATION
    second = IMAGES[1:2], [1], 0, 20, ESTIMATION
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(shared.count, *first)
        entered.wait(60)
        two = pool.submit(shared.count, *second)
        found = one.result().tolist(), two.result().tolist()
    plain = of(lambda batch: batch.flatten(1)[:, :3])
    assert found == (plain.count(*first).tolist(), plain.count(*second).tolist())


def test_buffers_go_with_the_sampler_and_without_the_garbage_collector():
    at_work = sampler()
    at_work.count(IMAGES, range(4), 0, 100, ESTIMATION)
    buffers = [weakref.ref(at_work._batch), weakref.ref(at_work._batch._noisy)]
    gc.disable()
    try:
        del at_work
        assert [buffer() for buffer in buffers] == [None, None]
    finally:
        gc.enable()


def test_a_batch_size_is_a_limit_and_a_huge_one_is_no_request_for_memory():
    at_work = sampler(batch_size=10**13)
    assert at_work.count(IMAGES, range(4), 0, 10, ESTIMATION).sum() == 40
    assert at_work.batch_size == 1024


class Largest(nn.Module):
    """Logits that no choice of algorithm for a batch size can move by a bit."""

    def forward(self, batch):
        return batch.flatten(1).view(-1, 3, 4).amax(2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cuda_graph_gives_the_counts_of_single_launches_and_of_a_cpu(dtype):
    execution, stops = Execution(dtype=dtype), [5000, 1, 0, 777]
    graph = of(Largest(), batch_size=64, device="cuda", execution=execution)
    counts = graph.count(IMAGES.cuda(), range(4), 0, stops, ESTIMATION)
    eager = of(Largest(), batch_size=4096, device="cuda", execution=execution)
    expected = eager.count(IMAGES.cuda(), range(4), 0, stops, ESTIMATION)
    cpu = of(Largest(), execution=execution)
    assert counts.tolist() == expected.tolist()
    assert counts.tolist() == cpu.count(IMAGES, range(4), 0, stops, ESTIMATION).tolist()
    assert ESTIMATION in graph._batch._graphs
    assert ESTIMATION not in eager._batch._graphs


@pytest.mark.gpu
def test_a_graph_is_recorded_anew_when_an_attribute_of_the_classifier_has_changed():
    class Shifted(Largest):
        shift = 0

        def forward(self, batch):
            return super().forward(batch).roll(self.shift, 1)

    classifier = Shifted()
    sampler = of(classifier, batch_size=64, device="cuda")
    arguments = IMAGES[:1].cuda(), [0], 0, 5000, ESTIMATION
    before = sampler.count(*arguments)[0]
    recorded = sampler._batch._graphs._graphs[ESTIMATION]
    sampler.count(*arguments)
    assert sampler._batch._graphs._graphs[ESTIMATION] is recorded
    classifier.shift = 1
    assert sampler.count(*arguments)[0].tolist() == [*before[[2, 0, 1]], before[3]]


@pytest.mark.gpu
def test_a_classifier_that_no_graph_can_hold_is_launched_batch_by_batch():
    class Waiting(Largest):
        def forward(self, batch):
            batch.amax().item()
            return super().forward(batch)

    arguments = IMAGES.cuda(), range(4), 0, 1000, ESTIMATION
    sampler = of(Waiting(), batch_size=64, device="cuda")
    with pytest.warns(UserWarning, match="No CUDA graph"):
        counts = sampler.count(*arguments)
    assert sampler.count(*arguments).tolist() == counts.tolist()  # and not tried again
    eager = of(Largest(), batch_size=4096, device="cuda")
    assert counts.tolist() == eager.count(*arguments).tolist()
    # And torch is as it was.
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.randn(1, device="cuda").isfinite()


@pytest.mark.gpu
def test_the_host_does_not_wait_for_the_device_between_looks():
    sampler = of(Largest(), batch_size=64, device="cuda")
    images = IMAGES.cuda()
    sampler.count(images, range(4), 0, 1000, ESTIMATION)
    batch = sampler._batch
    torch.cuda.set_sync_debug_mode("error")
    try:
        with sampler.classifier.running():
            for _ in range(20):
                batch._step(ESTIMATION, 64)
                batch._graphs.replay(ESTIMATION)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_ids": [2**32]}, "`image_ids` must be at most"),
        ({"image_ids": [-1]}, "`image_ids` must be at least 0"),
        ({"start": [-5]}, "`start` must be at least 0"),
    ],
)
def test_bad_ranges_get_one_sentence(arguments, message):
    call = {"image_ids": [0], "start": 0, "stop": 10, "stream": 0} | arguments
    with pytest.raises(ValueError, match=message):
        sampler().count(IMAGES[:1], **call)


def first_three(batch):
    return batch.flatten(1)[:, :3]


@dataclass(frozen=True)
class Tying(IntegerNoise):
    """Integer noise of which every fifth sample ties."""

    def add(self, out, invalid, images, slot, image_ids, samples, *, stream):
        super().add(out, invalid, images, slot, image_ids, samples, stream=stream)
        invalid.copy_(samples % 5 == 0)
        return out


@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_a_draw_that_ties_is_an_invalid_vote_and_changes_no_other(batch_size):
    classifier, grey = Classifier(first_three, 3), torch.arange(8).reshape(2, 1, 2, 2) / 255
    clear, tying = (
        Sampler(classifier, kind(0.5, 255), batch_size=batch_size) for kind in (IntegerNoise, Tying)
    )
    for n in (1, 100, 103):
        votes = tying.count(grey, [3, 4], 0, n, ESTIMATION)
        assert votes[:, -1].tolist() == [-(-n // 5)] * 2
        alone = sum(
            clear.count(grey, [3, 4], sample, sample + 1, ESTIMATION)
            for sample in range(n)
            if sample % 5
        )
        assert n == 1 or votes[:, :-1].tolist() == alone[:, :-1].tolist()


def test_an_image_off_the_grid_of_integer_noise_gets_no_vote():
    sampler = Sampler(Classifier(first_three, 3), IntegerNoise(0.5, 255))
    images = torch.tensor([[0.0, 1.0, 0.2, 0.4], [0.0, 1.0, 0.2, 0.5]]).reshape(2, 1, 2, 2)
    assert sampler.count(images[:1], [7], 0, 10, ESTIMATION).sum() == 10
    with pytest.raises(ValueError, match=r"^Image 8: `x` must be on the grid k / 255"):
        sampler.count(images, [7, 8], 0, 10, ESTIMATION)


class OnADevice(torch.Tensor):
    """Images in the memory of the host that say they are on a GPU."""

    is_cuda = True


class Reads(TorchDispatchMode):
    """Notes each operation for which the host would wait on a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in {
            "_local_scalar_dense",
            "equal",
            "is_nonzero",
            "nonzero",
        }:
            self.seen.append(func)
        return func(*args, **(kwargs or {}))


GREY = torch.arange(8).reshape(2, 1, 2, 2) / 255
BOTH = pytest.mark.parametrize(
    "noise", [GaussianNoise(0.5), IntegerNoise(0.5, 255)], ids=lambda noise: noise.kind
)


@BOTH
def test_the_host_waits_for_a_device_once_in_a_count(noise, monkeypatch):
    copies, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self) or cpu(self))
    for module in ("_batch", "counting"):  # what the kernels look at where tensors are on the CPU
        monkeypatch.setattr(f"tcertify_kernels.{module}.check_range", lambda *_: None)
    sampler = Sampler(Classifier(first_three, 3), noise, batch_size=8)
    with Reads() as reads:
        there = sampler.count(GREY.as_subclass(OnADevice), [3, 4], 0, [50, 21], ESTIMATION)
    assert (len(copies), reads.seen) == (1, [])
    with Reads() as reads:
        here = sampler.count(GREY, [3, 4], 0, [50, 21], ESTIMATION)
    assert reads.seen
    assert there.tolist() == here.tolist()


@BOTH
@pytest.mark.parametrize("there", [False, True], ids=["cpu", "device"])
def test_images_that_must_get_no_votes_are_refused_in_the_same_words_everywhere(noise, there):
    sampler = Sampler(Classifier(first_three, 3), noise, batch_size=8)
    bad = {"`x` must be finite, got NaN or Inf": [torch.nan, torch.inf, -torch.inf]}
    if noise.levels is not None:
        bad[r"Image 8: `x` must be on the grid k / 255: pixel \(0, 1, 0\) is"] = [0.5, -0.004, 2.0]
    for message, pixels in bad.items():
        for pixel in pixels:
            images = GREY.clone()
            images[1, 0, 1, 0] = pixel
            images = images.as_subclass(OnADevice) if there else images
            for stop in (20, [20, 0]):  # an image that needs no votes is looked at as well
                with pytest.raises(ValueError, match=f"^{message}"):
                    sampler.count(images, [7, 8], 0, stop, ESTIMATION)
    assert sampler.count(GREY, [7, 8], 0, 20, ESTIMATION).sum(1).tolist() == [20, 20]


@pytest.mark.gpu
@BOTH
def test_cuda_itself_sees_one_wait_in_a_count(noise):
    sampler = Sampler(Classifier(Largest(), 3, device="cuda"), noise, batch_size=64)
    arguments = torch.arange(24).view(2, 3, 2, 2).cuda() / 255, [3, 4], 0, [5000, 21], ESTIMATION
    expected = sampler.count(*arguments)
    assert ESTIMATION in sampler._batch._graphs
    _set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="called a synchronizing CUDA operation") as waits:
            counts = sampler.count(*arguments)
    finally:
        _set_sync_debug_mode("default")
    assert len(waits) == 1
    assert counts.tolist() == expected.tolist()
