"""Topping up: a new run that begins with the votes of a run with a reserve."""

import dataclasses
import re

import numpy as np
import pytest

from tcertify.certificates import certify_counts
from tcertify.classifiers import Classifier
from tcertify.data.dataset import TensorDataset
from tcertify.errors import RunFileError
from tcertify.logs.audit import audit_log
from tcertify.logs.tsv import read_log
from tcertify.report import certified_table
from tcertify.report.results import read_result
from tcertify.runs import (
    export_run,
    merge_runs,
    predict_dataset,
    read_run,
    read_votes,
    recertify_run,
    verify_run,
)
from tcertify.runs.file import RunWriter
from tcertify.runs.machine import Job, machine
from tcertify.sampling import ESTIMATION, SELECTION, Sampler
from tcertify.statistics.reserve import topped_up
from tcertify.statistics.stopping import Schedule
from tcertify.statistics.top_k import certify_top_k
from tcertify.votes import Votes
from tests.runs.forge import database, forge_columns, forge_row
from tests.tiny import CLASSES, Network, certify, certify_until_cut, images, rows_of, signed

RADII = (0.0, 0.2, 0.3)
GIVEN = {"n": 500, "method": "joint", "seed": 5}
FIRST = GIVEN | {"reserve": 0.5}
SECOND = GIVEN | {"n": 2000}
LEVELS = (0.0005, 0.00025, 0.000125)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    path = tmp_path_factory.mktemp("reserve") / "first.run"
    certify(path, **FIRST)
    return path


@pytest.fixture(scope="module")
def second(first):
    path = first.with_name("second.run")
    certify(path, top_up=first, **SECOND)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new.run"


class Kept:
    """Rows, as a run file would have them."""

    path = "nowhere"

    def __init__(self):
        self.rows = {}

    def add(self, rows):
        self.rows |= {row.image_id: dataclasses.replace(row, seconds=0.0) for row in rows}

    def warn(self, text):
        raise AssertionError(text)


def sampled(settings, data=None, **known):
    """The rows of a machine that was told the settings, and nothing of another run."""
    data, kept = data or images(), Kept()
    with machine(
        Classifier(Network(), CLASSES), data, Job(settings, [*range(len(data))], [], None)
    ) as hands:
        kept.add(hands.certify(range(len(data)), kept, **known))
    return kept.rows


@pytest.fixture
def cast(monkeypatch):
    """The samples that are cast for each image, stream by stream."""
    seen, count = {}, Sampler.count

    def counted(self, pixels, image_ids, start, stop, stream):
        ids = np.asarray(image_ids)
        spans = np.broadcast_to(start, ids.shape), np.broadcast_to(stop, ids.shape)
        for image, begin, end in zip(ids.tolist(), *spans, strict=True):
            seen[image, stream] = seen.get((image, stream), 0) + int(end - begin)
        return count(self, pixels, image_ids, start, stop, stream)

    monkeypatch.setattr(Sampler, "count", counted)
    return seen


@pytest.mark.parametrize("radii", [None, RADII], ids=["full", "early"])
@pytest.mark.parametrize("steps", [(2000,), (1000, 4000)], ids=["once", "twice"])
def test_the_rows_are_those_of_a_run_with_the_same_schedule_from_scratch(tmp_path, radii, steps):
    old = tmp_path / "500.run"
    before = certify(old, radii=radii, **FIRST)
    for n in steps:
        new = tmp_path / f"{n}.run"
        table = certify(new, radii=radii, top_up=old, **GIVEN | {"n": n})
        old = new
    rows = rows_of(new)
    assert rows == sampled(table.settings)
    assert table.settings.n == n
    assert table.settings.reserve == 0.5
    if radii is None:
        assert {len(row.looks) for row in rows.values()} == {len(table.settings.looks)}
    else:
        assert len({row.n for row in rows.values()}) > 3
        assert (before.n < 500).any()
    assert table.n.max() > 500


