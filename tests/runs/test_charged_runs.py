"""Runs that charge for Gaussian noise as it is drawn: what they hold, and what is found in them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tcertify.bounds import charged_alpha
from tcertify.errors import RunFileError, StoppedError
from tcertify.logs import audit_log, read_log
from tcertify.runs import (
    export_run,
    merge_runs,
    predict_dataset,
    read_run,
    read_votes,
    recertify_run,
    verify_run,
)
from tcertify.statistics import certify_family
from tests.runs.forge import forge_parameters
from tests.tiny import CLASSES, Network, certify, grey_images, images, rows_of

CHARGED = charged_alpha(0.001, 500, 4)


@pytest.fixture(params=[None, (0.0, 0.25)], ids=["full", "early"])
def path(request, tmp_path):
    certify(tmp_path / "a.run", radii=request.param, charge_noise=True)
    return tmp_path / "a.run"


def test_the_levels_of_its_looks_sum_to_the_charged_alpha(path):
    settings = read_run(path).settings
    assert settings.charge_noise
    assert (settings.alpha, settings.shape) == (0.001, (1, 2, 2))
    assert settings.schedule.alpha == pytest.approx(CHARGED, rel=1e-14)
    assert settings.schedule.alpha * math.exp(settings.n_tau) == pytest.approx(0.001, rel=1e-12)
    assert not read_run(path).warnings


def test_its_certificates_are_those_of_a_run_at_the_charged_alpha(path, tmp_path):
    radii = read_run(path).settings.radii
    certify(tmp_path / "b.run", radii=radii, alpha=CHARGED)
    for image_id, row in rows_of(tmp_path / "b.run").items():
        assert rows_of(path)[image_id].radius == pytest.approx(row.radius, rel=1e-12)


def test_it_is_verified_replayed_resumed_and_exported(path, tmp_path):
    report = verify_run(path, replay=12, model=Network(), dataset=images())
    assert (report.findings, report.verified, report.charge_noise) == ((), 12, True)
    assert report.n_tau == read_run(path).n_tau
    before = rows_of(path)
    certify(path, radii=read_run(path).settings.radii, charge_noise=True, resume=True)
    assert rows_of(path) == before
    with pytest.raises(RunFileError, match="`charge_noise` is True there and False here"):
        certify(path, radii=read_run(path).settings.radii, resume=True)
    export_run(read_run(path), tmp_path / "a.tsv")
    early = "-early" if read_run(path).stopped_early else ""
    assert read_log(tmp_path / "a.tsv").methods == (f"certify-charged{early}",)
    assert "plain CERTIFY" in audit_log(read_log(tmp_path / "a.tsv"), sigma=0.5).verdict


def test_it_stays_charged_when_it_is_recertified(path):
    table = recertify_run(path, method="joint", alpha=0.05)
    assert (table.settings.alpha, table.settings.charge_noise) == (0.05, True)
    assert table.settings.schedule.alpha == pytest.approx(charged_alpha(0.05, 500, 4), rel=1e-14)
    table = recertify_run(path, reported=0.0)
    assert table.settings.charge_noise
    assert table.settings.schedule.alpha < table.settings.alpha
    same = recertify_run(path)  # which takes the best of all looks
    assert (same.radius >= read_run(path).radius * (1 - 1e-12)).all()


@pytest.mark.parametrize("method", ["certify", "joint"])
def test_every_level_of_a_family_is_charged(tmp_path, monkeypatch, method):
    # A charge that shows: it is a quarter that may be spent, of alpha and of each of its parts.
    monkeypatch.setattr("tcertify.bounds.charge.charged_alpha", lambda alpha, n, size: alpha / 4)
    monkeypatch.setattr("tcertify.runs.settings.ROUNDING", 1e-6)
    path = tmp_path / "a.run"
    certify(path, method=method, charge_noise=True, seed=3)
    votes, _ = read_votes(path)
    tried, differ = np.linspace(0, 0.6, 25), 0
    for radius in tried:
        given = {"sigma": 0.5, "method": method, "invalid": votes.invalid}
        charged, free = (
            certify_family(votes.counts, votes.top, radius, alpha=alpha, **given)
            for alpha in (0.05 / 4, 0.05)
        )
        table = recertify_run(path, all_at_once=radius, alpha=0.05)
        assert table.kept.tolist() == charged.tolist()
        assert (table.settings.alpha, table.settings.charge_noise) == (0.05, True)
        differ += int((charged != free).sum())
    assert differ


def test_a_file_that_says_it_is_charged_and_is_not_is_refused(path):
    levels = read_run(path).settings.look_levels
    forge_parameters(path, look_levels=[level * 0.001 / sum(levels) for level in levels])
    with pytest.raises(
        RunFileError, match=r"sum to more than alpha = 0.001, charged for the noise"
    ):
        read_run(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": None}, "`charge_noise` says nothing without `shape`"),
        ({"shape": []}, "`shape` must name 1 to 8 sides"),
        ({"shape": [2, 0]}, "`shape` must be at least 1"),
        ({"shape": [2**30]}, "`shape` must be at most"),
        ({"shape": "abc"}, "`shape` must be"),
        ({"charge_noise": 1}, "`charge_noise` must be true or false, got 1"),
        ({"noise": "integer", "levels": 255}, "`charge_noise` is for Gaussian noise"),
    ],
)
def test_parameters_that_make_no_sense_are_named(tmp_path, changes, message):
    certify(tmp_path / "a.run", charge_noise=True)
    forge_parameters(tmp_path / "a.run", **changes)
    with pytest.raises(RunFileError, match=message):
        read_run(tmp_path / "a.run")


def test_predictions_are_charged_too(tmp_path):
    options = {"sigma": 0.5, "n": 100, "out": tmp_path / "p.run", "charge_noise": True}
    table = predict_dataset(Network(), images(), **options)
    level = charged_alpha(0.001, 100, 4)
    assert table.settings.look_levels == pytest.approx((level,), rel=1e-14)
    assert verify_run(tmp_path / "p.run").findings == ()


def test_integer_noise_owes_nothing(tmp_path):
    table = certify(tmp_path / "a.run", data=grey_images(), charge_noise=True)
    assert (table.settings.noise, table.settings.charge_noise) == ("integer", False)
    assert (table.n_tau, table.settings.look_levels) == (None, (0.001,))
    report = verify_run(tmp_path / "a.run")
    assert (report.n_tau, report.charge_noise) == (None, False)
    with pytest.raises(ValueError, match="`charge_noise` is for Gaussian noise: integer noise is"):
        certify(tmp_path / "b.run", data=grey_images(), charge_noise=True, noise="integer")


def test_without_a_whole_image_nothing_can_be_charged(tmp_path):
    data = [(image * float("nan"), label) for image, label in (images()[i] for i in range(2))]
    with pytest.raises(StoppedError, match="`charge_noise` needs the size of an image"):
        certify(tmp_path / "a.run", data=data, num_classes=CLASSES, charge_noise=True)
    assert certify(tmp_path / "b.run", data=data, num_classes=CLASSES).n_tau is None


def test_an_alpha_that_cannot_pay_is_refused_before_a_sample_is_drawn(tmp_path):
    options = {"n": 10**4, "alpha": 1e-17, "charge_noise": True}
    with pytest.raises(ValueError, match="`alpha` = 1e-17 cannot pay for Gaussian noise"):
        certify(tmp_path / "a.run", **options)
    assert not (tmp_path / "a.run").exists()


def test_an_n_that_the_charge_makes_useless_is_refused(tmp_path):
    options = {"n": 10, "alpha": 2.0**-10 * (1 + 1e-6), "method": "certify"}
    certify(tmp_path / "a.run", **options)
    with pytest.raises(ValueError, match="n = 10 samples can never certify anything"):
        certify(tmp_path / "b.run", charge_noise=True, **options)


def test_what_is_owed_is_known_where_it_is_not_charged(tmp_path):
    table = certify(tmp_path / "a.run")
    assert not table.settings.charge_noise
    assert table.n_tau == pytest.approx(math.log(0.001 / CHARGED), rel=1e-3)
    assert replace(table.settings, shape=None).n_tau is None


def test_a_planned_run_is_charged_for_its_largest_plan(tmp_path):
    path = tmp_path / "a.run"
    table = certify(path, n=2000, radius_loss=0.05, charge_noise=True)
    assert (table.n < 2000).any()
    level = charged_alpha(0.001, 2000, 4)
    assert table.settings.look_levels == pytest.approx((level,), rel=1e-14)
    assert verify_run(path).findings == ()
    export_run(table, tmp_path / "a.tsv")
    assert read_log(tmp_path / "a.tsv").methods == ("certify-charged-planned",)


def test_charged_shards_merge_to_the_charged_run(tmp_path):
    whole = certify(tmp_path / "a.run", charge_noise=True)
    for number in (1, 2):
        certify(tmp_path / f"{number}.run", charge_noise=True, shard=(number, 2))
    merged = merge_runs([tmp_path / "1.run", tmp_path / "2.run"], tmp_path / "b.run")
    assert merged.settings == whole.settings
    assert merged.radius.tolist() == whole.radius.tolist()
