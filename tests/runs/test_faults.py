"""Faults: whatever ends a run, resuming it gives the rows of an undisturbed one."""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tcertify.runs.file import Row, RunFile, RunWriter, decode_votes, encode_votes
from tcertify.runs.settings import Settings
from tcertify.runs.verify import verify_run
from tests.tiny import certify_slowly

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def processes():
    """Processes forked from a server that has loaded all that a run needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm", "tcertify.runs.engine", "tcertify.runs.rounds"])
    return context


@pytest.fixture(scope="module")
def undisturbed(processes, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "a.run"
    process = processes.Process(target=certify_slowly, args=(path,))
    process.start()
    process.join(60)
    return rows_of(path)


def rows_of(path):
    with RunFile(path) as run:
        rows = [(r.idx, r.predicted, r.radius, r.selection, r.estimation) for r in run.rows()]
        assert run.structure() == run.damage == []
    return rows


def interrupt(processes, path, kill, seconds):
    """Start or resume the run, send a signal after some seconds, and return the exit code."""
    process = processes.Process(target=certify_slowly, args=(path,))
    process.start()
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):  # it has finished
        os.kill(process.pid, kill)
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def finish(processes, path):
    process = processes.Process(target=certify_slowly, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("kill", "times"), [(signal.SIGKILL, 20), (signal.SIGTERM, 4), (signal.SIGINT, 6)]
)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_rows(
    processes, undisturbed, tmp_path, kill, times
):
    path, moments = tmp_path / "a.run", random.Random(0)
    killed = 0
    for _ in range(times):
        killed += interrupt(processes, path, kill, moments.uniform(0.0, 0.5)) != 0
        if path.exists():
            assert set(rows_of(path)) <= set(undisturbed)
    assert killed > 0
    finish(processes, path)
    assert rows_of(path) == undisturbed
    assert not verify_run(path).findings
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".new"] == ["a.run"]


def test_a_full_disk_ends_a_run_with_one_sentence_and_a_resume_completes_it(
    processes, undisturbed, tmp_path
):
    path = tmp_path / "a.run"
    code = f"""
import resource
from tests.tiny import certify_slowly
resource.setrlimit(resource.RLIMIT_FSIZE, (34_000, resource.RLIM_INFINITY))
certify_slowly({str(path)!r})
"""
    full = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 1
    assert f"RunFileError: Cannot write `{path}`" in full.stderr
    assert set(rows_of(path)) <= set(undisturbed)
    finish(processes, path)
    assert rows_of(path) == undisturbed


def test_votes_beyond_2_to_the_31_are_counted_certified_stored_and_verified(tmp_path):
    """n = 3e9: the votes of the first 3e9 - 1000 samples are given, the last 1000 are counted."""
    import torch

    from tcertify_kernels import count_votes

    n = 3_000_000_000
    counts = torch.tensor([[n - 1_500, 400, 100, 0]])
    logits = torch.zeros(1000, 3)
    logits[:990, 0] = 1
    logits[990:, 2] = torch.nan
    count_votes(counts, logits, torch.zeros(1000, dtype=torch.int32))
    votes = counts.numpy()
    assert votes.tolist() == [[n - 510, 400, 100, 10]]

    settings = Settings.make(
        num_classes=3, sigma=1.0, n0=10, n=n, alpha=0.001, method="certify", seed=0
    )
    found = settings.certificates(votes, np.array([0]), np.array([0]))[0]
    assert 4.5 < found["radius"] < 5.3
    row = Row(
        idx=0,
        label=0,
        predicted=int(found["label"]),
        radius=float(found["radius"]),
        p_a_lower=float(found["p_a"]),
        p_b_upper=float(found["p_b"]),
        method="certify",
        alpha=0.001,
        sigma=1.0,
        seed=0,
        n0=10,
        n=n,
        look=0,
        invalid=10,
        selection=encode_votes(np.array([[10, 0, 0, 0]])),
        estimation=encode_votes(votes),
        seconds=1.0,
    )
    path = tmp_path / "a.run"
    with RunWriter(path, asdict(settings), {}, [0]) as writer:
        writer.add([row])
    with RunFile(path) as run:
        (stored,) = run.rows()
    np.testing.assert_array_equal(decode_votes(stored.estimation, 3), votes)
    report = verify_run(path)
    assert (report.verified, report.findings) == (1, ())