def test_the_schedule_is_that_of_topped_up_and_a_run_alone_spends_what_is_not_kept(first, second):
    made, topped = read_run(first).settings, read_run(second).settings
    assert (made.looks, made.look_levels, made.alpha) == ((500,), (0.0005,), 0.001)
    assert (topped.looks, topped.look_levels, topped.alpha) == ((500, 1000, 2000), LEVELS, 0.001)
    assert (made.topped_up, topped.topped_up) == (False, True)


def test_a_run_with_radii_and_a_reserve_keeps_to_its_schedule(tmp_path):
    certify(tmp_path / "a.run", radii=RADII, **FIRST)
    table = certify(tmp_path / "b.run", radii=RADII, top_up=tmp_path / "a.run", **SECOND)
    early = Schedule.geometric(500, 0.0005)
    assert read_run(tmp_path / "a.run").settings.schedule == early
    assert table.settings.schedule == topped_up(early, 2000, alpha=0.001)
    assert verify_run(tmp_path / "b.run").findings == ()


def test_only_the_samples_beyond_the_old_ones_are_cast(first, path, cast):
    certify(path, top_up=first, **SECOND)
    assert {key: samples for key, samples in cast.items() if samples} == {
        (image_id, ESTIMATION): 1500 for image_id in range(12)
    }


def test_votes_beyond_the_look_at_which_the_schedule_ends_an_image_are_left_alone(path):
    # a schedule whose images go on for longer, to votes that this one would not have cast
    easy = certify(path, radii=(0.0,), **FIRST).settings
    longer = sampled(dataclasses.replace(easy, radii=RADII))
    rows = sampled(easy)
    assert any(len(longer[i].looks) > len(rows[i].looks) for i in rows)
    assert sampled(easy, begun=longer.get) == rows


def test_the_old_run_stays_as_it_is(first, path):
    there = first.read_bytes()
    certify(path, top_up=first, **SECOND)
    assert first.read_bytes() == there
    assert {file.name for file in first.parent.iterdir()} <= {"first.run", "second.run"}


def test_the_certificate_is_that_of_the_look_with_the_largest_radius_each_at_its_level(second):
    chosen = []
    for row in rows_of(second).values():
        radii = [
            float(certify_counts(v[:-1], row.top, sigma=0.5, alpha=level, method="joint").radius)
            for v, level in zip(row.looks, LEVELS, strict=True)
        ]
        assert row.radius == max(radii)
        chosen += [row.look] if row.radius else []
        assert row.look == (int(np.argmax(radii)) if row.radius else 2)
    assert len(set(chosen)) > 1


class Torn(TensorDataset):
    """Images of which one cannot be read at first."""

    torn = (4,)

    def __getitem__(self, index):
        if index in self.torn:
            raise OSError("it cannot be read")
        return super().__getitem__(index)


def test_images_that_are_missing_or_failed_there_are_sampled_from_the_beginning(path, cast):
    data = Torn(*(getattr(images(), field.name) for field in dataclasses.fields(TensorDataset)))
    old = path.with_name("old.run")
    table = certify(old, data=data, indices=range(8), **FIRST)
    assert table.errors.keys() == {4}
    data.torn = ()
    cast.clear()
    table = certify(path, data=data, top_up=old, **SECOND)
    whole = {image_id for image_id in range(8) if image_id != 4}
    assert {image for (image, stream), n in cast.items() if stream == SELECTION and n} == (
        {*range(12)} - whole
    )
    assert rows_of(path) == sampled(table.settings)


def test_a_top_up_that_was_cut_goes_on_with_the_same_command(first, second, path):
    certify_until_cut(path, top_up=first, **SECOND)
    certify(path, top_up=first, **SECOND, resume=True)
    assert rows_of(path) == rows_of(second)


