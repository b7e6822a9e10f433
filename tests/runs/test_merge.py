"""Merging: the shards of a run become the run that a single process would have made."""

import base64
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tcertify.errors import RunFileError
from tcertify.runs import merge_runs, predict_dataset, read_run, verify_run
from tcertify.runs.file import RunFile, RunWriter
from tcertify.runs.row import Row, pack
from tests.runs.forge import database, forge_columns, forge_head, forge_parameters, forge_row
from tests.runs.models import Dead, FailsOn
from tests.tiny import CLASSES, Network, certify, grey_images, images, rows_of

ROOT = Path(__file__).parents[2]


def predict(path, **options):
    return predict_dataset(Network(), images(), sigma=0.5, out=path, n=100, **options)


def fails(path, **options):
    data = images()
    return certify(path, FailsOn([4], data), data, sigma=1e-6, **options)


def broken(path, **options):
    data = [images()[i] for i in range(12)]
    data[4] = torch.full((1, 2, 2), torch.nan), 0
    return certify(path, data=data, num_classes=CLASSES, **options)


def grey(path, **options):
    return certify(path, data=grey_images(), method="joint", **options)


def planned(path, **options):
    return certify(path, method="joint", n=10_000, radius_loss=0.05, **options)


def stopping(path, **options):
    return certify(path, radii=[0.0, 0.25, 0.5], **options)


def shards(folder, make=certify, of=3, **options):
    """Shard files, in the order of their numbers."""
    for number in range(1, of + 1):
        make(folder / f"{number}.run", shard=(number, of), **options)
    return [folder / f"{number}.run" for number in range(1, of + 1)]


def head(path):
    with RunFile(path) as run:
        return run.parameters, run.plan, run.whole, run.warnings


@pytest.mark.parametrize("make", [certify, stopping, planned, predict, grey, fails, broken])
def test_merged_shards_are_the_run_of_a_single_process(tmp_path, make):
    make(tmp_path / "whole.run")
    paths = shards(tmp_path, make)
    table = merge_runs(reversed(paths), tmp_path / "merged.run")
    assert rows_of(tmp_path / "merged.run") == rows_of(tmp_path / "whole.run")
    assert head(tmp_path / "merged.run") == head(tmp_path / "whole.run")
    assert (len(table), table.missing, table.shard_of) == (12, 0, None)
    assert verify_run(tmp_path / "merged.run").findings == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "1.run",
        "2.run",
        "3.run",
        "merged.run",
        "whole.run",
    ]


def test_a_merged_run_is_replayed_and_resumed(tmp_path):
    data = [images()[i] for i in range(12)]
    options = {"data": data, "num_classes": CLASSES, "seed": "derived"}
    out = tmp_path / "merged.run"
    merge_runs(shards(tmp_path, **options), out)
    report = verify_run(out, replay=12, model=Network(), dataset=data)
    assert (report.findings, len(report.replayed), report.moved) == ((), 12, 0)
    assert len(certify(out, resume=True, **options)) == 12


def test_the_record_of_where_it_was_made_is_kept_and_no_longer_than_can_be_read(
    tmp_path, monkeypatch
):
    paths = shards(tmp_path)
    table = merge_runs(paths, tmp_path / "merged.run")
    assert table.environment["threads"] == torch.get_num_threads()
    assert [part["file"] for part in table.environment["merged"]] == ["1.run", "2.run", "3.run"]
    monkeypatch.setattr("tcertify.runs.merge._MOST_RECORD", 10)
    table = merge_runs(paths, tmp_path / "again.run")
    assert table.environment["merged"] == 3


def test_warnings_of_all_parts_are_kept(tmp_path):
    paths = shards(tmp_path, of=2, model=Dead())
    with RunWriter(
        paths[1], *head(paths[1])[:1], {}, head(paths[1])[1], whole=range(12), resume=True
    ) as writer:
        writer.warn("It rained.")
    warnings = merge_runs(paths, tmp_path / "merged.run").warnings
    assert "It rained." in warnings
    assert sum("a dead network" in text for text in warnings) == 1


