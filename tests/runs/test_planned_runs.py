"""Runs with a radius loss: each image gets as many samples as its selection sample asks for."""

import re

import numpy as np
import pytest

from tcertify.errors import RunFileError
from tcertify.logs.audit import audit_log
from tcertify.logs.tsv import read_log
from tcertify.report import certified_table
from tcertify.report.results import read_result
from tcertify.runs import export_run, read_run, read_votes, recertify_run, verify_run
from tcertify.statistics import certify_family
from tcertify.statistics.allocation import plan_for_loss, plan_sizes
from tcertify.votes import Votes
from tests.runs.forge import forge_columns, forge_row
from tests.tiny import Network, certify, images, rows_of

N, LOSS = 10_000, 0.05
GIVEN = {"n": N, "radius_loss": LOSS, "method": "joint"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("planned") / "a.run"
    certify(path, **GIVEN)
    return path


def test_each_image_has_the_samples_that_its_selection_votes_ask_for(run):
    rows = rows_of(run)
    for row in rows.values():
        votes = Votes.from_columns(row.selection[None], np.array([row.top]))
        sizes = plan_sizes(N, 0.001)
        wanted = row.top == row.label
        planned = plan_for_loss(votes, sizes, alpha=0.001, radius_loss=LOSS, wanted=wanted)
        assert [row.n] == planned.tolist()
    assert len({row.n for row in rows.values()}) >= 3
    assert all(len(row.looks) == 1 for row in rows.values())


def test_its_votes_are_the_first_of_a_full_run_s_and_certify_at_the_whole_of_alpha(run, tmp_path):
    certify(tmp_path / "full.run", **GIVEN | {"radius_loss": None})
    full = rows_of(tmp_path / "full.run")
    kept = []
    for image_id, row in rows_of(run).items():
        assert (row.looks[0] <= full[image_id].looks[0]).all()
        assert row.selection.tolist() == full[image_id].selection.tolist()
        kept += [row.radius / full[image_id].radius] if full[image_id].predicted >= 0 else []
        alone = certify(
            tmp_path / "one.run",
            **GIVEN | {"radius_loss": None, "n": row.n},
            indices=[image_id],
            overwrite=True,
        )
        assert alone.radius.tolist() == [row.radius]
    assert len(kept) >= 5
    assert np.mean(kept) > 1 - 2 * LOSS


def test_resume_verification_and_replay_know_the_plan(run, tmp_path):
    path = tmp_path / "b.run"
    certify(path, **GIVEN, indices=range(5))
    certify(path, **GIVEN, resume=True)
    assert rows_of(path) == rows_of(run)
    report = verify_run(path, replay=12, fresh=3, model=Network(), dataset=images())
    assert (report.findings, report.moved) == ((), 0)
    with pytest.raises(RunFileError, match=r"`radius_loss` is 0\.05 there and 0\.1 here"):
        certify(path, **GIVEN | {"radius_loss": 0.1}, resume=True)


def test_samples_of_another_number_than_planned_are_found(run, tmp_path):
    path = tmp_path / "c.run"
    path.write_bytes(run.read_bytes())
    image_id, row = next((i, row) for i, row in rows_of(path).items() if row.n < N)
    sizes = plan_sizes(N, 0.001)
    more = sizes[sizes.index(row.n) + 1] - row.n

    def one_size_more(row):
        row.looks[0, row.top] += more
        return row

    forge_row(path, image_id, one_size_more)
    findings = verify_run(path).findings
    assert [text for text in findings if f"Image {image_id}: its estimation votes do not" in text]


def test_the_question_can_be_asked_anew(run):
    table = recertify_run(run, alpha=0.01, reported=0.1)
    assert table.n.tolist() == read_run(run).n.tolist()
    assert table.radius[table.kept].min() > 0
    assert "keep all but 5 % of the radius" in table.claim
    assert recertify_run(run, top_k=2).top_k == 2


def test_every_table_says_how_samples_were_planned_and_shows_what_a_full_run_shows(run):
    table = certified_table([read_result(run)])
    assert any("The samples of each image were planned" in note for note in table.notes())
    assert table.columns[0].acr is not None


def test_a_log_names_the_plan_and_the_audit_knows_it(run, tmp_path):
    export_run(read_run(run), tmp_path / "a.tsv", format="tsv")
    log = read_log(tmp_path / "a.tsv")
    assert log.methods == ("joint-planned",)
    assert read_result(tmp_path / "a.tsv").method == "joint"
    assert "joint-planned" in audit_log(log, sigma=0.5).verdict


def test_images_of_different_samples_are_certified_all_at_once(run):
    votes, _ = read_votes(run)
    assert len({*votes.n}) >= 3
    listed = []
    for radius in (0.0, 0.2, 0.4):
        table = recertify_run(run, all_at_once=radius)
        family = certify_family(votes.counts, votes.top, radius, sigma=0.5, invalid=votes.invalid)
        assert table.kept.tolist() == family.tolist()
        assert "keep all but 5 % of the radius" in table.claim
        listed.append(int(family.sum()))
    assert listed[0] > listed[-1] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius_loss": 0.0}, "`radius_loss` must be in (0, 1), got 0.0."),
        ({"radius_loss": 1}, "`radius_loss` must be in (0, 1), got 1."),
        ({"radii": [0.5]}, "`radius_loss` must not be given with `radii`, or for predictions."),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        certify(tmp_path / "d.run", **GIVEN | change)


def test_a_forged_certificate_of_a_planned_image_is_found(run, tmp_path):
    path = tmp_path / "e.run"
    path.write_bytes(run.read_bytes())
    image_id, row = next((i, row) for i, row in rows_of(path).items() if row.radius > 0)
    forge_columns(path, image_id, radius=2 * row.radius)
    assert any("its votes support only" in text for text in verify_run(path).findings)
