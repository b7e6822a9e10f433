"""Runs with a budget: samples are spread over all images by what their selection votes say."""

import dataclasses
import datetime
import re

import numpy as np
import pytest

from tcertify.data.dataset import TensorDataset
from tcertify.errors import RunFileError, StoppedError
from tcertify.runs import budget as budgets
from tcertify.runs import read_run, recertify_run, verify_run
from tcertify.runs.settings import Settings
from tcertify.statistics.allocation import plan_for_budget, plan_sizes
from tcertify.votes import Votes
from tests.runs.forge import forge_row
from tests.tiny import CLASSES, Network, SlowNetwork, certify, certify_until_cut, images, rows_of

N, BUDGET = 10_000, 40_000
GIVEN = {"n": N, "budget": BUDGET, "method": "joint"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("budget") / "a.run"
    certify(path, **GIVEN)
    return path


def test_the_samples_are_those_of_the_plan_for_all_images_and_keep_to_the_budget(run):
    rows = rows_of(run)
    selection = np.array([row.selection for row in rows.values()])
    top = np.array([row.top for row in rows.values()])
    planned = plan_for_budget(
        Votes.from_columns(selection, top),
        plan_sizes(N, 0.001),
        alpha=0.001,
        budget=BUDGET,
        wanted=top == [row.label for row in rows.values()],
    )
    assert [row.n for row in rows.values()] == planned.tolist()
    assert 0.9 * BUDGET < planned.sum() <= BUDGET
    assert len(set(planned)) >= 3
    assert all(len(row.looks) == 1 for row in rows.values())


def test_each_image_is_certified_as_if_its_samples_had_been_asked_for(run, tmp_path):
    for image_id, row in rows_of(run).items():
        alone = certify(
            tmp_path / "one.run", n=row.n, method="joint", indices=[image_id], overwrite=True
        )
        assert alone.radius.tolist() == [row.radius]


def test_more_images_than_the_pilot_are_planned_by_it_and_come_to_about_the_budget(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(budgets, "_PILOT", 20)
    asked = 3000 * 60
    table = certify(tmp_path / "a.run", data=images(60), **GIVEN | {"budget": asked})
    assert 0.7 * asked < table.n.sum() < 1.3 * asked
    assert verify_run(tmp_path / "a.run").findings == ()


def test_resume_keeps_the_plan_and_verification_and_replay_know_it(run, tmp_path):
    path = tmp_path / "b.run"
    certify(path, **GIVEN, indices=range(12))
    for image_id in (3, 7):
        forge_row(path, image_id, lambda row: row)  # as it was
    certify(path, **GIVEN, resume=True)
    assert rows_of(path) == rows_of(run)
    report = verify_run(path, replay=12, fresh=3, model=Network(), dataset=images())
    assert (report.findings, report.moved) == ((), 0)
    with pytest.raises(RunFileError, match=r"`budget` is 40000 there and 50000 here"):
        certify(path, **GIVEN | {"budget": 50_000}, resume=True)


def test_a_run_that_was_cut_goes_on_with_the_plan_that_it_has(run, tmp_path):
    path = tmp_path / "c.run"
    certify(path, **GIVEN)
    whole = rows_of(path)

    certify_until_cut(path, **GIVEN, overwrite=True)
    certify(path, **GIVEN, resume=True)
    assert rows_of(path) == whole == rows_of(run)


def test_a_budget_of_time_becomes_samples_and_a_resume_keeps_them(tmp_path):
    path, asked = tmp_path / "d.run", datetime.timedelta(seconds=100)
    given = {**GIVEN, "budget": asked}
    table = certify(path, **given)
    settings = table.settings
    assert settings.budget > 12 * settings.sizes[0]
    assert table.n.sum() <= settings.budget
    again = certify(path, **given, resume=True)
    assert (again.settings, again.n.tolist()) == (settings, table.n.tolist())


def test_a_budget_of_time_takes_off_what_the_images_take_to_select_their_classes(monkeypatch):
    monkeypatch.setattr(budgets.time, "monotonic", lambda: 110.0)
    made = Settings.make(num_classes=CLASSES, sigma=0.5, n=N, alpha=0.001, n0=99, method="joint")
    seen = budgets._Seen(None, rows=[None] * 11)
    bought = budgets._bought(
        made, datetime.timedelta(seconds=1000), 20, began=10.0, started=100.0, seen=seen
    )
    # ten images of 100 samples in ten seconds: 100 samples/s, of which 900 s are left
    assert bought == 90_000 - 20 * 99


def test_what_may_be_asked_of_full_runs_may_be_asked_of_these(run):
    table = recertify_run(run, alpha=0.01, reported=0.1)
    assert table.radius[table.kept].min() > 0
    assert f"within a budget of {BUDGET}" in table.claim
    assert recertify_run(run, top_k=2).top_k == 2


def test_samples_of_another_number_than_planned_are_found(run, tmp_path):
    path = tmp_path / "e.run"
    path.write_bytes(run.read_bytes())
    sizes = plan_sizes(N, 0.001)
    image_id, row = next((i, row) for i, row in rows_of(path).items() if row.n < N)
    more = sizes[sizes.index(row.n) + 1] - row.n

    def one_size_more(row):
        row.looks[0, row.top] += more
        return row

    forge_row(path, image_id, one_size_more)
    findings = verify_run(path).findings
    assert [text for text in findings if f"Image {image_id}: its estimation votes do not" in text]


def test_more_samples_than_all_images_can_take_give_each_its_n(tmp_path):
    table = certify(tmp_path / "a.run", **GIVEN | {"budget": 10**9})
    right = table.correct
    assert (table.n[right] == N).all()
    assert right.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"budget": 12_000},
            "`budget` must be at least 12228, a first look of 1019 samples for each of 12 images,"
            " got 12000.",
        ),
        ({"budget": 0}, "`budget` must be at least 1, got 0."),
        ({"budget": datetime.timedelta(0)}, "`budget` must be positive, got 0:00:00."),
        ({"radii": [0.5]}, "`budget` must not be given with `radii`."),
        ({"radius_loss": 0.1}, "`budget` must not be given with `radius_loss`."),
        (
            {"shard": (1, 2)},
            "`budget` must not be given with `shard`, since it is worked out from all images at"
            " once.",
        ),
    ],
)
def test_a_budget_that_cannot_be_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        certify(tmp_path / "f.run", **GIVEN | change)
    assert not list(tmp_path.iterdir())


def test_too_little_time_is_refused_with_what_it_would_take(tmp_path):
    given = {**GIVEN, "budget": datetime.timedelta(seconds=0.001)}
    with pytest.raises(ValueError, match=r"too short: at .* samples/s it leaves 0 for estimation"):
        certify(tmp_path / "g.run", model=SlowNetwork(), **given)
    assert not list(tmp_path.iterdir())


def test_images_that_fail_in_a_row_stop_the_pilot_and_leave_nothing(tmp_path):
    class Torn(TensorDataset):
        def __getitem__(self, index):
            if index in (1, 2, 3):
                raise OSError("it cannot be read")
            return super().__getitem__(index)

    data = Torn(*(getattr(images(), field.name) for field in dataclasses.fields(TensorDataset)))
    with pytest.raises(StoppedError, match=r"while its budget was planned: 3 images in a row"):
        certify(tmp_path / "h.run", data=data, **GIVEN)
    assert not list(tmp_path.iterdir())


def test_the_run_says_what_it_spent(run):
    assert read_run(run).claim.startswith("The samples of each image were planned from the selec")