def test_runs_of_different_images_are_joined(tmp_path):
    certify(tmp_path / "a.run", indices=range(7))
    certify(tmp_path / "b.run", indices=range(5, 12))
    certify(tmp_path / "whole.run")
    merge_runs([tmp_path / "a.run", tmp_path / "b.run"], tmp_path / "merged.run")
    assert rows_of(tmp_path / "merged.run") == rows_of(tmp_path / "whole.run")
    assert head(tmp_path / "merged.run")[1] == list(range(12))


def test_equal_rows_of_an_image_are_dropped(tmp_path):
    paths = shards(tmp_path, of=2)
    certify(tmp_path / "whole.run")
    inputs = [paths[0], tmp_path / "whole.run", paths[1], paths[0]]
    merge_runs(inputs, tmp_path / "merged.run")
    assert rows_of(tmp_path / "merged.run") == rows_of(tmp_path / "whole.run")


def test_votes_that_another_zlib_has_packed_are_equal(tmp_path):
    paths = shards(tmp_path, of=2)
    with RunFile(paths[0]) as run:
        votes = zlib.decompress(next(run.records()).looks)
    other = tmp_path / "other.run"
    certify(other, shard=(1, 2))
    forge_columns(other, 0, looks=zlib.compress(votes, 0))
    assert len(merge_runs([*paths, other], tmp_path / "merged.run")) == 12


