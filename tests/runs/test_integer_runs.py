"""Runs under integer noise: when they are, what they say, and what is found in them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tcertify import SmoothedClassifier
from tcertify.errors import RunFileError, StoppedError
from tcertify.radius import largest_integer_change
from tcertify.runs import (
    export_run,
    predict_dataset,
    read_run,
    recertify_run,
    verify_run,
)
from tcertify.runs.recertify import read_votes
from tcertify.sampling import SELECTION, IntegerNoise
from tcertify.votes import Votes
from tests.runs.forge import forge_columns, forge_parameters
from tests.tiny import CLASSES, Network, certify, grey_images, images, rows_of

RADII = (0.0, 0.25, 0.5)


class FiveLevels(list):
    """Arrays of five levels."""

    levels = 4

    def __init__(self):
        super().__init__((np.full((1, 2, 2), k / 4, np.float32), k % CLASSES) for k in range(5))


def floats_of(data):
    """A data set that does not say its levels."""
    return [data[i] for i in range(len(data))]


def noise_of(path, data, **options):
    table = certify(path, data=data, **{"n": 100, "num_classes": CLASSES} | options)
    return table.settings.noise, table.settings.levels


@pytest.mark.parametrize("radii", [None, RADII], ids=["full", "early"])
def test_each_certificate_says_its_radius_in_integers(tmp_path, radii):
    table = certify(tmp_path / "a.run", data=grey_images(), radii=radii)
    assert (table.settings.noise, table.settings.levels) == ("integer", 255)
    expected = largest_integer_change(table.radius, 255)
    assert table.squared_levels.tolist() == expected.tolist()
    assert (table.squared_levels > 0).sum() > 6
    report = verify_run(tmp_path / "a.run", replay=12, model=Network(), dataset=grey_images())
    assert (report.findings, report.moved) == ((), 0)


def test_each_row_is_what_the_smoothed_classifier_certifies_for_that_image(tmp_path):
    certify(tmp_path / "a.run", data=grey_images(), seed=5)
    smoothed = SmoothedClassifier(Network(), CLASSES, 0.5, seed=5)
    for image_id, row in rows_of(tmp_path / "a.run").items():
        image = grey_images()[image_id][0]
        alone = smoothed.certify(image, n0=20, n=500, method="certify", image_id=image_id)
        assert (alone.noise, alone.levels) == ("integer", 255)
        assert (row.radius, row.squared_levels) == (alone.radius, alone.squared_levels)
        assert row.looks[-1, :-1].tolist() == alone.counts.tolist()


def test_auto_goes_by_the_levels_of_the_data_set_else_by_its_first_images(tmp_path):
    grey, odd = floats_of(grey_images()), floats_of(images())
    assert noise_of(tmp_path / "a.run", replace(images(), grey_levels=None)) == ("gaussian", None)
    assert noise_of(tmp_path / "b.run", grey) == ("integer", 255)
    assert noise_of(tmp_path / "c.run", grey, levels=16) == ("gaussian", None)
    assert noise_of(tmp_path / "d.run", [*grey[:5], odd[5]]) == ("gaussian", None)
    assert noise_of(tmp_path / "e.run", grey, sigma=0.001, n=1000) == ("gaussian", None)
    assert noise_of(tmp_path / "f.run", grey, noise="gaussian") == ("gaussian", None)
    assert noise_of(tmp_path / "g.run", FiveLevels()) == ("integer", 4)


def test_a_later_image_off_the_grid_fails_and_the_run_does_not_mix(tmp_path):
    data = floats_of(grey_images(20))
    data[18] = floats_of(images(20))[18]
    table = certify(tmp_path / "a.run", data=data, num_classes=CLASSES)
    assert table.settings.noise == "integer"
    assert [*table.errors] == [18]
    assert table.errors[18].startswith("`x` must be on the grid k / 255: pixel (0, 0, 0) is ")
    assert (table.predicted[18], table.squared_levels[18]) == (-1, -1)
    assert verify_run(tmp_path / "a.run").findings == ()


def test_three_images_off_the_grid_stop_the_run(tmp_path):
    data = replace(images(), grey_levels=16)  # which is not true
    with pytest.raises(StoppedError, match=r"3 images in a row failed, image 2 with `x` must be"):
        certify(tmp_path / "a.run", data=data)


def test_a_resume_under_auto_keeps_the_noise_of_the_run(tmp_path):
    data = floats_of(grey_images())
    certify(tmp_path / "a.run", data=data[:6], num_classes=CLASSES, noise="gaussian")
    certify(tmp_path / "b.run", data=grey_images(), indices=range(4), noise="gaussian")
    table = certify(tmp_path / "b.run", data=grey_images(), resume=True)
    assert (table.settings.noise, len(table)) == ("gaussian", 12)
    with pytest.raises(RunFileError, match="`noise` is 'gaussian' there and 'integer' here"):
        certify(tmp_path / "b.run", data=grey_images(), noise="integer", resume=True)


def test_recertifying_says_the_new_radii_in_integers(tmp_path):
    certify(tmp_path / "a.run", data=grey_images())
    table = recertify_run(tmp_path / "a.run", method="joint", alpha=0.01)
    assert table.squared_levels.tolist() == largest_integer_change(table.radius, 255).tolist()
    assert (table.squared_levels > read_run(tmp_path / "a.run").squared_levels).sum() > 6


def test_squared_levels_that_the_radius_does_not_give_are_a_finding(tmp_path):
    squares = certify(tmp_path / "a.run", data=grey_images()).squared_levels
    forge_columns(tmp_path / "a.run", 4, squared_levels=int(squares[4]) + 1)
    (finding,) = verify_run(tmp_path / "a.run").findings
    assert finding.startswith(f"Image 4: `squared_levels` is {squares[4] + 1}, but its radius ")
    assert finding.endswith(f"gives {squares[4]}.")
    forge_columns(tmp_path / "a.run", 4, squared_levels=None)
    (finding,) = verify_run(tmp_path / "a.run").findings
    assert finding.startswith("Image 4: `squared_levels` is None")


def test_a_run_of_another_kind_of_noise_is_one_sentence(tmp_path):
    certify(tmp_path / "a.run", n=100)
    forge_parameters(tmp_path / "a.run", noise="laplace")
    with pytest.raises(RunFileError, match="`noise` is 'laplace', which this version does not"):
        verify_run(tmp_path / "a.run")


def test_predictions_have_no_squares(tmp_path):
    table = predict_dataset(Network(), grey_images(), sigma=0.5, out=tmp_path / "a.run", n=100)
    assert table.settings.noise == "integer"
    assert set(table.squared_levels.tolist()) == {-1}
    assert verify_run(tmp_path / "a.run").findings == ()


def test_exports_have_the_column(tmp_path):
    table = certify(tmp_path / "a.run", data=grey_images())
    export_run(table, tmp_path / "a.csv", "csv")
    head, first = (tmp_path / "a.csv").read_text().splitlines()[:2]
    at = head.split(",").index("squared_levels")
    assert first.split(",")[at] == str(table.squared_levels[0])


def test_a_run_that_owes_more_than_a_hundredth_of_alpha_is_told(tmp_path, monkeypatch):
    """As 100,000 samples of ImageNet's size do under Gaussian noise."""
    monkeypatch.setattr("tcertify.runs.machine.MOST_OWED", 1e-6)
    (warning,) = certify(tmp_path / "a.run", n=100).warnings
    assert warning.startswith("The Gaussian noise as drawn is not exactly Gaussian")
    assert certify(tmp_path / "b.run", data=grey_images(), n=100).warnings == ()


