"""A worker returns what it made and what went wrong; it raises nothing."""

from pathlib import Path

from tcertify.cluster.worker import Worker
from tcertify.errors import StoppedError
from tests.tiny import images


def answer_to(error):
    class Machine:
        def certify(self, image_ids, sink, begun):
            sink.warn("seen")
            sink.add(image_ids)
            raise error

    worker = Worker.__new__(Worker)
    worker._machine = Machine()
    return worker.certify(Path("a.run"), [images()[0]], {})


def test_an_error_that_ends_a_run_comes_with_what_was_made_before_it():
    outcome = answer_to(StoppedError("Stopped: three failed."))
    assert isinstance(outcome.error, StoppedError)
    assert outcome.failed is None
    assert (len(outcome.rows), outcome.warnings) == (1, ["seen"])


def test_any_other_exception_fails_the_task_alone():
    outcome = answer_to(MemoryError("no room"))
    assert (outcome.error, outcome.failed) == (None, "MemoryError: no room")
