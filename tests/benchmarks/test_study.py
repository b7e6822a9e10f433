import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from benchmarks import study
from benchmarks.study import ARMS, PAIRS, STUDIES, Arm, Job, Run, compare

DIGITS = dataclasses.replace(STUDIES["digits"], samples=100, images=50)
IMAGES = 40


def made_up(arm, sigma, seed, share):
    """A run whose images get class 0, rightly in all but five, by about this share of 500 votes."""
    rng = np.random.default_rng((seed, round(1000 * share)))
    first = rng.binomial(500, share, IMAGES)
    votes = np.zeros((IMAGES, 11), np.int64)
    votes[:, 0], votes[:, 1] = first, 500 - first
    labels = np.arange(IMAGES) // (IMAGES - 5)
    return Run(arm, sigma, seed, 1.0, 2.0, 3.0, labels, np.zeros(IMAGES, np.int64), votes)


def runs(seeds=3):
    return [
        made_up(name, sigma, seed, 0.8 + 0.01 * place)
        for seed in range(seeds)
        for sigma in (0.25, 0.5)
        for place, name in enumerate(ARMS)
    ]


def job(folder, *, tuning=False, **changes):
    recipe = dataclasses.replace(DIGITS.recipe, **{"epochs": 3, "k": 1, "sigma": 0.25} | changes)
    return Job(DIGITS, Arm("ADRE_REG", recipe), 0, tuning, folder, "abc")


@pytest.mark.parametrize("tuning", [False, True])
def test_a_run_trains_and_certifies_and_comes_out_the_same_again(tmp_path, tuning):
    found = study.perform(job(tmp_path, tuning=tuning))
    assert (found.arm, found.sigma, found.seed) == ("ADRE_REG", 0.25, 0)
    assert found.votes.shape == (50, 11)
    assert (found.votes.sum(1) == 100).all()
    radii = {method: found.radius(method) for method in study.METHODS}
    assert 0.2 < (radii["certify"] >= 0).mean() < 1
    assert radii["joint"].mean() > radii["certify"].mean()
    assert (study.perform(job(tmp_path, tuning=tuning)).votes == found.votes).all()
    assert not list(tmp_path.iterdir())


def test_a_run_is_kept_whole_and_not_repeated(tmp_path, monkeypatch):
    asked = []

    def perform(one):
        asked.append(one)
        return dataclasses.replace(made_up("ADRE_REG", 0.25, 0, 0.9), commit=one.commit)

    monkeypatch.setattr(study, "perform", perform)
    first, again = study.run(job(tmp_path / "runs")), study.run(job(tmp_path / "runs"))
    assert len(asked) == 1
    for one in (first, again):
        assert (one.arm, one.sigma, one.seed, one.commit) == ("ADRE_REG", 0.25, 0, "abc")
        assert (one.votes == made_up("ADRE_REG", 0.25, 0, 0.9).votes).all()
    study.run(dataclasses.replace(job(tmp_path / "runs"), commit="later"))
    assert len(asked) == 1
    study.run(job(tmp_path / "runs", lam=0.2))
    study.run(job(tmp_path / "runs", tuning=True))
    study.run(dataclasses.replace(job(tmp_path / "runs"), seed=1))
    assert len(asked) == len(list((tmp_path / "runs").iterdir())) == 4


def test_every_comparison_is_of_arms_that_are_studied():
    assert {name for pair in PAIRS for name in pair} <= set(ARMS)
    assert set(study.SHOWN) <= set(ARMS)


def test_the_settings_of_a_method_are_those_that_certify_farthest_on_validation_images():
    asked = []

    def tune(jobs):
        asked.extend(jobs)
        return [
            made_up(
                arm.name,
                arm.recipe.sigma,
                seed,
                0.6 + 0.2 * (arm.recipe.lam == 0.3) + 0.15 * (arm.recipe.eps == 0.5),
            )
            for arm, seed in jobs
        ]

    arms = study.choose(DIGITS, tune)
    assert all(seed == study.TUNING_SEED for _, seed in asked)
    assert study.TUNING_SEED not in range(DIGITS.seeds)
    for sigma in DIGITS.sigmas:
        chosen = {arm.name: arm.recipe for arm in arms if arm.recipe.sigma == sigma}
        assert set(chosen) == set(ARMS)
        assert chosen["ADRE_REG"].lam == chosen["ADRE_ADV"].lam == 0.3
        assert chosen["SmoothAdv"].eps == chosen["ADRE_ADV"].eps == 0.5
        assert chosen["ADRE_REG, floor 0"] == dataclasses.replace(chosen["ADRE_REG"], floor=0.0)


def test_arms_are_compared_seed_by_seed_and_image_by_image():
    first = [made_up("a", 0.5, seed, 0.9) for seed in range(6)]
    second = [made_up("b", 0.5, seed, 0.8) for seed in range(6)]
    found = compare(first, second, "joint")
    gains = np.array(
        [
            a.radius("joint").clip(0) - b.radius("joint").clip(0)
            for a, b in zip(first, second, strict=True)
        ]
    )
    expected = stats.ttest_rel(
        [study.average_radius(a, "joint") for a in first],
        [study.average_radius(b, "joint") for b in second],
    )
    assert found.mean == pytest.approx(gains.mean())
    assert found.p_t == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.over_images == pytest.approx(gains.mean(0).std(ddof=1) / np.sqrt(IMAGES))
    assert (found.wins, found.p_sign) == ("6/6", pytest.approx(2 / 2**6))


def test_an_arm_against_one_that_is_no_better_or_worse_is_no_evidence():
    same = [made_up("a", 0.5, seed, 0.9 + 0.01 * (seed % 2)) for seed in range(4)]
    other = [made_up("b", 0.5, seed, 0.9 + 0.01 * ((seed + 1) % 2)) for seed in range(4)]
    assert compare(same, other, "certify").p_sign == 1.0
    itself = compare(same, same, "certify")
    assert (itself.low, itself.high, itself.p_t, itself.p_sign) == (0, 0, 1, 1)


def test_holm_multiplies_the_smallest_by_the_number_and_never_falls():
    assert study.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert study.holm([0.9, 0.8]) == [1.0, 1.0]


def test_runs_tables_and_pictures_are_written_with_how_they_were_made(tmp_path):
    arms = [Arm(name, dataclasses.replace(DIGITS.recipe, sigma=0.5)) for name in ARMS]
    made = runs()
    study.write(DIGITS, arms, made, {"command": "make study"}, tmp_path / "results")
    text = (tmp_path / "results" / "study.md").read_text()
    assert "- command: make study\n" in text
    assert text.count("### Change of the average radius") == len(study.METHODS)
    assert text.count("| SmoothAdv | ADRE_REG |") == 2 * len(study.METHODS)
    content = json.loads((tmp_path / "results" / "study.json").read_text())
    assert content["runs"][0]["joint"] == pytest.approx(
        study.average_radius(made[0], "joint"), abs=1e-5
    )
    for picture in ("study.png", "study_bounds.png"):
        assert (tmp_path / "results" / picture).read_bytes().startswith(b"\x89PNG")
