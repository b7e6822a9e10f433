"""The run file: whole at any moment, one writer, damage named and never returned."""

import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tcertify.errors import RunFileError
from tcertify.runs.file import Row, RunFile, RunWriter, decode_votes, encode_votes

PARAMETERS = {"sigma": 0.5, "alpha": 0.001, "model": "abc", "num_classes": 3}
ROOT = Path(__file__).parents[2]


def row(idx, **changes):
    votes = encode_votes(np.array([[1, 0, 99, 0]]))
    plain = Row(
        idx=idx,
        label=2,
        predicted=2,
        radius=0.25 + idx,
        p_a_lower=0.9,
        p_b_upper=0.1,
        method="certify",
        alpha=0.001,
        sigma=0.5,
        seed=0,
        n0=100,
        n=100,
        look=0,
        invalid=0,
        selection=votes,
        estimation=votes,
        seconds=0.1,
    )
    return replace(plain, **changes)


def writer(path, **options):
    parameters = PARAMETERS | options.pop("changes", {})
    return RunWriter(path, parameters, {"device": "cpu"}, range(10), **options)


@pytest.fixture
def run(tmp_path):
    """A closed run file of five rows."""
    path = tmp_path / "a.run"
    with writer(path) as file:
        file.add(row(i) for i in range(5))
    return path


def rows_of(path):
    with RunFile(path) as file:
        return list(file.rows()), file.damage


def test_a_run_file_returns_the_rows_and_the_parameters_it_was_given(run):
    with RunFile(run) as file:
        assert file.parameters == PARAMETERS
        assert file.environment == {"device": "cpu"}
        assert file.plan == list(range(10))
        assert list(file.rows()) == [row(i) for i in range(5)]
        assert file.damage == file.structure() == file.warnings == []
    assert sorted(p.name for p in run.parent.iterdir()) == ["a.run"]


def test_votes_survive_their_encoding_above_2_to_the_31():
    votes = np.array([[0, 3_000_000_000, 5, 0], [2**53 - 7, 0, 7, 1]])
    np.testing.assert_array_equal(decode_votes(encode_votes(votes), 3), votes)


@pytest.mark.parametrize(
    "text",
    [
        '[{"0": 1, "0": 2}]',
        '[{"4": 1}]',
        '[{"-1": 1}]',
        '[{"0": -1}]',
        '[{"0": 1.5}]',
        '[{"0": NaN}]',
        '[{"0": true}]',
        '[{"0": 9007199254740993}]',
        "[[0, 1]]",
        "5",
        "",
        "[" * 100_000,
    ],
)
def test_what_are_not_votes_is_an_error(text):
    with pytest.raises(ValueError, match="not votes"):
        decode_votes(text, 3)


def test_a_reader_sees_committed_rows_while_the_writer_is_at_work(tmp_path):
    with writer(tmp_path / "a.run") as file:
        file.add([row(0)])
        file.commit()
        file.add([row(1)])
        assert rows_of(tmp_path / "a.run")[0] == [row(0)]


def test_an_existing_run_is_left_alone_unless_it_is_resumed_or_overwritten(run):
    before = run.read_bytes()
    with pytest.raises(RunFileError, match=r"a\.run` exists"):
        writer(run)
    assert run.read_bytes() == before
    with writer(run, resume=True) as file:
        assert file.done == set(range(5))
    with writer(run, overwrite=True) as file:
        assert file.done == set()
    assert rows_of(run)[0] == []


@pytest.mark.parametrize(
    "changes", [{"sigma": 0.25}, {"model": "abd"}, {"seed": 7}, {"alpha": 0.01}]
)
def test_a_resume_with_other_parameters_names_each_difference(run, changes):
    ((name, value),) = changes.items()
    there = repr(PARAMETERS.get(name))
    with pytest.raises(RunFileError, match=f"`{name}` is {there} there and {value!r} here"):
        writer(run, changes=changes, resume=True)
    assert rows_of(run)[0] == [row(i) for i in range(5)]


def test_equal_rows_merge_and_different_rows_are_an_error(run):
    with writer(run, resume=True) as file:
        file.add([row(3, seconds=9.0)])
        with pytest.raises(RunFileError, match="another row for image 3"):
            file.add([row(3, radius=1.0)])
    assert rows_of(run)[0] == [row(i) for i in range(5)]


def test_a_row_that_makes_no_sense_is_refused(run):
    with writer(run, resume=True) as file:
        for changes in ({"radius": -0.1}, {"radius": float("nan")}, {"p_a_lower": 1.5}):
            with pytest.raises(RunFileError, match="constraint failed"):
                file.add([row(7, **changes)])


def test_a_second_writer_is_refused_with_the_owner_named(run):
    with writer(run, resume=True):
        code = f"from tests.runs.test_file import writer; writer({str(run)!r}, resume=True)"
        second = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert f"held by pid {os.getpid()} on {socket.gethostname()}" in second.stderr
        assert second.returncode == 1
    with writer(run, resume=True) as file:
        assert len(file.done) == 5


