"""One core for every benchmark on the CPU, and the figures that pytest-benchmark's table lacks."""

import itertools

import pytest
import torch

FIGURES = ("samples per second", "GB/s", "percent of bandwidth")


@pytest.fixture(autouse=True)
def one_thread():
    """Run torch, and with it our kernels, on one thread: what is compared is the code."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def shown(request, record_property):
    """Keep the throughput that a benchmark found for the table at the end."""
    yield
    benchmark = request.node.funcargs.get("benchmark")
    if benchmark is not None and set(FIGURES) <= benchmark.extra_info.keys():
        row = [benchmark.extra_info[name] for name in FIGURES]
        record_property("throughput", (benchmark.group, benchmark.name, *row))


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's table
def pytest_terminal_summary(terminalreporter):
    """Show throughput by group, the fastest first."""
    ends = terminalreporter.stats.get("", [])  # where pytest counts what follows a test
    pairs = itertools.chain.from_iterable(report.user_properties for report in ends)
    rows = [value for name, value in pairs if name == "throughput"]
    rows.sort(key=lambda row: (row[0], -row[2]))
    for group, members in itertools.groupby(rows, key=lambda row: row[0]):
        terminalreporter.section(group)
        terminalreporter.line(f"{'':16}" + "".join(f"{name:>24}" for name in FIGURES))
        for _, name, *values in members:
            terminalreporter.line(f"{name:16}" + "".join(f"{value:24,.4g}" for value in values))
