"""Faults: whatever ends a run, resuming it gives the rows of an undisturbed one."""

import contextlib
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tcertify.runs import verify_run
from tcertify.runs.file import RunFile, RunWriter
from tcertify.runs.row import Row
from tcertify.runs.settings import Settings
from tcertify.votes import Votes
from tests.runs.test_file import row, writer
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
        rows = [(r.image_id, r.predicted, r.radius, r.selection, r.looks) for r in run.records()]
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
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".part"] == ["a.run"]


def test_a_full_disk_ends_a_run_with_one_sentence_and_a_resume_completes_it(
    processes, undisturbed, tmp_path
):
    path = tmp_path / "a.run"
    code = f"""
import resource
from tests.tiny import certify_slowly
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
certify_slowly({str(path)!r})
"""
    full = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 1
    assert f"RunFileError: Cannot write `{path}`" in full.stderr
    assert set(rows_of(path)) <= set(undisturbed)
    finish(processes, path)
    assert rows_of(path) == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """Yield a function that mounts a disk of some size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no disk can be mounted here")
        return disk

    try:
        yield mounted
    finally:
        subprocess.run(["umount", disk], capture_output=True, check=False)


@pytest.mark.parametrize("size", [88, 104, 120, 140, 180, 220])
def test_what_was_committed_before_the_disk_was_full_is_resumed_when_there_is_space(
    small_disk, size
):
    disk = small_disk(4000)
    filler, path = disk / "filler", disk / "a.run"
    filler.write_bytes(bytes(1024 * (4000 - size)))
    code = f"""
from tests.runs.test_file import row, writer
with writer({str(path)!r}) as file:
    for i in range(3000):
        file.add([row(i)])
        if i % 7 == 0:
            file.commit()
"""
    full = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 1
    assert f"RunFileError: Cannot write `{path}`" in full.stderr
    filler.unlink()
    with RunFile(path) as run:
        assert run.structure() == []
        kept = [*run.rows()]
    assert kept == [row(i) for i in range(len(kept))]
    with writer(path, resume=True) as file:
        assert len(file.done) == len(kept) > 0
        file.add(row(i) for i in range(3000) if i not in file.done)
    with RunFile(path) as run:
        assert run.structure() == []
        assert [*run.rows()] == [row(i) for i in range(3000)]


def test_a_kill_between_any_two_pages_of_a_checkpoint_loses_nothing(tmp_path):
    """SQLite copies page after page of its log into the file: each moment, one after the other."""
    path, log = tmp_path / "a.run", tmp_path / "a.run-wal"
    code = f"""
import os, signal
from tests.runs.test_file import row, writer
w = writer({str(path)!r})
w.add(row(i) for i in range(200))
w.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    before, logged = path.read_bytes(), log.read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    after, page = path.read_bytes(), 4096
    assert len(after) > len(before) + 4 * page
    for pages in range(len(after) // page):
        path.write_bytes(after[: pages * page] + before[pages * page :])
        log.write_bytes(logged)
        Path(f"{path}-shm").unlink(missing_ok=True)
        with RunFile(path) as run:
            assert run.structure() == []
            assert [row.image_id for row in run.rows()] == [*range(200)]
        with writer(path, resume=True) as resumed:
            assert len(resumed.done) == 200


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
    found = settings.certificates(Votes.from_columns(votes, np.array([0])), np.array([0]))[0]
    assert 4.5 < found["radius"] < 5.3
    proved = Row(
        image_id=0,
        label=0,
        predicted=int(found["predicted"]),
        radius=float(found["radius"]),
        p_a_lower=float(found["p_a"]),
        p_b_upper=float(found["p_b"]),
        top=0,
        look=0,
        selection=np.array([10, 0, 0, 0]),
        looks=votes,
        seconds=1.0,
    )
    path = tmp_path / "a.run"
    with RunWriter(path, asdict(settings), {}, [0]) as file:
        file.add([proved])
    with RunFile(path) as run:
        (stored,) = run.rows()
    np.testing.assert_array_equal(stored.looks, votes)
    report = verify_run(path)
    assert (report.verified, report.findings) == (1, ())