def test_the_lock_of_a_dead_writer_is_recognised_and_noted(run):
    code = (
        "import os, signal; from tests.runs.test_file import *;"
        f"w = writer({str(run)!r}, resume=True); w.add([row(7)]); w.commit(); w.add([row(8)]);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    dead = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert dead.returncode == -signal.SIGKILL
    assert Path(f"{run}.lock").exists()
    with writer(run, resume=True) as file:
        assert file.done == {0, 1, 2, 3, 4, 7}
    with RunFile(run) as file:
        assert "ended without closing" in file.warnings[0]
        assert file.structure() == []


def test_files_that_are_no_run_files_are_named_as_such_and_left_alone(tmp_path):
    def foreign(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    cases = {
        foreign("empty", b""): "is empty",
        foreign("log.tsv", b"idx\tlabel\tpredict\n"): r"not a run file: it begins with b'idx",
        foreign("head", b"SQLite format 3\0" + bytes(10)): "ends after 26 bytes",
        tmp_path / "other.db": "SQLite file of another program",
    }
    for path, message in cases.items():
        before = path.read_bytes()
        with pytest.raises(RunFileError, match=message):
            RunFile(path)
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(RunFileError, match=message):
                writer(path, **options)
        assert path.read_bytes() == before


def test_a_run_file_of_another_format_is_named(run):
    db = sqlite3.connect(run)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RunFileError, match="has the format 99; this version reads 1"):
        RunFile(run)


@pytest.mark.parametrize(
    ("column", "text"), [("parameters", "[" * 100_000), ("parameters", "5"), ("plan", '["x"]')]
)
def test_a_head_of_another_kind_is_named_even_when_it_is_sealed(run, column, text):
    db = sqlite3.connect(run)
    head = {"one": 1, "parameters": "{}", "environment": "{}", "plan": "[]"}
    head[column] = text
    db.execute("UPDATE run SET parameters = ?, environment = ?, plan = ?", [*head.values()][1:])
    seal = hashlib.blake2b(json.dumps([*head.values()]).encode(), digest_size=8).hexdigest()
    db.execute("UPDATE run SET checksum = ?", (seal,))
    db.commit()
    db.close()
    with pytest.raises(RunFileError, match="parameters of another kind"):
        RunFile(run)


def test_paths_that_cannot_be_written_are_errors_that_name_them(tmp_path):
    cases = {
        tmp_path / "missing" / "a.run": "No such file",
        tmp_path: "it is a folder",
        tmp_path / ("x" * 300): "File name too long",
        Path("/sys/a.run"): "Permission denied",
    }
    for path, message in cases.items():
        with pytest.raises(RunFileError, match=message):
            writer(path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_file_in_a_read_only_folder_can_be_read(run):
    run.chmod(0o444)
    run.parent.chmod(0o555)
    try:
        assert len(rows_of(run)[0]) == 5
    finally:
        run.parent.chmod(0o755)


def test_a_full_disk_is_one_clear_error_and_what_was_committed_stays(tmp_path):
    path = tmp_path / "a.run"
    code = f"""
import resource
from tests.runs.test_file import *
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
with writer({str(path)!r}) as file:
    for i in range(10_000):
        file.add([row(i)])
        file.commit()
"""
    full = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 1
    assert f"Cannot write `{path}`" in full.stderr
    assert "What was committed is whole" in full.stderr
    rows, damage = rows_of(path)
    assert len(rows) > 10
    assert damage == []
    assert rows == [row(i) for i in range(len(rows))]
    with writer(path, resume=True) as file:
        file.add([row(i) for i in range(10_000) if i not in file.done])
    assert len(rows_of(path)[0]) == 10_000


def test_a_row_that_lost_its_checksum_is_named_and_made_again(run):
    db = sqlite3.connect(run)
    db.execute("UPDATE certificate SET radius = 4 WHERE idx = 3")
    db.commit()
    db.close()
    rows, damage = rows_of(run)
    assert [r.idx for r in rows] == [0, 1, 2, 4]
    assert damage == ["The row of image 3 does not match its checksum."]
    with writer(run, resume=True) as file:
        assert 3 not in file.done
        file.add([row(3)])
    rows, damage = rows_of(run)
    assert rows == [row(i) for i in range(5)]
    assert damage == []


def survey(path, content):
    """Return the rows that a damaged file yields, and whether the damage was noticed."""
    path.write_bytes(content)
    try:
        with RunFile(path) as file:
            noticed = bool(file.structure())
            rows = list(file.rows())
            return rows, noticed or bool(file.damage)
    except RunFileError:
        return [], True


def test_a_truncated_file_keeps_what_is_whole_and_invents_nothing(tmp_path, run):
    with writer(run, resume=True) as file:
        file.add(row(i, error="x" * 500) for i in range(5, 60))
    content = run.read_bytes()
    whole = {r.idx: r for r in rows_of(run)[0]}
    most = 0
    for length in [*range(0, len(content), 509), len(content) - 1]:
        rows, noticed = survey(tmp_path / "cut.run", content[:length])
        assert noticed
        assert all(whole[r.idx] == r for r in rows)
        most = max(most, len(rows))
    assert most > 0


def test_a_flipped_byte_is_noticed_or_changes_nothing(tmp_path, run):
    content = run.read_bytes()
    whole = rows_of(run)[0]
    for position in range(0, len(content), 23):
        flipped = bytearray(content)
        flipped[position] ^= 0x41
        rows, noticed = survey(tmp_path / "flipped.run", flipped)
        assert all(r in whole for r in rows)
        assert noticed or rows == whole
