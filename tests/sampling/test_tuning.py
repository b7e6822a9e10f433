"""The ladder of batch sizes, on a clock that only the work moves, and every way to execute f."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tcertify.classifiers import Execution
from tcertify.sampling import Trial, Tuning, tune, tuning
from tcertify.sampling.tuning import fastest_rows


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
        return fastest_rows(self.work, most=most, seconds=seconds, clock=self.clock, **options)


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
        fastest_rows(work, most=8, seconds=1.0)


def test_a_network_is_tuned_within_the_time():
    network = torch.nn.Linear(8, 4)
    found = fastest_rows(lambda rows: network(torch.zeros(rows, 8)), most=64, seconds=5.0)
    assert found.rows in found.rates
    assert set(found.rates) <= {1, 2, 4, 8, 16, 32, 64}


X = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def quick(monkeypatch):
    """Short ladders, bfloat16 wherever we are, and a compiler that does nothing."""
    monkeypatch.setattr(tuning, "_LADDER_SECONDS", 0.02)
    monkeypatch.setattr(tuning, "_has_bfloat16", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3)).eval()


def named(found):
    return {trial.name: trial for trial in found.trials}


def test_every_execution_is_tried_and_votes_are_held_against_the_first(quick):
    module = network(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
    found = tune(module, 3, 0.5, X)
    assert [trial.name for trial in found.trials[:-1]] == [
        "float32",
        "float32, folded",
        "float32, channels-last",
        "float32, channels-last, folded",
        "bfloat16",
        "bfloat16, folded",
        "bfloat16, channels-last",
        "bfloat16, channels-last, folded",
    ]
    assert found.trials[-1].execution.compile
    assert all(trial.rows and trial.rate > 0 and trial.reason is None for trial in found.trials)
    votes = found.trials[0].votes
    assert 1 <= votes <= 1000
    assert {trial.votes for trial in found.trials} == {votes}
    assert [trial.moved for trial in found.trials[:2]] == [0, 0]


def test_votes_are_compared_sample_by_sample(quick, monkeypatch):
    """In bfloat16 every vote moves, and the counts of two classes stay as they are."""
    monkeypatch.setattr(tuning, "_enough", lambda rate: 1000)

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, batch):
            logits = torch.zeros(len(batch), 2)
            logits[:, 0] = batch[:, 0, 0, 0] - X[0, 0, 0]
            return logits if self.weight.dtype == torch.float32 else -logits

    trials = named(tune(Turned(), 2, 0.5, X))
    assert trials["float32, channels-last"].moved == 0
    assert trials["bfloat16"].votes == 1000
    assert trials["bfloat16"].moved > 990


def test_what_cannot_run_says_why_and_is_not_chosen(quick):
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, batch):
            assert batch.dtype == torch.float32, "only float32\nand more"
            return self.linear(batch.flatten(1))

    found = tune(Stubborn(), 3, 0.5, X)
    trials = named(found)
    assert "torch.fx can trace" in trials["float32, folded"].reason
    assert "float32, channels-last, folded" not in trials
    assert trials["bfloat16"].reason == "only float32"
    assert (trials["bfloat16"].rows, trials["bfloat16"].rate) == (0, 0.0)
    assert found.fastest.execution.dtype == "float32"
    assert any("not possible: only float32" in line for line in found.lines())


def test_a_classifier_that_cannot_run_as_it_is_raises(quick):
    with pytest.raises(ValueError, match="must return float logits of shape"):
        tune(network(), 4, 0.5, X)
    with pytest.raises(ValueError, match="`x` must be finite"):
        tune(network(), 3, 0.5, X / 0)


def test_a_plain_function_and_a_flat_image_leave_fewer_ways(quick):
    found = tune(lambda batch: batch[:, :3], 3, 0.5, torch.rand(5))
    assert [trial.name for trial in found.trials] == ["float32", "float32, compiled"]


def test_no_batch_is_larger_than_the_limit(quick):
    assert {trial.rows for trial in tune(network(), 3, 0.5, X, batch_size=4).trials} <= {0, 1, 2, 4}


def test_the_earlier_of_two_that_are_as_fast_is_chosen():
    first = Trial(Execution("float32"), rows=8, rate=100.0)
    close = replace(first, execution=Execution("bfloat16"), rate=101.0)
    clear = replace(first, execution=Execution("float32", fold=True), rate=103.0)
    assert Tuning((first, close)).fastest is first
    assert Tuning((first, close, clear)).fastest is clear
    assert Tuning((first, replace(clear, rate=0.0, reason="no"))).fastest is first
