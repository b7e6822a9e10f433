import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from benchmarks import study


def rows(seeds=3):
    """Made-up runs: an arm's average radius is 0.3, 0.01 more a place in the list, and noise."""
    rng = np.random.default_rng(0)
    return [
        {
            "arm": arm.name,
            "sigma": arm.recipe.sigma,
            "seed": seed,
            "training_s": 1.0,
            "certifying_s": 2.0,
            "margin": 3.0,
            **{
                method: {
                    "certified": sorted(rng.random(len(study.GRID)), reverse=True),
                    "average_radius": 0.3 + 0.01 * place + 0.001 * rng.random(),
                }
                for method in study.METHODS
            },
        }
        for seed in range(seeds)
        for place, arm in enumerate(study.arms())
    ]


def test_a_run_trains_and_certifies_every_test_image_by_both_methods():
    arm = study.arms()[3]
    arm = dataclasses.replace(arm, recipe=dataclasses.replace(arm.recipe, epochs=2, k=1))
    row = study.run((arm, 0, 100))
    assert (row["arm"], row["sigma"], row["seed"]) == ("ADRE_REG, lam 0.1", 0.25, 0)
    for method in study.METHODS:
        certified = row[method]["certified"]
        assert len(certified) == len(study.GRID)
        assert certified == sorted(certified, reverse=True)
        assert 0.2 < certified[0] < 1
    assert row["joint"]["average_radius"] >= row["certify"]["average_radius"] > 0
    assert study.run((arm, 0, 100))["joint"] == row["joint"]


def test_every_method_is_studied_at_every_noise_level():
    arms = study.arms()
    assert len({(arm.name, arm.recipe.sigma) for arm in arms}) == len(arms)
    for sigma in study.SIGMAS:
        names = {arm.name for arm in arms if arm.recipe.sigma == sigma}
        assert {"Basic", "SmoothAdv", "ADRE_REG, lam 0.3", "ADRE_ADV, lam 0.3"} <= names


def test_arms_are_compared_seed_by_seed():
    made = rows()
    first = study.compare(made, "joint", None)[0]
    values = [
        [r["joint"]["average_radius"] for r in made if (r["arm"], r["sigma"]) == (arm, 0.25)]
        for arm in ("ADRE_REG, lam 0.1", "Basic")
    ]
    expected = stats.ttest_rel(*values)
    assert first[:3] == ["0.25", "ADRE_REG, lam 0.1", "Basic"]
    assert first[3].startswith(f"{np.subtract(*values).mean():+.4f} [")
    assert first[4] == f"{expected.pvalue:.1e}"


def test_holm_multiplies_the_smallest_by_the_number_and_never_falls():
    assert study.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert study.holm([0.9, 0.8]) == [1.0, 1.0]


def test_runs_tables_and_picture_are_written_with_how_they_were_made(tmp_path):
    made = rows()
    study.write(made, {"command": "make study"}, tmp_path / "results")
    text = (tmp_path / "results" / "study.md").read_text()
    assert "- command: make study\n" in text
    assert text.count("| ADRE_REG, lam 0.3 |") == 3 * (2 + 2 * 2 + 1)
    assert json.loads((tmp_path / "results" / "study.json").read_text())["runs"] == made
    assert (tmp_path / "results" / "study.png").read_bytes().startswith(b"\x89PNG")