def test_the_settings_of_a_run_are_told_before_its_first_sample(tmp_path):
    told = []

    class Asking(Network):
        def forward(self, batch):
            assert told
            return super().forward(batch)

    table = certify(tmp_path / "a.run", Asking(), n=100, seed="random", on_start=told.append)
    assert told == [replace(table.settings, shape=None)]


@pytest.fixture
def tying(monkeypatch):
    """Integer noise whose sample 7 of image 2 ties."""
    add = IntegerNoise.add

    def tie(self, out, invalid, images, slot, image_ids, samples, *, stream):
        add(self, out, invalid, images, slot, image_ids, samples, stream=stream)
        invalid |= (image_ids == 2) & (samples == 7) & (stream != SELECTION)
        return out

    monkeypatch.setattr(IntegerNoise, "add", tie)


def test_an_image_with_a_vote_that_nobody_knows_abstains_whatever_is_asked(tmp_path, tying):
    # without it, A would need to beat a rival whose share is lower than it is
    path = tmp_path / "a.run"
    table = certify(path, data=grey_images(), method="joint")
    assert table.invalid.tolist() == [0, 0, 1, *[0] * 9]
    assert (table.predicted[2], table.radius[2]) == (-1, 0)
    assert (table.p_a_lower[2], table.p_b_upper[2]) == (0, 1)
    assert (table.predicted >= 0).sum() > 8
    assert verify_run(path).findings == ()
    for asked in (
        {"method": "certify"},
        {"all_at_once": 0},
        {"top_k": 2},
        {"groups": {"a": [0, 1]}},
    ):
        table = recertify_run(path, **asked)
        assert (table.predicted[2], table.radius[2]) == (-1, 0)
        assert (table.predicted >= 0).sum() > 8
    votes, _ = read_votes(path)
    assert votes.invalid.tolist() == [0, 0, 500, *[0] * 9]
    predicted = predict_dataset(
        Network(), grey_images(), sigma=0.5, n=1000, out=tmp_path / "p.run"
    ).predicted
    assert predicted[2] == -1
    assert (predicted >= 0).sum() > 8


def test_an_image_with_such_a_vote_abstains_alone_too(tying):
    smoothed = SmoothedClassifier(Network(), CLASSES, 0.1)
    image = grey_images()[2][0]
    clear, tied = (smoothed.certify(image, n0=20, n=500, image_id=which) for which in (1, 2))
    assert (clear.invalid, tied.invalid) == (0, 1)
    assert clear.radius > 0
    assert (tied.predicted, tied.radius, tied.squared_levels) == (-1, 0, None)


def test_nan_is_an_answer_that_counts_against_every_class_under_gaussian_noise(tmp_path):
    settings = certify(tmp_path / "a.run").settings
    votes = Votes.of([[480, 10, 9], [480, 10, 10]], [0, 0], [1, 0])
    assert settings.are_sure(votes).all()
    assert (settings.certificates(votes, np.zeros(2, int))["radius"] > 0).all()


def test_an_integer_that_only_the_slack_of_radii_supports_is_found(tmp_path):
    path = tmp_path / "a.run"
    certify(path, data=grey_images())
    row = rows_of(path)[0]
    radius = math.nextafter(math.sqrt(row.squared_levels + 1) / 255, 1)  # covers one square more
    sigma = 0.5 * radius / row.radius * (1 - 1e-12)
    forge_parameters(path, sigma=sigma)  # so that votes support a hair less
    forge_columns(path, 0, radius=radius, squared_levels=row.squared_levels + 1)
    found = [text for text in verify_run(path).findings if text.startswith("Image 0: ")]
    assert found == [
        f"Image 0: squared_levels {row.squared_levels + 1}, but its votes support only"
        f" {row.squared_levels}."
    ]
