"""bound and plan: numbers before the first sample."""

import json

from click.testing import CliRunner

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_upper
from tcertify.cli.main import main
from tcertify.statistics import power, samples_needed

CASE = ("--radius", "0.5", "--sigma", "0.5", "--p-a", "0.9", "--p-b", "0.05", "--method", "certify")


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_bound_prints_both_bounds_with_all_digits():
    lower, upper = run("bound", 990, 1000, "--alpha", 0.01).splitlines()
    assert lower == f"lower {float(clopper_pearson_lower(990, 1000, 0.01))!r}"
    assert upper == f"upper {float(clopper_pearson_upper(990, 1000, 0.01))!r}"
    assert [*json.loads(run("bound", 990, 1000, "--json"))] == ["lower", "upper"]


def test_plan_says_samples_power_and_the_largest_radius():
    found = json.loads(run("plan", *CASE, "--N", 500, "--json"))
    assert found["samples"] == samples_needed(0.9, 0.05, 0.5, sigma=0.5, method="certify")
    assert found["power"] == power(500, 0.9, 0.05, 0.5, sigma=0.5, method="certify")
    assert [*found] == ["samples", "N", "power", "largest_radius"]
    text = run("plan", *CASE, "--N", 500)
    assert text.startswith(f"{found['samples']} samples certify radius 0.5 with probability 0.9\n")


def test_plan_says_that_a_radius_is_out_of_reach():
    text = run("plan", "--radius", 5, "--sigma", 0.5, "--p-a", 0.9, "--method", "certify")
    assert text.startswith("no number of samples up to 10,000,000 certifies radius 5\n")


def test_without_p_b_the_rival_has_all_the_rest():
    arguments = ("plan", "--radius", 0.3, "--sigma", 0.5, "--p-a", 0.8, "--N", 200, "--json")
    assert run(*arguments) == run(*arguments, "--p-b", 1 - 0.8)
