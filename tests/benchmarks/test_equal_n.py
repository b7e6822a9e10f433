"""Engine, loop and limit at equal n: what is said of them on docs/performance.md."""

import numpy as np
import pytest

from benchmarks import equal_n

FOUND = {
    "network": "digits",
    "threads": 2,
    "execution": "float32",
    "engine": {"batch_size": 512},
    "loop_over_engine": {"cpu": 1.875, "wall": 1.7},
    "engine_over_limit": {"cpu": 1.041, "wall": 1.05},
    "cpu_over_wall_and_threads": 0.99,
}
REPORT = {
    "command": "python -m benchmarks.equal_n",
    "commit": "abc",
    "date": "2026-01-01",
    "processor": "One",
    "versions": {"torch": "2"},
    "results": [FOUND],
}


def test_the_table_of_the_page_is_put_in_the_place_of_the_one_before():
    table = equal_n.page(REPORT)
    assert "| digits | 2 | float32 | 512 | 1.88 | 1.70 | 1.04 | 1.05 | 0.99 |" in table
    assert table.startswith(
        "`python -m benchmarks.equal_n` at commit abc, 2026-01-01; One; torch 2."
    )
    before = equal_n.PAGE.read_text()
    once = equal_n.put_into(before, table, "equal_n")
    assert table in once
    assert equal_n.put_into(once, table, "equal_n") == once
    begin, end = "<!-- of benchmarks.equal_n -->", "<!-- end -->"
    assert once.split(begin)[0] == before.split(begin)[0]
    assert once.split(table)[1].lstrip() == end + before.split(begin)[1].split(end, 1)[1]


def test_votes_of_another_classifier_are_found():
    equal_n.check([[500, 500]], [[510, 490]], exact=True)
    with pytest.raises(AssertionError):
        equal_n.check([[100, 900]], [[500, 500]], exact=True)
    with pytest.raises(AssertionError):
        equal_n.check([[500, 500]], [[500, 501]], exact=True)


def test_a_slow_work_is_measured_once_after_its_first_call(monkeypatch):
    ticks, calls = iter(np.arange(0.0, 1000.0, 6.0)), []
    monkeypatch.setattr(equal_n.time, "perf_counter", lambda: next(ticks))
    equal_n.measured(lambda: calls.append(1), 1)
    assert len(calls) == 2
