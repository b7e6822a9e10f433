"""Verification: what the votes do not support is reported, and nothing else."""

import json
import re
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from tcertify import certify_counts
from tcertify.errors import RunFileError
from tcertify.runs.engine import certify_dataset, predict_dataset
from tcertify.runs.file import Row, RunFile, RunWriter, decode_votes, encode_votes
from tcertify.runs.table import read_run
from tcertify.runs.verify import recertify_run, verify_run
from tcertify.statistics.stopping import Schedule
from tests.tiny import CLASSES, Network, images

RADII = (0.0, 0.25, 0.5)


@pytest.fixture(params=[None, RADII], ids=["full", "early"])
def run(request, tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(
        Network(), images(), sigma=0.5, out=path, n0=20, n=500, radii=request.param, seed=3
    )
    return path


def tamper(path, idx, change):
    """Change a row and seal it anew: what a forger would do."""
    with RunFile(path) as run:
        rows = {row.idx: row for row in run.rows()}
        parameters, plan = run.parameters, run.plan
    rows[idx] = change(rows[idx])
    with RunWriter(path, parameters, {}, plan, overwrite=True) as writer:
        writer.add(rows.values())


def moved_votes(row):
    """The same number of votes, one of them for another class, at every look."""
    looks = decode_votes(row.estimation, CLASSES)
    looks[:, row.predicted] -= 1
    looks[:, (row.predicted + 1) % CLASSES] += 1
    return encode_votes(looks)


def test_a_sound_run_has_no_findings(run):
    report = verify_run(run)
    assert (report.verified, report.findings, report.failed, report.missing) == (12, (), 0, 0)


def test_a_run_of_predictions_is_verified_too(tmp_path):
    path = tmp_path / "a.run"
    predict_dataset(Network(), images(), sigma=0.5, out=path, n=300)
    assert verify_run(path).findings == ()
    tamper(path, 5, lambda row: replace(row, predicted=0))
    (finding,) = verify_run(path).findings
    assert finding.startswith("Image 5: class 0, but its votes give")
    with pytest.raises(RunFileError, match="predictions, which have no radius"):
        recertify_run(path)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda r: replace(r, radius=r.radius + 1e-6), "Image 4: radius .* support only"),
        (
            lambda r: replace(r, predicted=(r.predicted + 1) % CLASSES),
            "Image 4: class .* votes give",
        ),
        (lambda r: replace(r, predicted=-1), "Image 4: radius .* beside an abstention"),
        (lambda r: replace(r, p_a_lower=r.p_a_lower + 1e-6), "Image 4: bounds"),
        (lambda r: replace(r, p_b_upper=r.p_b_upper - 1e-6), "Image 4: bounds"),
        (lambda r: replace(r, estimation=moved_votes(r)), "Image 4: radius .* support only"),
        (lambda r: replace(r, selection='[{"0": 19}]'), "Image 4: its selection votes"),
        (lambda r: replace(r, selection="[]"), "Image 4: its selection votes"),
        (lambda r: replace(r, estimation="[]"), "Image 4: it has votes of 0 looks"),
        (
            lambda r: replace(r, look=0, estimation='[{"0": 7}]'),
            "Image 4: its estimation votes do not sum",
        ),
        (lambda r: replace(r, estimation='[{"9": 7}]'), "Image 4: These are not votes"),
        (lambda r: replace(r, look=99), "Image 4: it has votes of"),
        (lambda r: replace(r, n=r.n + 1), "Image 4: `n` or `invalid`"),
        (lambda r: replace(r, invalid=1), "Image 4: `n` or `invalid`"),
        (lambda r: replace(r, alpha=0.01), "Image 4: `alpha` is 0.01, unlike the run's"),
        (lambda r: replace(r, sigma=1.0), "Image 4: `sigma` is 1.0, unlike the run's"),
        (lambda r: replace(r, seed=4), "Image 4: `seed` is 4, unlike the run's"),
        (lambda r: replace(r, error="broken"), "Image 4: it is invalid, and yet certified"),
        (lambda r: replace(r, idx=77), "Image 77: it is not in the plan"),
    ],
)
def test_what_the_votes_do_not_support_is_reported(run, change, finding):
    tamper(run, 4, change)
    report = verify_run(run)
    assert any(re.match(finding, text) for text in report.findings)
    assert report.verified in (11, 12)  # 12 where a row is whole but not planned


def test_a_weaker_claim_than_the_votes_support_is_no_finding(run):
    tamper(run, 4, lambda r: replace(r, radius=r.radius / 2, p_a_lower=0.0, p_b_upper=1.0))
    assert verify_run(run).findings == ()


def test_a_schedule_that_spends_more_than_alpha_is_refused(run):
    with RunFile(run) as file:
        parameters, plan = file.parameters, file.plan
    parameters["levels"] = [level * 2 for level in parameters["levels"]]
    with RunWriter(run, parameters, {}, plan, overwrite=True):
        pass
    with pytest.raises(RunFileError, match="must not sum to more than alpha"):
        verify_run(run)


def test_a_changed_row_that_was_not_sealed_is_reported_as_damage(run):
    db = sqlite3.connect(run)
    db.execute("UPDATE certificate SET radius = radius + 1 WHERE idx = 2")
    db.commit()
    db.close()
    report = verify_run(run)
    assert report.findings == ("The row of image 2 does not match its checksum.",)
    assert (report.verified, report.missing) == (11, 1)


def test_a_truncated_file_is_reported_and_its_whole_rows_are_verified(run):
    content = run.read_bytes()
    run.write_bytes(content[:-4096])
    assert any("damaged" in text or "malformed" in text for text in verify_run(run).findings)