def test_shards_of_a_top_up_are_merged_into_the_whole(first, second, path):
    parts = [path.with_name(f"part-{number}.run") for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        certify(part, top_up=first, **SECOND, shard=(number, 2))
    table = merge_runs(parts, path)
    assert rows_of(path) == rows_of(second)
    assert table.settings == read_run(second).settings


def test_shards_may_be_topped_up_one_by_one_with_the_seed_that_they_have(second, path):
    parts = []
    for number in (1, 2):
        old, new = (path.with_name(f"{name}-{number}.run") for name in ("old", "new"))
        certify(old, **FIRST, shard=(number, 2))
        certify(new, top_up=old, **SECOND | {"seed": "random"}, shard=(number, 2))
        parts.append(new)
    merge_runs(parts, path)
    assert rows_of(path) == rows_of(second)


def test_noise_seed_and_execution_may_come_from_the_old_run(first, second, path):
    told = []
    given = SECOND | {"seed": "random", "noise": "auto", "execution": "fastest"}
    table = certify(path, top_up=first, **given, on_tuned=told.append)
    assert table.settings.seed == 5
    assert rows_of(path) == rows_of(second)
    assert told == []


def test_verification_replay_and_fresh_votes_know_the_looks(second):
    report = verify_run(second, replay=12, fresh=3, model=Network(), dataset=images())
    assert (report.verified, report.findings, report.moved) == (12, (), 0)


def test_a_row_that_lacks_a_look_or_claims_another_s_certificate_is_found(second, path):
    path.write_bytes(second.read_bytes())
    forge_row(path, 3, lambda row: dataclasses.replace(row, looks=row.looks[:2], look=0))
    best = max(rows_of(path).values(), key=lambda row: row.radius)
    forge_columns(path, best.image_id, look=(best.look + 1) % 3)
    found = " ".join(verify_run(path).findings)
    assert "Image 3: its estimation votes do not sum to the samples of the looks." in found
    assert f"Image {best.image_id}: radius" in found


def best_of(path, certified):
    """The largest radius of each image at twice the levels; `certified` takes a look's votes."""
    doubled = [2 * level for level in LEVELS]
    return [
        max(float(certified(row, *look)) for look in zip(row.looks, doubled, strict=True))
        for row in rows_of(path).values()
    ]


def test_another_alpha_scales_the_levels_and_leaves_the_reserve(first, second):
    made, topped = recertify_run(first, alpha=0.002), recertify_run(second, alpha=0.002)
    assert made.settings.look_levels == (0.001,)
    assert topped.settings.look_levels == pytest.approx([2 * level for level in LEVELS])
    assert topped.radius == pytest.approx(
        best_of(
            second,
            lambda row, votes, level: (
                certify_counts(votes[:-1], row.top, sigma=0.5, alpha=level, method="joint").radius
            ),
        )
    )
    same = recertify_run(second)
    assert same.settings == read_run(second).settings
    assert same.radius.tolist() == read_run(second).radius.tolist()


def test_groups_and_top_k_take_the_best_look_at_its_own_level(second):
    groups = {"first": [0], "rest": [1, 2]}

    def grouped(row, votes, level):
        counts = [votes[0], votes[1] + votes[2]]
        chosen = int(np.argmax([row.selection[0], row.selection[1:3].sum()]))
        return certify_counts(counts, chosen, sigma=0.5, alpha=level, method="joint").radius

    def top_2(row, votes, level):
        found = Votes.of([votes[:-1]], [row.label])
        return certify_top_k(found, 2, sigma=0.5, alpha=level).radius[0]

    found = recertify_run(second, groups=groups, alpha=0.002)
    assert found.radius == pytest.approx(best_of(second, grouped))
    found = recertify_run(second, top_k=2, alpha=0.002)
    assert found.radius == pytest.approx(best_of(second, top_2))


def test_what_is_certified_all_at_once_is_by_the_best_look_at_its_share_of_each_level(second):
    radius, left, listed = 0.1, set(rows_of(second)), set()
    while True:
        share = 1 / len(left)  # of alpha = 0.002, twice that of the run
        best = best_of(
            second,
            lambda row, votes, level, share=share: (
                certify_counts(
                    votes[:-1], row.top, sigma=0.5, alpha=level * share, method="certify"
                ).radius
            ),
        )
        found = {image_id for image_id in left if best[image_id] >= radius}
        if not found:
            break
        left, listed = left - found, listed | found
    table = recertify_run(second, method="certify", alpha=0.002, all_at_once=radius)
    assert set(table.image_id[table.kept].tolist()) == listed
    assert 0 < len(listed) < 12


def test_what_is_reported_is_certified_at_what_the_reserve_leaves_before_topping_up(first):
    table = recertify_run(first, reported=0.1)
    kept = int(table.kept.sum())
    assert table.settings.look_levels[0] == pytest.approx(0.0005 * kept / 12)
    assert "because their certificate at 0.0005 reaches radius 0.1" in table.claim
    assert "a share of at most 0.0005 is wrong in expectation" in table.claim


def test_a_topped_up_run_has_no_reported_ones_and_no_votes_of_a_fixed_number(second):
    with pytest.raises(
        ValueError, match=r"`reported` needs a run that was not topped up: `.*` was"
    ):
        recertify_run(second, reported=0.1)
    with pytest.raises(
        ValueError, match=r"second\.run` was topped up: its votes are not of a number"
    ):
        read_votes(second)


def test_the_votes_of_a_run_with_a_reserve_are_read(first):
    votes, _ = read_votes(first)
    assert votes.n.tolist() == [500] * 12


@pytest.mark.parametrize("radii", [None, RADII], ids=["full", "early"])
def test_a_log_says_that_alpha_was_kept_and_is_not_taken_for_plain_certify_s(tmp_path, radii):
    table = certify(tmp_path / "a.run", **FIRST | {"method": "certify", "radii": radii})
    export_run(table, tmp_path / "a.tsv")
    log = read_log(tmp_path / "a.tsv")
    assert log.methods == (f"certify-reserved{'-early' if radii else ''}",)
    assert not audit_log(log, sigma=0.5, n=500, alpha=0.001).contradicted


def test_what_the_certificates_mean_is_said_with_the_table(first, second):
    made, topped = (certified_table([read_result(path)]).notes() for path in (first, second))
    assert made[0] == (
        "50 % of alpha is kept for topping up: a certificate is wrong with probability at most"
        " 0.0005 as the run stands, and 0.001 whoever decides to top it up."
    )
    assert topped[0] == (
        "Topped up to 2000 samples: the certificate of an image is that of the look with the"
        " largest radius, wrong with probability at most 0.001 whoever decided to top up."
    )
    for notes in (made, topped):
        assert "each wrongly with probability at most 0.001" in notes[1]
    assert recertify_run(first, alpha=0.01).claim.count("at most 0.005 as the run stands") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reserve": 0.0}, "`reserve` must be in (0, 1), got 0.0."),
        ({"reserve": 1.0}, "`reserve` must be in (0, 1), got 1.0."),
        ({"radius_loss": 0.1}, "`reserve` must not be given with `radius_loss`."),
        ({"budget": 10**6}, "`budget` must not be given with `reserve`."),
        ({"charge_noise": True}, "`reserve` must not be given with `charge_noise`."),
    ],
)
def test_a_reserve_that_cannot_be_is_refused_before_anything_is_written(path, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        certify(path, **FIRST | change)
    assert not list(path.parent.iterdir())


def test_the_smallest_useful_n_is_that_of_what_the_reserve_leaves(path):
    with pytest.raises(ValueError, match=r"at alpha = 0\.0005, .* smallest useful n is 11"):
        certify(path, **FIRST | {"n": 10})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reserve": 0.5}, "`top_up` must not be given with `reserve`."),
        ({"radius_loss": 0.1}, "`top_up` must not be given with `radius_loss`."),
        ({"budget": 10**6}, "`top_up` must not be given with `budget`."),
        ({"charge_noise": True}, "`top_up` must not be given with `charge_noise`."),
        (
            {"seed": "derived"},
            "`seed` must not be derived with `top_up`, but that of the run to top up, which random"
            " takes.",
        ),
        (
            {"n": 1500},
            "`n` must be 500 times a power of two, the looks fixed beforehand, got 1500.",
        ),
        ({"n": 500}, "`n` must be 500 times a power of two, the looks fixed beforehand, got 500."),
    ],
)
def test_a_top_up_that_cannot_be_is_refused_before_anything_is_written(
    first, path, change, message
):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        certify(path, top_up=first, **SECOND | change)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.01}, "`alpha` is 0.001 there and 0.01 here"),
        ({"sigma": 0.25, "n0": 30}, "`n0` is 20 there and 30 here; `sigma` is 0.5 there and 0.25"),
        ({"method": "certify"}, "`method` is 'joint' there and 'certify' here"),
        ({"radii": [0.5]}, r"`radii` is None there and \[0.5\] here"),
        ({"seed": 6}, "`seed` is 5 there and 6 here"),
        ({"model": signed(-1)}, "`model` is"),
        ({"data": images(6)}, "`data` is"),
        ({"allow": ["rows"]}, r"`allow` is \[\] there and \['rows'\] here"),
    ],
)
def test_a_run_that_was_made_otherwise_is_not_topped_up(first, path, change, message):
    with pytest.raises(RunFileError, match=f"Cannot top up `.*`, it was made otherwise: {message}"):
        certify(path, top_up=first, **SECOND | change)
    assert not list(path.parent.iterdir())


