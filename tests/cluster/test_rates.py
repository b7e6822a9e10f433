"""The line that tells how a run on a cluster goes."""

from types import SimpleNamespace

from tcertify.cluster.pool import Hand
from tcertify.cluster.rates import Rates


def rates_of(workers, on_report=None, late=()):
    hands = [Hand(None, number, begun=True) for number in range(1, workers + 1)]
    found = Rates(SimpleNamespace(hands=hands, stragglers=lambda: [*late]), 200, on_report)
    for hand in hands:
        found.add(hand, 10, 1000 * hand.number)
    return found


def test_a_line_has_the_rates_of_all_and_of_each_and_the_time_left():
    assert rates_of(2).line(10.0) == (
        "20 of 200 images, 2 images/s, 300 samples/s on 2 workers (worker 1: 100, worker 2: 200),"
        " about 2 minutes left"
    )


def test_of_many_workers_the_slowest_and_the_fastest_are_told():
    assert "on 8 workers (worker 1: 100, worker 8: 800)" in rates_of(8).line(10.0)


def test_stragglers_are_named():
    task = SimpleNamespace(name="image 7")
    late = SimpleNamespace(name="worker 2", task=task)
    assert rates_of(2, late=[late]).line(10.0).endswith("; straggler: worker 2 at image 7")


def test_a_line_comes_once_a_minute(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr("tcertify.cluster.rates.time.monotonic", lambda: now[0])
    found = rates_of(2, said.append)
    for now[0] in range(0, 200, 10):
        found.tick()
    assert len(said) == 3
