"""The ladder of batch sizes, on a clock that only the work moves."""

import pytest
import torch

from benchmarks.tuning import tune


class Machine:
    """Whose forward pass of so many rows takes so many seconds; the first one twice as long."""

    def __init__(self, seconds_of, room=2**40):
        self.seconds_of, self.room, self.now, self.seen = seconds_of, room, 100.0, []

    def clock(self):
        return self.now

    def work(self, rows):
        if rows > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        self.now += self.seconds_of(rows) * (1 if rows in self.seen else 2)
        self.seen.append(rows)

    def tune(self, most=1024, seconds=1000.0, **options):
        return tune(self.work, most=most, seconds=seconds, clock=self.clock, **options)


def overhead(rows):
    """A launch, and the rows: the more, the better."""
    return 1 + rows


def cache(rows):
    """Up to 8 rows fit a cache; beyond, each row takes three times as long."""
    return 1 + (rows if rows <= 8 else 3 * rows)


def test_the_fastest_size_is_kept():
    assert Machine(cache).tune().rows == 8
    assert Machine(overhead).tune(most=64).rows == 32  # 64 gains less than the clock can tell
    assert Machine(overhead).tune(most=16).rows == 16


def test_rates_are_samples_per_second_of_the_shortest_call():
    found = Machine(overhead).tune(most=4)
    assert found.rates == {1: 0.5, 2: pytest.approx(2 / 3), 4: pytest.approx(0.8)}


def test_sizes_beyond_two_that_are_much_slower_are_not_tried():
    machine = Machine(cache)
    machine.tune()
    assert max(machine.seen) == 32


def test_of_sizes_that_are_as_fast_the_smallest_is_kept():
    assert Machine(lambda rows: rows).tune().rows == 1
    assert Machine(lambda rows: rows * (1 if rows == 1 else 0.99)).tune().rows == 1


@pytest.mark.parametrize("seconds", [0.0, 30.0, 100.0, 500.0])
def test_the_time_limit_holds_but_for_the_first_size(seconds):
    machine = Machine(overhead)
    found = machine.tune(seconds=seconds)
    assert machine.now - 100 <= max(seconds, 10)
    assert found.rows in found.rates
    if seconds == 500.0:
        assert max(found.rates) >= 32


def test_the_ladder_ends_where_memory_does():
    machine = Machine(overhead, room=40)
    assert machine.tune().rows == 32
    assert max(machine.seen) == 32


def test_the_first_size_may_be_another_and_is_always_timed():
    assert min(Machine(overhead).tune(fewest=512, most=16384).rates) == 512
    assert Machine(overhead).tune(fewest=4, most=4, seconds=0.0).rows == 4
    with pytest.raises(RuntimeError, match="can't allocate"):
        Machine(overhead, room=0).tune()


def test_errors_of_the_classifier_are_raised():
    def work(rows):
        raise ValueError("expected 4D input")

    with pytest.raises(ValueError, match="expected 4D"):
        tune(work, most=8, seconds=1.0)


def test_a_network_is_tuned_within_the_time():
    network = torch.nn.Linear(8, 4)
    found = tune(lambda rows: network(torch.zeros(rows, 8)), most=64, seconds=5.0)
    assert found.rows in found.rates
    assert set(found.rates) <= {1, 2, 4, 8, 16, 32, 64}