def test_a_run_without_a_reserve_is_not_topped_up(path):
    old = path.with_name("old.run")
    certify(old, **GIVEN)
    with pytest.raises(RunFileError, match=r"Cannot top up `.*`: it was made without a reserve"):
        certify(path, top_up=old, **SECOND)
    predict_dataset(Network(), images(), sigma=0.5, out=old, n=500, overwrite=True)
    with pytest.raises(RunFileError, match=r"Cannot top up `.*`: it was made without a reserve"):
        certify(path, top_up=old, **SECOND)


def test_a_run_is_not_topped_up_into_itself(first, path):
    path.symlink_to(first)
    for out in (first, path):
        with pytest.raises(ValueError, match="`top_up` must be another run than the one"):
            certify(out, top_up=first, **SECOND, overwrite=True)


def test_a_run_that_is_damaged_missing_or_being_written_is_not_topped_up(first, path):
    old = path.with_name("old.run")
    with pytest.raises(RunFileError, match=r"old\.run`: No such file"):
        certify(path, top_up=old, **SECOND)
    old.write_bytes(first.read_bytes()[:-500])
    with pytest.raises(RunFileError, match=r"old\.run` is damaged"):
        certify(path, top_up=old, **SECOND)
    old.write_bytes(first.read_bytes())
    with database(old) as db:
        db.execute("UPDATE certificate SET radius = 9 WHERE image_id = 3")
    with pytest.raises(RunFileError, match=r"The row of image 3 does not match .* A resume of it"):
        certify(path, top_up=old, **SECOND)
    old.write_bytes(first.read_bytes())
    table = read_run(old)
    with (
        RunWriter(old, table.parameters, {}, range(12), resume=True),
        pytest.raises(RunFileError, match=r"old\.run` is being written by pid"),
    ):
        certify(path, top_up=old, **SECOND)


def test_votes_that_cannot_be_those_of_the_run_are_not_topped_up(first, path):
    old = path.with_name("old.run")
    old.write_bytes(first.read_bytes())
    forge_row(old, 3, lambda row: dataclasses.replace(row, top=(row.top + 1) % 3))
    with pytest.raises(RunFileError, match=r"old\.run`, image 3: its class . is not the one"):
        certify(path, top_up=old, **SECOND)
