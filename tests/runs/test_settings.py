"""Settings: what a run can be asked for, and what a file cannot claim."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from tcertify import certify_counts
from tcertify.runs.settings import MAX_LOOKS, MAX_VOTES, NOTHING, Settings
from tcertify.sampling import GaussianNoise, IntegerNoise
from tcertify.statistics.stopping import Schedule
from tcertify.votes import Votes

PLAIN = {"num_classes": 3, "sigma": 0.5, "n0": 10, "n": 1000, "alpha": 0.001, "method": "joint"}


def make(**changes):
    return Settings.make(**PLAIN | changes)


def test_settings_are_the_same_after_json():
    for settings in (make(), make(radii=[0.0, 0.5]), make(noise="integer", levels=16)):
        parameters = json.loads(json.dumps(asdict(settings)))
        assert Settings.from_parameters(parameters | {"other": 1}) == settings


def test_the_noise_of_a_run_is_what_its_settings_say():
    assert make(seed=3).noise_source() == GaussianNoise(0.5, 3)
    integer = make(seed=3, noise="integer", levels=16)
    assert integer.noise_source() == IntegerNoise(0.5, 16, 3)
    assert integer.squared_levels([0.0, 0.5]).tolist() == [-1, 63]
    assert make().squared_levels([0.0, 0.5]).tolist() == [-1, -1]


def test_early_stopping_looks_as_documented():
    schedule = Schedule.geometric(100_000, 0.001, first=100)
    settings = make(n=100_000, radii=[0.5])
    assert (settings.looks, settings.look_levels) == (schedule.looks, schedule.levels)
    assert 100 <= settings.looks[0] <= 110


def test_each_certificate_is_that_of_its_look():
    settings = make(radii=[0.5])
    counts = np.array([[90, 5, 5], [900, 60, 40], [30, 40, 30]])
    looks = np.array([0, len(settings.looks) - 1, 0])
    votes = Votes.of(counts, [0, 0, 1], [3, 0, 1])
    found = settings.certificates(votes, looks)
    for i, look in enumerate(looks):
        alone = certify_counts(
            counts[i],
            votes.top[i],
            sigma=0.5,
            alpha=settings.look_levels[look],
            invalid=votes.invalid[i],
        )
        assert found[i].tolist() == (
            alone.predicted,
            alone.radius,
            alone.p_a_lower,
            alone.p_b_upper,
        )


def test_a_prediction_certifies_no_radius():
    found = make(method="predict", n0=0).certificates(
        Votes.of([[500, 300, 200], [340, 330, 330]], [0, 0]), np.zeros(2, int)
    )
    assert found["predicted"].tolist() == [0, -1]
    assert found[1].tolist() == NOTHING


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be at least 2"),
        ({"num_classes": 2**24}, "takes more than"),
        ({"sigma": 0}, "`sigma` must be positive"),
        ({"sigma": 1e308}, "`sigma` must be positive, from"),
        ({"sigma": 5e-324}, "`sigma` must be positive, from"),
        ({"sigma": 10**400}, "`sigma` must be"),
        ({"sigma": float("nan")}, "`sigma` must be"),
        ({"sigma": [0.5]}, "`sigma` must be a number"),
        ({"alpha": 1}, "`alpha` must be"),
        ({"seed": 2**63}, "`seed` must be at most"),
        ({"seed": 0.5}, "`seed` must be a whole number"),
        ({"n0": 0}, "`n0` must be at least 1"),
        ({"method": "best"}, "`method` must be one of"),
        ({"method": ["joint"]}, "`method` must be one of"),
        ({"looks": []}, "must be"),
        ({"looks": "abc"}, "`looks` must be"),
        ({"looks": [5, 3], "look_levels": [1e-4, 1e-4]}, "`looks` must be increasing"),
        ({"looks": [2**40]}, "`n` must be at most"),
        ({"looks": [1.5]}, "must be a whole number"),
        ({"looks": [*range(1, MAX_LOOKS + 2)]}, "`looks` must be at most"),
        ({"look_levels": [1e-4, 1e-4]}, "one per look"),
        ({"look_levels": [0.002]}, "must not sum to more than alpha"),
        ({"look_levels": [None]}, "must be a number"),
        ({"radii": []}, "`radii` must name"),
        ({"radii": [-1]}, "`radii` must be at least 0"),
        ({"radii": 5}, "`radii` must be"),
        ({"radii": [[1]]}, "`radii` must be a number"),
        ({"noise": "laplace"}, "`noise` is 'laplace', which this version does not know"),
        ({"noise": ["integer"]}, "`noise` is .'integer'., which this version does not know"),
        ({"noise": "x" * 10**6}, "`noise` is 'x{69}, which this version does not know"),
        ({"levels": 255}, "`levels` are those of integer noise, got 255"),
        ({"noise": "integer"}, "`levels` must be a whole number from 1 to 32767, got None"),
        ({"noise": "integer", "levels": 0.5}, "`levels` must be a whole number .*, got 0.5"),
        ({"noise": "integer", "levels": 10**400}, "`levels` must be a whole number"),
        ({"noise": "integer", "levels": 30_000}, "`levels` and nine standard deviations"),
        ({"noise": "integer", "levels": 16, "sigma": 0.01}, "`sigma` must be at least 0.3 grey"),
    ],
)
def test_what_makes_no_sense_is_named(changes, message):
    parameters = json.loads(json.dumps(asdict(make()))) | changes
    with pytest.raises(ValueError, match=message):
        Settings.from_parameters(parameters)


@pytest.mark.parametrize("name", asdict(make()))
def test_what_is_missing_is_named(name):
    parameters = asdict(make())
    del parameters[name]
    with pytest.raises(ValueError, match=f"`{name}` is missing"):
        Settings.from_parameters(parameters)


def test_the_votes_of_one_image_are_bounded():
    assert make(num_classes=MAX_VOTES - 1).num_classes == MAX_VOTES - 1
    with pytest.raises(ValueError, match="takes more than"):
        make(num_classes=MAX_VOTES)
