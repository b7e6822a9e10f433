"""The lock: one writer, and nothing but locks is ever written to."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tcertify.errors import RunFileError
from tcertify.runs.lock import Lock, check_unlocked

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    return tmp_path / "a.run"


def test_a_lock_names_its_owner_and_goes_when_it_is_released(run):
    lock = Lock(run)
    assert lock.path.read_text() == f"pid {os.getpid()} on {socket.gethostname()}\n"
    assert lock.stale == ""
    lock.release()
    assert [*run.parent.iterdir()] == []


def test_a_second_owner_is_refused_until_the_first_lets_go(run):
    lock = Lock(run)
    with pytest.raises(RunFileError, match=rf"held by pid {os.getpid()} on .*, which is writing"):
        Lock(run)
    lock.release()
    Lock(run).release()


def test_the_owner_that_died_is_known(run):
    code = f"import os; from tcertify.runs.lock import Lock; Lock({str(run)!r}); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    lock = Lock(run)
    assert lock.stale.startswith("pid ")
    lock.release()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_the_place_of_the_lock_is_refused_and_what_it_names_stays(run, exists):
    precious = run.parent / "precious"
    if exists:
        precious.write_text("precious")
    Path(f"{run}.lock").symlink_to(precious)
    with pytest.raises(RunFileError, match="is no lock of a run"):
        Lock(run)
    assert precious.exists() == exists
    assert not exists or precious.read_text() == "precious"


def test_another_file_in_the_place_of_the_lock_is_refused_and_stays(run):
    precious = run.parent / "precious"
    precious.write_text("precious")
    Path(f"{run}.lock").hardlink_to(precious)
    with pytest.raises(RunFileError, match="is no lock of a run"):
        Lock(run)
    assert precious.read_text() == "precious"


def test_a_pipe_in_the_place_of_the_lock_is_refused_at_once(run):
    os.mkfifo(f"{run}.lock")
    with pytest.raises(RunFileError, match="is no lock of a run"):
        Lock(run)


def test_a_reader_is_told_that_a_run_is_being_written_and_by_whom(run):
    check_unlocked(run)
    assert [*run.parent.iterdir()] == []
    lock = Lock(run)
    with pytest.raises(RunFileError, match=rf"a\.run` is being written by pid {os.getpid()} on"):
        check_unlocked(run)
    lock.release()
    check_unlocked(run)


@pytest.mark.parametrize("content", ["pid 1 on elsewhere\n", "", "precious"])
def test_a_lock_that_nobody_holds_does_not_stop_a_reader(run, content):
    Path(f"{run}.lock").write_text(content)
    check_unlocked(run)
    assert Path(f"{run}.lock").read_text() == content


def test_a_link_in_the_place_of_the_lock_locks_nothing(run):
    Path(f"{run}.lock").symlink_to("/dev/zero")
    check_unlocked(run)
