"""Shards: parts of a run whose rows are the run's, wherever they are made."""

import numpy as np
import pytest

from tcertify.errors import RunFileError
from tcertify.runs import read_run, verify_run
from tcertify.runs.file import RunFile
from tcertify.runs.shards import describe_part, part_of, shard_of
from tests.tiny import Network, certify, grey_images, images, rows_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.run"


@pytest.mark.parametrize(("number", "plan"), [(1, [0, 3, 6]), (2, [1, 4, 7]), (3, [2, 5])])
def test_a_shard_is_every_nth_image_from_its_number_on(number, plan):
    whole = list(range(8))
    assert part_of(whole, (number, 3)) == plan
    assert part_of(whole, None) == whole
    assert shard_of(plan, whole) == (number, 3)
    assert describe_part(plan, whole) == f"shard {number}/3 of a run of 8 images"


@pytest.mark.parametrize("images", range(1, 8))
def test_the_name_that_is_found_for_a_shard_makes_the_same_images(images):
    whole = [*range(10, 10 + 3 * images, 3)]
    for parts in range(1, images + 1):
        for number in range(1, parts + 1):
            plan = part_of(whole, (number, parts))
            assert part_of(whole, shard_of(plan, whole)) == plan


@pytest.mark.parametrize("plan", [[], [9], [0, 1, 3], [1, 0], [0, 9]])
def test_other_parts_have_no_name(plan):
    assert shard_of(plan, list(range(5))) is None
    if plan:
        assert describe_part(plan, list(range(5))).startswith(f"{len(plan)} images of a run of 5")


def test_a_shard_has_the_rows_and_the_parameters_of_the_run(tmp_path):
    options = {"indices": [7, 2, 11, 5, 0], "radii": [0.0, 0.25]}
    certify(tmp_path / "whole.run", **options)
    table = certify(tmp_path / "a.run", shard=(2, 2), **options)
    assert table.image_id.tolist() == [2, 5]
    assert (table.shard_of, table.missing, table.part) == (5, 0, "shard: 2 of 5 images")
    rows = rows_of(tmp_path / "whole.run")
    assert rows_of(tmp_path / "a.run") == {image: rows[image] for image in (2, 5)}
    with RunFile(tmp_path / "a.run") as part, RunFile(tmp_path / "whole.run") as whole:
        assert part.parameters == whole.parameters
        assert (part.plan, part.whole) == ([2, 5], [7, 2, 11, 5, 0])
        assert (part.is_shard, whole.is_shard) == (True, False)


def test_what_decides_the_noise_and_the_seed_are_the_images_of_the_whole_run(tmp_path):
    """The first image alone is off the grid, and the fingerprint is that of the images taken."""
    data = [(image, label) for image, label in map(grey_images().__getitem__, range(6))]
    data[0] = images()[0]
    tables = [
        certify(
            tmp_path / f"{number}.run",
            data=data,
            num_classes=3,
            seed="derived",
            noise="auto",
            shard=(number, 2),
        )
        for number in (1, 2)
    ]
    assert tables[0].settings == tables[1].settings
    assert tables[0].settings.noise == "gaussian"
    assert tables[0].parameters == tables[1].parameters


def test_the_only_part_is_the_run(tmp_path):
    table = certify(tmp_path / "a.run", shard=(1, 1), seed="random")
    assert table.shard_of is None
    with RunFile(tmp_path / "a.run") as run:
        assert run.plan == run.whole == list(range(12))


def test_a_shard_is_resumed_to_its_rows_with_the_seed_of_its_file(path):
    def interrupt(done, planned):
        assert planned == 6
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        certify(path, shard=(2, 2), seed=5, batch_size=64, on_progress=interrupt)
    table = certify(path, shard=(2, 2), seed="random", resume=True)
    assert table.settings.seed == 5
    assert (len(table), table.missing, table.shard_of) == (6, 0, 12)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"shard": (1, 2)}, "shard 1/2 of a run of 12 images"),
        ({"shard": (2, 3)}, "shard 2/3 of a run of 12 images"),
        ({}, "a run of 12 images"),
        ({"shard": (2, 2), "indices": range(10)}, "shard 2/2 of a run of 10 images"),
    ],
)
def test_a_resume_does_not_make_a_shard_another_one(path, options, asked):
    certify(path, shard=(2, 2))
    with pytest.raises(
        RunFileError,
        match=f"Cannot resume .*: it is shard 2/2 of a run of 12 .*, and asked for is {asked}",
    ):
        certify(path, resume=True, **options)
    assert len(read_run(path)) == 6


def test_a_resume_does_not_make_a_run_a_shard(path):
    certify(path)
    with pytest.raises(RunFileError, match=r"it is a run of 12 images, and asked for is shard 1/2"):
        certify(path, resume=True, shard=(1, 2))


def test_a_shard_is_verified_and_replayed(path):
    data = [images()[i] for i in range(12)]
    certify(path, data=data, num_classes=3, shard=(2, 3))
    report = verify_run(path, replay=2, model=Network(), dataset=data)
    assert (report.findings, report.verified, report.shard_of) == ((), 4, 12)
    assert {*report.replayed} <= {1, 4, 7, 10}
    certify(path, overwrite=True)
    assert verify_run(path).shard_of is None


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ((3, 2), "`shard` must be two whole numbers, I of N with I from 1 to N, got 3/2"),
        ((0, 2), "got 0/2"),
        ((-1, 2), "got -1/2"),
        ((1, 2, 3), r"got \(1, 2, 3\)"),
        (1, "got 1"),
        ("1/2", "got '1/2'"),
        ((1.5, 2), r"got \(1.5, 2\)"),
        ((True, 2), r"got \(True, 2\)"),
        ((1, 13), "at most as many parts as images, got 1/13 for 12"),
    ],
)
def test_what_is_no_shard_gets_one_sentence_and_leaves_no_file(path, shard, message):
    with pytest.raises(ValueError, match=message):
        certify(path, shard=shard)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_random_seed_is_refused_since_shards_need_the_same(path, resume):
    with pytest.raises(ValueError, match=r"`seed` must not be random for a `shard`, .* derived"):
        certify(path, shard=(1, 2), seed="random", resume=resume)
    assert list(path.parent.iterdir()) == []


def test_numbers_of_numpy_name_a_shard(path):
    assert len(certify(path, shard=(np.int64(1), np.int64(2)))) == 6
