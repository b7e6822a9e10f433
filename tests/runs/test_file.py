"""The run file: whole at any moment, one writer, damage named and never returned."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tcertify.errors import RunFileError
from tcertify.runs.file import RunFile, RunWriter
from tcertify.runs.row import Row
from tcertify.runs.settings import Settings

SETTINGS = Settings.make(num_classes=3, sigma=0.5, n0=100, n=100, alpha=0.001, method="certify")
PARAMETERS = json.loads(json.dumps({**asdict(SETTINGS), "model": "abc"}))
ROOT = Path(__file__).parents[2]


def row(image_id, **changes):
    votes = np.array([1, 0, 99, 0])
    plain = Row(
        image_id=image_id,
        label=2,
        predicted=2,
        radius=0.25 + image_id,
        p_a_lower=0.9,
        p_b_upper=0.1,
        top=2,
        look=0,
        selection=votes,
        looks=votes[None],
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
    "changes", [{"sigma": 0.25}, {"model": "abd"}, {"seed": 7}, {"alpha": 0.01}, {"radii": [0.5]}]
)
def test_a_resume_with_other_parameters_names_each_difference(run, changes):
    ((name, value),) = changes.items()
    there = repr(PARAMETERS.get(name))
    text = f"`{name}` is {there} there and {value!r} here"
    with pytest.raises(RunFileError, match=re.escape(text)):
        writer(run, changes=changes, resume=True)
    assert rows_of(run)[0] == [row(i) for i in range(5)]


def test_equal_rows_merge_and_different_rows_are_an_error(run):
    with writer(run, resume=True) as file:
        file.add([row(3, seconds=9.0)])
        with pytest.raises(RunFileError, match="another row for image 3"):
            file.add([row(3, radius=1.0)])
    assert rows_of(run)[0] == [row(i) for i in range(5)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": -0.1}, "`radius` is -0.1"),
        ({"radius": float("nan")}, "`radius` is nan"),
        ({"p_a_lower": 1.5}, "`p_a_lower` is 1.5"),
        ({"label": 3}, "`label` is 3"),
        ({"looks": np.array([[1, 0, 98, 0]])}, "do not sum to the samples of the looks"),
        ({"selection": np.array([1, 0, 9, 0])}, "do not sum to n0 = 100"),
        ({"top": 0}, "class 0 is not the one"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(run, changes, message):
    with (
        writer(run, resume=True) as file,
        pytest.raises(RunFileError, match=f"no such row for image 7: .*{message}"),
    ):
        file.add([row(7, **changes)])
    assert rows_of(run)[0] == [row(i) for i in range(5)]


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_file_that_is_removed_or_replaced_while_it_is_written_ends_the_run(run, change):
    other = run.with_name("other")
    other.write_bytes(run.read_bytes())
    file = writer(run, overwrite=True)
    file.add([row(7)])
    run.unlink()
    if change == "replaced":
        other.rename(run)
    for end in (file.commit, file.close):
        with pytest.raises(RunFileError, match="was removed or replaced while"):
            end()


def test_a_resume_adds_to_what_was_planned(run):
    with RunWriter(run, PARAMETERS, {}, [12, 3], resume=True):
        pass
    with RunFile(run) as file:
        assert file.plan == [*range(10), 12]
        assert file.whole == file.plan


def test_a_shard_keeps_the_images_of_the_whole_run(tmp_path):
    with RunWriter(tmp_path / "a.run", PARAMETERS, {}, [1, 3], whole=range(4)):
        pass
    with RunFile(tmp_path / "a.run") as file:
        assert (file.plan, file.whole) == ([1, 3], [0, 1, 2, 3])


def test_a_link_to_a_run_file_is_the_run_file(run):
    link = run.with_name("link")
    link.symlink_to(run)
    with writer(link, resume=True) as file:
        assert len(file.done) == 5
        with pytest.raises(RunFileError, match="is held by"):
            writer(run, resume=True)
        file.add([row(7)])
    assert len(rows_of(run)[0]) == 6
    assert link.is_symlink()


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
    db.execute("UPDATE certificate SET radius = 4 WHERE image_id = 3")
    db.commit()
    db.close()
    rows, damage = rows_of(run)
    assert [r.image_id for r in rows] == [0, 1, 2, 4]
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
        file.add(row(i, seconds=i) for i in range(5, 200))
    content = run.read_bytes()
    whole = {r.image_id: r for r in rows_of(run)[0]}
    most = 0
    for length in [*range(0, len(content), 509), len(content) - 1]:
        rows, noticed = survey(tmp_path / "cut.run", content[:length])
        assert noticed
        assert all(whole[r.image_id] == r for r in rows)
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
