"""Verification: what the votes do not support is reported, and nothing else."""

import re
from dataclasses import replace

import pytest

from tcertify.errors import RunFileError
from tcertify.runs import certify_dataset, predict_dataset, verify_run
from tcertify.runs.file import RunFile, RunWriter
from tests.runs.forge import database, forge_columns, forge_parameters, forge_row
from tests.tiny import CLASSES, Network, images

RADII = (0.0, 0.25, 0.5)


@pytest.fixture(params=[None, RADII], ids=["full", "early"])
def run(request, tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(
        Network(), images(), sigma=0.5, out=path, n0=20, n=500, radii=request.param, seed=3
    )
    return path


def moved_votes(row):
    """The same number of votes, one of them for another class, at every look."""
    looks = row.looks.copy()
    looks[:, row.predicted] -= 1
    looks[:, (row.predicted + 1) % CLASSES] += 1
    return looks


def test_a_sound_run_has_no_findings(run):
    report = verify_run(run)
    assert (report.verified, report.findings, report.failed, report.missing) == (12, (), 0, 0)


def test_a_run_of_predictions_is_verified_too(tmp_path):
    path = tmp_path / "a.run"
    predict_dataset(Network(), images(), sigma=0.5, out=path, n=300)
    assert verify_run(path).findings == ()
    forge_row(path, 5, lambda row: replace(row, predicted=0))
    (finding,) = verify_run(path).findings
    assert finding.startswith("Image 5: class 0, but its votes give")


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda r: replace(r, radius=r.radius + 1e-6), "radius .* support only"),
        (lambda r: replace(r, predicted=(r.predicted + 1) % CLASSES), "class .* votes give"),
        (lambda r: replace(r, predicted=-1), "radius .* beside an abstention"),
        (lambda r: replace(r, p_a_lower=r.p_a_lower + 1e-6), "bounds"),
        (lambda r: replace(r, p_b_upper=r.p_b_upper - 1e-6), "bounds"),
        (lambda r: replace(r, looks=moved_votes(r)), "radius .* support only"),
        (lambda r: replace(r, selection=r.selection * 0), "its selection votes"),
        (lambda r: replace(r, looks=r.looks[:0]), "it has votes at 0 looks"),
        (lambda r: replace(r, looks=r.looks[:1] * 2, look=0), "its estimation votes do not sum"),
        (lambda r: replace(r, look=99), "it has votes at"),
        (lambda r: replace(r, top=(r.top + 1) % CLASSES), "its class . is not the one"),
        (lambda r: replace(r, error="broken"), "it failed, and yet it is certified"),
    ],
)
def test_what_the_votes_do_not_support_is_reported(run, change, finding):
    forge_row(run, 4, change)
    report = verify_run(run)
    assert any(re.match(f"Image 4: {finding}", text) for text in report.findings)
    assert report.verified == 11


@pytest.mark.parametrize(
    ("columns", "finding"),
    [
        ({"label": -5}, "is not a row: `label` is -5"),
        ({"label": 3}, "is not a row: `label` is 3"),
        ({"radius": -0.5}, "is not a row: `radius` is -0.5"),
        ({"seconds": 1e300}, "is not a row: `seconds` is"),
        ({"look": -7}, "is not a row: `look` is -7"),
        ({"n": 501}, "holds no votes: `n` or `invalid` is not what the votes say"),
        ({"invalid": 1}, "holds no votes: `n` or `invalid` is not what the votes say"),
        ({"looks": b"x"}, "holds no votes: it ends too early"),
        ({"looks": 5}, "does not match its checksum"),
        ({"radius": "wide"}, "does not match its checksum"),
    ],
)
def test_a_row_that_none_can_be_is_reported(run, columns, finding):
    forge_columns(run, 4, **columns)
    report = verify_run(run)
    assert [text for text in report.findings if f"The row of image 4 {finding}" in text]
    assert (report.verified, report.missing) == (11, 1)


def test_an_image_that_was_not_planned_is_reported(run):
    forge_columns(run, 4, image_id=77)
    report = verify_run(run)
    assert "Image 77: it is not in the plan." in report.findings
    assert report.missing == 1


def test_a_weaker_claim_than_the_votes_support_is_no_finding(run):
    forge_row(run, 4, lambda r: replace(r, radius=r.radius / 2, p_a_lower=0.0, p_b_upper=1.0))
    assert verify_run(run).findings == ()


def test_a_schedule_that_spends_more_than_alpha_is_refused(run):
    with RunFile(run) as file:
        levels = [level * 2 for level in file.settings.look_levels]
    forge_parameters(run, look_levels=levels)
    with pytest.raises(RunFileError, match="must not sum to more than alpha"):
        verify_run(run)


def test_a_changed_row_that_was_not_sealed_is_reported_as_damage(run):
    with database(run) as db:
        db.execute("UPDATE certificate SET radius = radius + 1 WHERE image_id = 2")
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


def test_images_that_failed_are_counted(tmp_path):
    data = [images()[i] for i in range(3)]
    data[1][0].fill_(float("nan"))
    path = tmp_path / "a.run"
    certify_dataset(Network(), data, sigma=0.5, out=path, n=100, num_classes=CLASSES)
    report = verify_run(path)
    assert (report.verified, report.failed, report.findings) == (3, 1, ())
