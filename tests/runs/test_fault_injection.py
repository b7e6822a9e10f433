"""Whichever write, sync or rename fails or is the last: no row is lost, changed or invented."""

import pytest

from tcertify.errors import RunFileError
from tcertify.runs import export_run, merge_runs, read_run
from tcertify.runs.file import RunFile, RunWriter
from tests import faults
from tests.runs.test_file import PARAMETERS, row, writer

ROWS = [row(i) for i in range(7)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return faults.build(tmp_path_factory.mktemp("faults"))


def make(path):
    """Make a run, or resume it, with several commits."""
    with writer(path, resume=path.exists()) as file:
        for new in ROWS:
            if new.image_id not in file.done:
                file.add([new])
                if new.image_id % 3 == 0:
                    file.commit()


def rows_of(path):
    with RunFile(path) as run:
        found = [*run.rows()]
        assert run.structure() == run.damage == []
    return found


def disturb_runs(folder, mode):
    """Print at how many calls a run was disturbed."""

    def check(n, ended):
        path = folder / f"{n}.run"
        if path.exists():
            found = rows_of(path)
            assert found == ROWS[: len(found)]
        if ended in (faults.UNDISTURBED, faults.RECOVERED):
            assert rows_of(path) == ROWS
        make(path)
        assert rows_of(path) == ROWS
        assert [there.name for there in folder.glob(f"{n}.*")] == [path.name]

    print(faults.at_every_call(mode, lambda n: make(folder / f"{n}.run"), RunFileError, check))


def disturb_exports(folder, kind):
    """Print at how many calls an export was disturbed, all ways together."""
    make(folder / "a.run")
    table = read_run(folder / "a.run")
    out, new = folder / "out", folder / "new"

    def check(n, ended):
        if not new.exists():
            export_run(table, new, kind)
        written = ended in (faults.UNDISTURBED, faults.RECOVERED)
        assert out.read_bytes() in ([] if written else [b"old"]) + [new.read_bytes()]
        assert ended == faults.KILLED or not out.with_name("out.part").exists()
        out.write_bytes(b"old")

    def export(n):
        export_run(table, out, kind)

    out.write_bytes(b"old")
    print(sum(faults.at_every_call(mode, export, OSError, check) for mode in faults.MODES))


def disturb_merges(folder):
    """Print at how many calls a merge was disturbed, all ways together."""
    parts = [folder / "1.run", folder / "2.run"]
    for number, path in enumerate(parts):
        plan = [new.image_id for new in ROWS[number::2]]
        with RunWriter(path, PARAMETERS, {}, plan, whole=range(7)) as file:
            file.add(ROWS[number::2])
    out = folder / "out.run"

    def check(n, ended):
        written = ended in (faults.UNDISTURBED, faults.RECOVERED)
        assert out.exists() or not written
        assert ended == faults.KILLED or not out.with_name("out.run.part").exists()
        if not out.exists():
            merge_runs(parts, out)
        assert rows_of(out) == ROWS
        out.unlink()

    def merge(n):
        merge_runs(parts, out)

    print(sum(faults.at_every_call(mode, merge, RunFileError, check) for mode in faults.MODES))


@pytest.mark.parametrize("mode", faults.MODES)
def test_a_run_that_is_disturbed_at_any_call_ends_with_the_rows_of_an_undisturbed_one(
    library, tmp_path, mode
):
    code = f"""
from pathlib import Path
from tests.runs.test_fault_injection import disturb_runs
disturb_runs(Path({str(tmp_path)!r}), {mode!r})
"""
    assert int(faults.run(library, code)) >= 40


@pytest.mark.parametrize("kind", ["tsv", "csv", "parquet"])
def test_an_export_that_is_disturbed_at_any_call_leaves_the_old_file_or_the_new_one(
    library, tmp_path, kind
):
    code = f"""
from pathlib import Path
from tests.runs.test_fault_injection import disturb_exports
disturb_exports(Path({str(tmp_path)!r}), {kind!r})
"""
    assert int(faults.run(library, code)) >= 4 * len(faults.MODES)


def test_a_merge_that_is_disturbed_at_any_call_leaves_no_file_or_a_whole_one(library, tmp_path):
    code = f"""
from pathlib import Path
from tests.runs.test_fault_injection import disturb_merges
disturb_merges(Path({str(tmp_path)!r}))
"""
    assert int(faults.run(library, code)) >= 4 * len(faults.MODES)
