"""What bounds a run beyond one machine: the writer of its file, merging, the start of a shard.

    python -m pytest benchmarks/test_scale.py --benchmark-enable \
        --benchmark-json=benchmarks/results/scale.json

Goal: at least 2,000 rows a second into the run file, for 10 and for 1,000 classes. What is written
is read back and compared first. Times are wall clock, since a writer waits for its disk;
`extra_info` has the rows per second of the best round, by the clock and by the processor time.
"""

import itertools
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from tcertify.data.fingerprint import hash_images
from tcertify.runs import merge_runs
from tcertify.runs.file import RunFile, RunWriter
from tcertify.runs.row import Row
from tcertify.runs.settings import Settings

#: Rows that a round of the engine hands over at once.
TOGETHER = 16

LOOKS = {"one look": None, "early stopping": (0.0, 0.5)}


def settings_for(classes, looks):
    return Settings.make(
        num_classes=classes,
        sigma=0.5,
        n0=100,
        n=100_000,
        alpha=0.001,
        method="joint",
        radii=LOOKS[looks],
    )


def rows_for(settings, count):
    """Rows with votes as networks give them: a few classes have most. All looks are used."""
    rng = np.random.default_rng(0)
    rows = []
    for image_id in range(count):
        p = np.append(rng.dirichlet(np.full(settings.num_classes, 0.02)), 0)
        added = [rng.multinomial(n, p) for n in np.diff(settings.looks, prepend=0)]
        selection = rng.multinomial(settings.n0, p)
        row = Row.failed(image_id, 0, "", settings.num_classes)
        looks = np.cumsum(added, 0)
        top = int(selection[:-1].argmax())
        row = replace(row, error=None, selection=selection, looks=looks, top=top)
        rows.append(row)
    return rows


def write(path, settings, rows, whole=None):
    plan = [row.image_id for row in rows]
    with RunWriter(path, asdict(settings), {}, plan, whole=whole) as writer:
        for start in range(0, len(rows), TOGETHER):
            writer.add(rows[start : start + TOGETHER])


def measured(benchmark, work, paths, rows):
    """Time `work` on fresh paths and keep the rows per second of the best round."""
    seconds = []

    def once(path):
        began = time.process_time()
        work(path)
        seconds.append(time.process_time() - began)

    rounds = 7 if benchmark.enabled else 1
    benchmark.pedantic(once, setup=lambda: ((next(paths),), {}), rounds=rounds)
    benchmark.extra_info["rows"] = rows
    benchmark.extra_info["rows per processor second"] = rows / min(seconds)
    if benchmark.enabled:
        benchmark.extra_info["rows per second"] = rows / benchmark.stats.stats.min


@pytest.mark.parametrize("looks", LOOKS)
@pytest.mark.parametrize("classes", [10, 1000])
def test_rows_into_a_run_file(benchmark, tmp_path, classes, looks):
    settings = settings_for(classes, looks)
    count = (200 if classes * len(settings.looks) > 10_000 else 2000) if benchmark.enabled else 20
    rows = rows_for(settings, count)
    write(tmp_path / "checked.run", settings, rows)
    with RunFile(tmp_path / "checked.run") as run:
        assert list(run.rows()) == rows
        assert run.structure() == run.damage == []
    benchmark.extra_info["bytes per row"] = (tmp_path / "checked.run").stat().st_size // count
    benchmark.extra_info["looks"] = len(settings.looks)
    paths = (tmp_path / f"{number}.run" for number in itertools.count())
    measured(benchmark, lambda path: write(path, settings, rows), paths, count)


@pytest.mark.parametrize("classes", [10, 1000])
def test_merging(benchmark, tmp_path, classes):
    settings = settings_for(classes, "one look")
    rows = rows_for(settings, 8000 if benchmark.enabled else 20)
    parts = [tmp_path / f"part-{number}.run" for number in range(4)]
    for number, part in enumerate(parts):
        write(part, settings, rows[number::4], whole=range(len(rows)))
    merge_runs(parts, tmp_path / "checked.run")
    with RunFile(tmp_path / "checked.run") as run:
        assert list(run.rows()) == rows
    paths = (tmp_path / f"{number}.run" for number in itertools.count())
    measured(benchmark, lambda path: merge_runs(parts, path), paths, len(rows))


def test_the_fingerprint_of_images_that_say_nothing_of_themselves(benchmark):
    """What each shard pays for each image of the whole run, beside reading it."""
    count = 64 if benchmark.enabled else 4
    data = [(torch.rand(3, 224, 224), 0)] * count
    assert hash_images(data, range(count)) == hash_images(data, range(count))
    benchmark.extra_info["images"] = count
    benchmark.pedantic(lambda: hash_images(data, range(count)), rounds=5)