def refused(tmp_path, paths, message):
    """Merging is refused, and leaves nothing."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises((RunFileError, ValueError), match=message):
        merge_runs(paths, tmp_path / "merged.run")
    assert sorted(tmp_path.iterdir()) == before


def test_different_rows_of_an_image_are_refused_with_both_files_named(tmp_path):
    paths = shards(tmp_path, of=2)
    certify(tmp_path / "other.run")
    forge_row(tmp_path / "other.run", 5, lambda row: replace(row, predicted=-1, radius=0.0))
    refused(
        tmp_path,
        [*paths, tmp_path / "other.run"],
        r"2\.run` and `.*other\.run` hold different rows for image 5: they differ in predicted,"
        " radius",
    )
    forge_columns(tmp_path / "other.run", 5, looks=b"no votes")
    refused(tmp_path, [*paths, tmp_path / "other.run"], "image 5: they differ in .*looks")


def test_a_failed_image_is_not_an_image_that_succeeded(tmp_path):
    paths = shards(tmp_path, of=2)
    certify(tmp_path / "other.run")
    forge_row(tmp_path / "other.run", 4, lambda row: Row.failed(4, row.label, "OSError", CLASSES))
    refused(tmp_path, [*paths, tmp_path / "other.run"], "rows for image 4: .*error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.25}, r"sigma is 0\.5 in `.*1\.run` and 0\.25 in `.*2\.run`"),
        ({"alpha": 0.01}, r"alpha is 0\.001 in `.*1\.run` and 0\.01 in"),
        ({"seed": 1}, "seed is 0 in .* and 1 in"),
        ({"radii": [0.5]}, "looks is"),
        ({"allow": ["rows"]}, "allow is"),
        ({"data": images(13), "indices": range(12)}, "data is '.*' in"),
        ({"model": Dead()}, "model is '.*' in"),
        (
            {"indices": range(11)},
            "2.run` holds shard 2/2 of a run of 11 images and .* shard 1/2 of",
        ),
    ],
)
def test_what_was_made_otherwise_is_refused_with_both_values(tmp_path, options, message):
    certify(tmp_path / "1.run", shard=(1, 2))
    certify(tmp_path / "2.run", shard=(2, 2), **options)
    refused(tmp_path, [tmp_path / "1.run", tmp_path / "2.run"], message)


def test_another_version_is_refused(tmp_path):
    paths = shards(tmp_path, of=2)
    forge_parameters(paths[1], torch="9.9")
    refused(tmp_path, paths, "torch is '.*' in .* and '9.9' in")


def test_logits_that_differ_show_another_model(tmp_path):
    """A function says nothing of itself but its name: the probe tells it apart."""
    paths = shards(tmp_path, of=2)
    with RunFile(paths[1]) as run:
        probe = run.parameters["probe"]
    size = len(base64.b64decode(probe["logits"]))
    zeros = base64.b64encode(bytes(size)).decode()
    forge_parameters(paths[1], probe=probe | {"logits": zeros})
    refused(tmp_path, paths, "other models: on image 0 their logits differ")
    forge_parameters(paths[1], probe=probe | {"logits": zeros[:16]})
    refused(tmp_path, paths, "other models: on image 0 their logits differ")
    forge_parameters(paths[1], probe=7)
    refused(tmp_path, paths, r"2\.run` holds no probe that can be read")
    forge_parameters(paths[1], probe=None)
    assert len(merge_runs(paths, tmp_path / "merged.run")) == 12


def test_a_missing_shard_is_named_with_the_command_that_makes_it(tmp_path):
    paths = shards(tmp_path, seed=7)
    refused(
        tmp_path,
        [paths[0], paths[2]],
        r"^4 of 12 images are missing, so that nothing was written: `tcertify certify \.\.\."
        r" --seed 7 --shard 2/3` makes 4 \(images 1, 4, 7, 10\)\.$",
    )


def test_an_unfinished_shard_is_named_with_the_command_that_resumes_it(tmp_path):
    def interrupt(done, planned):
        raise KeyboardInterrupt

    paths = shards(tmp_path, predict, of=2)
    with pytest.raises(KeyboardInterrupt):
        predict(paths[1], shard=(2, 2), overwrite=True, on_progress=interrupt, batch_size=16)
    assert read_run(paths[1]).missing
    refused(
        tmp_path,
        paths,
        r"so that nothing was written: `tcertify predict \.\.\. .*/2 --seed 0 --shard 2/2 --resume`"
        r" makes \d",
    )
    predict(paths[1], shard=(2, 2), resume=True, batch_size=16)
    assert len(merge_runs(paths, tmp_path / "merged.run")) == 12


def test_of_much_that_is_missing_some_is_named(tmp_path):
    def data(path, **options):
        certify(path, data=images(48), n=20, **options)

    data(tmp_path / "1.run", shard=(1, 16))
    data(tmp_path / "2.run", shard=(2, 3))
    refused(
        tmp_path,
        [tmp_path / "1.run", tmp_path / "2.run"],
        r"^30 of 48 images .* --shard 2/16` makes .*; and 5 more commands the rest\.$",
    )
    refused(tmp_path, [tmp_path / "2.run"] * 2, r"1/3` makes 16 \(images 0, 3, .*, 27, \.\.\.\); ")


def test_images_that_no_shard_plans_are_named(tmp_path):
    paths = shards(tmp_path, of=2)
    for path in paths:
        forge_head(path, plan=pack(np.arange(5)))
        with database(path) as db:
            db.execute("DELETE FROM certificate WHERE image_id > 4")
    refused(tmp_path, paths, r"no file plans 7 \(images 5, 6, ")


def test_a_run_without_shards_that_is_not_complete_is_resumed(tmp_path):
    for name, start in (("a", 0), ("b", 6)):
        certify(tmp_path / f"{name}.tsv.run", indices=range(start, start + 6))
    with database(tmp_path / "a.tsv.run") as db:
        db.execute("DELETE FROM certificate WHERE image_id = 3")
    paths = [tmp_path / "a.tsv.run", tmp_path / "b.tsv.run"]
    refused(
        tmp_path,
        paths,
        r"^1 of 12 .* `tcertify certify \.\.\. .*a\.tsv --seed 0 --resume` makes 1 \(image 3\)\.$",
    )


def test_at_least_two_files_are_merged(tmp_path):
    paths = shards(tmp_path, of=1)
    for given, count in ([], 0), (paths, 1), (paths[0], 1), (str(paths[0]), 1):
        refused(tmp_path, given, f"`runs` must be at least two run files to merge, got {count}")


def test_what_is_there_is_not_replaced(tmp_path):
    paths = shards(tmp_path, of=2)
    for out in (*paths, tmp_path):
        with pytest.raises(RunFileError, match="exists, and merging replaces nothing"):
            merge_runs(paths, out)
    with pytest.raises(RunFileError, match=r"Cannot create `.*merged\.run`: No such file"):
        merge_runs(paths, tmp_path / "no" / "merged.run")


def test_what_is_left_of_a_run_that_was_removed_does_not_touch_the_merged_one(tmp_path):
    paths = shards(tmp_path, of=2)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"merged.run{suffix}").write_bytes(b"old")
    assert len(merge_runs(paths, tmp_path / "merged.run")) == 12
    assert len(certify(tmp_path / "merged.run", resume=True)) == 12


def test_a_file_that_is_being_written_is_refused_with_its_writer(tmp_path):
    paths = shards(tmp_path, of=2)
    parameters, plan, whole, _ = head(paths[0])
    with RunWriter(paths[0], parameters, {}, plan, whole=whole, resume=True):
        refused(tmp_path, paths, rf"1\.run` is being written by pid {os.getpid()} on")
    assert len(merge_runs(paths, tmp_path / "merged.run")) == 12


def test_the_lock_of_a_dead_writer_holds_nobody_up(tmp_path):
    paths = shards(tmp_path, of=2)
    Path(f"{paths[0]}.lock").write_text("pid 1 on elsewhere\n")
    assert len(merge_runs(paths, tmp_path / "merged.run")) == 12


def test_a_damaged_file_is_refused_by_name(tmp_path):
    paths = shards(tmp_path, of=2)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, paths, r"Cannot read `.*2\.run`: database disk image is malformed")
    paths[1].write_bytes(whole[:-100])
    refused(tmp_path, paths, r"2\.run` is damaged: it ends after")
    paths[1].write_text("image\tradius")
    refused(tmp_path, paths, r"2\.run` is not a run file")
    paths[1].write_bytes(whole)
    with database(paths[1]) as db:
        db.execute("UPDATE certificate SET radius = 9 WHERE image_id = 3")
    refused(tmp_path, paths, r"2\.run` is damaged: The row of image 3 .* A resume of it makes")
    certify(paths[1], shard=(2, 2), resume=True)
    assert len(merge_runs(paths, tmp_path / "merged.run")) == 12


def test_a_row_that_its_plan_does_not_know_is_refused(tmp_path):
    paths = shards(tmp_path, of=2)
    forge_head(paths[1], plan=pack(np.array([1, 3])))
    refused(tmp_path, paths, r"2\.run` is damaged: image 5 is not in its plan")


#: Merges in a process of its own, and prints by how many bytes its memory grew.
_GROWTH = """
import os, resource, sys
from pathlib import Path
from tcertify.runs import merge_runs
from tcertify.runs.file import RunFile, whole_copy
small, folder = map(Path, sys.argv[1:])
with RunFile(small) as run:
    record, parameters = next(run.records()), run.parameters
for number in (0, 1):
    plan = range(number, 400, 2)
    with whole_copy(folder / f"{number}.run", parameters, {}, plan) as copy:
        for image in plan:
            copy.add(record._replace(image_id=image, looks=os.urandom(200_000)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(merge_runs([folder / "0.run", folder / "1.run"], folder / "merged.run")) == 400
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_memory_does_not_grow_with_the_rows(tmp_path):
    certify(tmp_path / "small.run", indices=[0])
    arguments = [tmp_path / "small.run", tmp_path]
    path = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    size = (tmp_path / "merged.run").stat().st_size
    assert size > 80e6
    assert int(done.stdout) < size / 4
