"""read_log: a log that it can trust, or a LogError."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcertify.logs import LogError, audit_log, read_log
from tests.fuzz.mutations import NUMBERS, damaged

LOG = b"""idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t0.4837214\t1\t0:00:01.250000
20\t1\t-1\t0.0\t0\t0:00:00.93
40\t7\t2\t1.25e-3\t0\t1 day, 2:03:04
60\t5\t5\t2.0\t1\t3.5
"""
LOGS = damaged(LOG) | damaged(LOG.replace(b"\n", b"\r\n")) | damaged(LOG, NUMBERS)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("logs") / "a.tsv"


@given(LOGS)
def test_a_damaged_log_is_read_as_one_that_makes_sense_or_refused(path, content):
    path.write_bytes(content)
    try:
        log = read_log(path)
    except LogError as error:
        assert str(path) in str(error)
        return
    assert len({len(column) for column in (log.idx, log.radius, log.seconds)}) == 1
    assert len(np.unique(log.idx)) == len(log.idx) > 0
    assert (np.isfinite(log.radius) & (log.radius >= 0)).all()
    assert np.isfinite(log.radius_step).all()
    assert not log.radius[log.predict == -1].any()
    np.testing.assert_array_equal(log.correct, log.predict == log.label)
    assert np.isfinite(log.seconds).all()


@given(LOGS, st.sampled_from([0.25, 1.0]))
def test_a_log_that_is_read_is_audited_or_refused_with_a_reason(path, content, sigma):
    path.write_bytes(content)
    try:
        audit_log(read_log(path), sigma=sigma)
    except ValueError as error:
        assert str(error)