def test_images_still_to_do_are_counted(tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n=100, indices=range(5))
    with RunFile(path) as run:
        parameters = run.parameters
    with RunWriter(path, parameters, {}, range(12), resume=True):
        pass
    report = verify_run(path)
    assert (report.verified, report.missing) == (5, 7)


def test_a_replay_casts_the_same_votes(run):
    report = verify_run(run, replay=4, model=Network(), dataset=images(), seed=0)
    assert (report.findings, report.moved) == ((), 0)
    assert len(report.replayed) == 4
    everything = verify_run(run, replay=99, model=Network(), dataset=images())
    assert everything.replayed == tuple(range(12))


def test_a_replay_finds_votes_that_were_never_cast(run):
    def forged(row: Row) -> Row:
        """A smaller radius, consistent with its votes, but the votes are not the model's."""
        looks = decode_votes(moved_votes(row), CLASSES)
        return replace(
            row, estimation=encode_votes(looks), radius=0.0, p_a_lower=0.0, p_b_upper=1.0
        )

    tamper(run, 4, forged)
    assert verify_run(run).findings == ()
    report = verify_run(run, replay=12, model=Network(), dataset=images())
    assert report.findings == ("Image 4: 1 votes come out otherwise when replayed.",)


def test_a_replay_on_another_kind_of_device_allows_a_few_votes_to_move(run):
    with RunFile(run) as file:
        parameters = {**file.parameters, "device": "cuda, NVIDIA H200"}
        rows, plan = [*file.rows()], file.plan
    rows[4] = replace(
        rows[4], estimation=moved_votes(rows[4]), radius=0.0, p_a_lower=0.0, p_b_upper=1.0
    )
    with RunWriter(run, parameters, {}, plan, overwrite=True) as writer:
        writer.add(rows)
    report = verify_run(run, replay=12, model=Network(), dataset=images())
    assert (report.findings, report.moved) == ((), 1)


def test_a_replay_with_another_model_or_data_set_is_refused(run):
    model = Network()
    model.linear.bias.data += 1
    with pytest.raises(RunFileError, match="made with another model"):
        verify_run(run, replay=1, model=model, dataset=images())
    with pytest.raises(RunFileError, match="made from other data"):
        verify_run(run, replay=1, model=Network(), dataset=images(13))
    with pytest.raises(ValueError, match="needs the model and the data set"):
        verify_run(run, replay=1)


@pytest.mark.parametrize("method", ["certify", "t-certify", "joint"])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_recertifying_gives_what_the_method_gives_for_the_same_votes(tmp_path, method, alpha):
    path = tmp_path / "a.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n=500, method="certify")
    with RunFile(path) as run:
        rows = [*run.rows()]
    votes = np.array([decode_votes(row.estimation, CLASSES)[0] for row in rows])
    tops = [decode_votes(row.selection, CLASSES)[0].argmax() for row in rows]
    expected = certify_counts(
        votes[:, :-1], tops, sigma=0.5, alpha=alpha, method=method, invalid=votes[:, -1]
    )
    table = recertify_run(path, method=method, alpha=alpha)
    assert table.predicted.tolist() == expected.predicted.tolist()
    assert table.radius.tolist() == expected.radius.tolist()
    assert (table.parameters["method"], table.parameters["alpha"]) == (method, alpha)
    assert table.n.tolist() == [500] * 12


def test_recertifying_an_early_stopped_run_keeps_to_its_schedule(tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n=500, radii=RADII)
    schedule = Schedule.geometric(500, 0.001, first=100)
    table = recertify_run(path, method="certify", alpha=0.002)
    with RunFile(path) as run:
        for row, radius in zip(run.rows(), table.radius, strict=True):
            looks = decode_votes(row.estimation, CLASSES)
            top = decode_votes(row.selection, CLASSES)[0].argmax()
            best = max(
                certify_counts(votes[:-1], top, sigma=0.5, alpha=2 * level, method="certify").radius
                for votes, level in zip(looks, schedule.levels, strict=False)
            )
            assert radius == pytest.approx(float(best), rel=1e-12)


def test_recertifying_refuses_what_is_no_method(run):
    with pytest.raises(ValueError, match="`method` must certify"):
        recertify_run(run, method="predict")
    with pytest.raises(ValueError, match="`alpha` must be in"):
        recertify_run(run, alpha=2)


def test_invalid_images_stay_invalid(tmp_path):
    path = tmp_path / "a.run"
    data = [images()[i] for i in range(3)]
    data[1][0].fill_(float("nan"))
    certify_dataset(Network(), data, sigma=0.5, out=path, n=100, num_classes=CLASSES)
    report = verify_run(path)
    assert (report.verified, report.failed, report.findings) == (3, 1, ())
    table = recertify_run(path, method="certify")
    assert (table.predicted[1], table.radius[1]) == (-1, 0)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"sigma": -1.0}, {"looks": [5, 3]}, {"looks": "abc"}, {"num_classes": 10**12}],
)
def test_parameters_that_make_no_sense_are_named(run, parameters):
    with RunFile(run) as file:
        changed = {**file.parameters, **parameters} if parameters else {}
    with RunWriter(run, changed, {}, [0], overwrite=True):
        pass
    with pytest.raises(RunFileError, match="parameters that make no sense"):
        verify_run(run)


def test_the_table_of_a_run_is_what_its_rows_say(run):
    table = read_run(run)
    with RunFile(run) as file:
        for i, row in enumerate(file.rows()):
            for name in ("idx", "label", "predicted", "radius", "p_a_lower", "p_b_upper", "n"):
                assert getattr(table, name)[i] == getattr(row, name)
    assert json.dumps(table.parameters)
