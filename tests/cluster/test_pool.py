"""The pool: every task is done once, whatever becomes of the workers."""

import pytest

from tcertify.cluster.pool import Pool, Task
from tcertify.cluster.worker import Outcome
from tcertify.errors import RunError, StoppedError
from tests.cluster.fakes import FakeRay, Lost


def pool_of(answer, workers=2, versions=lambda facts: None, parameters=lambda begun: None):
    ray = FakeRay(answer)
    pool = Pool(ray, ray.spawn, workers, versions, parameters, b"")
    pool.start()
    return pool


def done(pool, count=6):
    tasks = iter([Task("certify", (at,), f"task {at}", 1.0) for at in range(count)])
    return [task.arguments[0] for task, _, outcome in pool.run(lambda: next(tasks, None))]


def echo(number, method, at):
    return Outcome("", value=at)


def test_each_task_is_done_once():
    assert sorted(done(pool_of(echo))) == [*range(6)]


def test_the_task_of_a_worker_that_is_lost_is_done_by_another_which_replaces_it():
    def answer(number, method, at):
        if number == 1:
            raise Lost("Worker exit detail: it was killed. There are some potential root causes.")
        return echo(number, method, at)

    pool = pool_of(answer)
    assert sorted(done(pool)) == [*range(6)]
    assert sorted(hand.number for hand in pool.hands) == [2, 3]
    assert [*pool.warnings] == [
        "Replaced: worker 1 (pid 1 on here) ended: it was killed.",
        "Tried again: task 0, which failed (worker 1 (pid 1 on here) ended: it was killed).",
    ]


def test_a_task_that_fails_three_times_is_given_up_and_the_others_are_done():
    def answer(number, method, at):
        return Outcome("", failed="OSError: no" if at == 3 else None)

    pool = pool_of(answer)
    assert sorted(set(done(pool)) - {3}) == [0, 1, 2, 4, 5]
    assert [task.name for task in pool.given_up] == ["task 3"]
    assert len(pool.given_up[0].reasons) == 3


def test_tasks_are_waited_for_while_all_workers_are_being_replaced():
    def answer(number, method, at):
        if at == 0:
            raise Lost("gone")
        return echo(number, method, at)

    pool = pool_of(answer, workers=1)
    assert done(pool) == [1, 2, 3, 4, 5]
    assert [task.name for task in pool.given_up] == ["task 0"]


def test_three_tasks_in_a_row_that_are_given_up_end_the_run():
    pool = pool_of(lambda number, method, at: Outcome("", failed="OSError: no"))
    with pytest.raises(StoppedError, match=r"3 tasks in a row failed 3 times each.*OSError: no"):
        done(pool)


def test_a_worker_that_is_refused_at_the_start_ends_the_run():
    with pytest.raises(RunError, match=r"Worker 1 \(pid 1 on here\) was refused: it is old\."):
        pool_of(echo, versions=lambda facts: "it is old")


def test_a_worker_that_is_refused_later_is_a_warning_and_the_others_go_on():
    def answer(number, method, at):
        if number == 1:
            raise Lost("gone")
        return echo(number, method, at)

    pool = pool_of(answer, versions=lambda facts: "it is old" if facts["pid"] > 2 else None)
    assert sorted(done(pool)) == [*range(6)]
    assert [hand.number for hand in pool.hands] == [2]
    assert "Worker 3 (pid 3 on here) was refused: it is old." in pool.warnings


def test_workers_that_end_before_they_have_begun_end_the_run():
    class Dying(FakeRay):
        def get(self, ref):
            raise Lost("no memory")

    ray = Dying(echo)
    pool = Pool(ray, ray.spawn, 1, lambda facts: None, lambda begun: None, b"")
    with pytest.raises(RunError, match="3 workers in a row ended before they had begun"):
        pool.start()


def test_a_straggler_is_told_and_its_task_cast_again(monkeypatch):
    monkeypatch.setattr("tcertify.cluster.pool.STRAGGLER_SECONDS", -1.0)
    monkeypatch.setattr("tcertify.cluster.pool.STRAGGLES", 0.0)
    late = []

    class Slow(FakeRay):
        def wait(self, refs, timeout):
            first = refs[0]
            if not late and len(refs) == 2 and getattr(first.get(), "value", None) == 0:
                first.late = True
                late.append(first)
            return super().wait(refs, timeout)

    ray = Slow(echo)
    pool = Pool(ray, ray.spawn, 2, lambda facts: None, lambda begun: None, b"")
    pool.start()
    assert sorted(done(pool)) == [*range(6)]
    assert len([text for text in pool.warnings if text.startswith("Cast again")]) == 1
