"""Graphs: on the images' device, in one pool, and torch is as it was where none can be had."""

from contextlib import contextmanager

import pytest
import torch

from tcertify.sampling.graphs import Graphs

DEVICE = torch.device("cuda", 1)


class _Main:
    def __init__(self, device, name):
        self.device, self.name = device, name

    def wait_stream(self, other):
        pass


class Cuda:
    """Stands for torch.cuda, with device 0 as the current one; notes what is asked of it."""

    def __init__(self):
        self.mode = 0
        self.streams = {at: _Main(torch.device("cuda", at), f"main {at}") for at in (0, 1)}
        self.calls, self.pools, self.capture_fails = [], 0, False

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_stream(self, other):
            pass

    class CUDAGraph:
        def replay(self):
            pass

    def current_stream(self, device):
        return self.streams[device.index]

    def set_stream(self, stream):
        self.streams[stream.device.index] = stream

    @contextmanager
    def stream(self, stream):
        before = self.current_stream(stream.device)
        self.set_stream(stream)
        yield
        self.set_stream(before)

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.calls.append(("graph", pool, stream.device))
        before = self.current_stream(stream.device)
        self.set_stream(stream)
        yield
        if self.capture_fails:  # which leaves the stream, as torch does
            raise RuntimeError("operation failed due to a previous error during capture")
        self.set_stream(before)

    def graph_pool_handle(self):
        self.pools += 1
        return self.pools

    def get_sync_debug_mode(self):
        return self.mode

    def set_sync_debug_mode(self, mode):
        self.mode = mode


@pytest.fixture
def cuda(monkeypatch):
    fake = Cuda()
    for name in dir(fake):
        if not name.startswith("_") and hasattr(torch.cuda, name):
            monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def stream_name(cuda):
    return getattr(cuda.current_stream(DEVICE), "name", "side")


def test_the_batches_that_warm_up_run_on_a_side_stream_of_the_images_device(cuda):
    seen, graphs = [], Graphs(DEVICE)
    assert graphs.warm_up(lambda: seen.append((stream_name(cuda), cuda.mode)), 3) is None
    assert seen == [("side", 0), ("side", 0), ("side", "error")]
    assert (stream_name(cuda), cuda.mode) == ("main 1", 0)
    assert graphs._side.device == DEVICE


def test_a_step_in_which_the_host_waits_is_run_again_and_never_recorded(cuda):
    counted = []

    def step():
        if cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        counted.append(1)

    graphs = Graphs(DEVICE)
    assert graphs.warm_up(step, 3) == "called a synchronizing CUDA operation"
    assert len(counted) == 3
    assert cuda.calls == []
    assert (stream_name(cuda), cuda.mode) == ("main 1", 0)


def test_an_error_of_the_classifier_itself_is_raised_and_everything_restored(cuda):
    def step():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Graphs(DEVICE).warm_up(step, 1)
    assert cuda.mode == 0

    def full():
        if cuda.mode == "error":
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Graphs(DEVICE).warm_up(full, 2)
    assert cuda.mode == 0


def test_all_graphs_share_one_pool_and_are_recorded_where_the_images_are(cuda):
    graphs = Graphs(DEVICE)
    for stream in (0, 1):
        assert graphs.warm_up(lambda: None, 3) is None
        assert graphs.record(stream, lambda: None) is None
        assert stream in graphs
        graphs.replay(stream)
    assert cuda.calls == [("graph", 1, DEVICE), ("graph", 1, DEVICE)]
    graphs.clear()
    assert 0 not in graphs


def test_a_recording_that_fails_after_all_leaves_the_stream_as_it_was(cuda):
    graphs, cuda.capture_fails = Graphs(DEVICE), True
    graphs.warm_up(lambda: None, 3)
    assert "previous error during capture" in graphs.record(0, lambda: None)
    assert stream_name(cuda) == "main 1"
    assert 0 not in graphs


@pytest.mark.gpu
@pytest.mark.parametrize("device", range(torch.cuda.device_count() or 1))
def test_a_graph_is_made_on_a_device_that_is_not_the_current_one(device):
    there, total = torch.device("cuda", device), torch.zeros(1, device=f"cuda:{device}")
    graphs = Graphs(there)
    assert graphs.warm_up(lambda: total.add_(1), 3) is None
    with torch.cuda.device(there):
        assert graphs.record(0, lambda: total.add_(1)) is None
    graphs.replay(0)
    assert total.item() == 4
    assert "synchronizing" in graphs.warm_up(lambda: total.item(), 3)
    assert torch.randn(1, device="cuda").isfinite()
