"""tcertify audit: its tables, its verdict, its status, its errors."""

import json

import pytest
from click.testing import CliRunner

from tcertify.cli.main import main
from tcertify.logs import read_log
from tests.logs.test_audit import log_of, spread_counts


def printed_log(path, n, alpha):
    log = log_of(spread_counts(n, 200), n=n, alpha=alpha)
    rows = [
        f"{i}\t0\t{p}\t{r:.4f}\t{int(p == 0)}\t0:00:01"
        for i, p, r in zip(log.idx, log.predict, log.radius, strict=True)
    ]
    path.write_text("\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *rows]) + "\n")
    return str(path)


def run(*arguments):
    return CliRunner().invoke(main, ["audit", *arguments])


def test_the_command_prints_fits_verdict_and_table(tmp_path):
    path = printed_log(tmp_path / "log", 100_000, 0.001)
    result = run(path, "--sigma", "0.5", "--recertify", "0.0001", "--step", "0.5")
    assert result.exit_code == 0, result.output
    assert "The log was made with n = 100000, alpha = 0.001 (0 of" in result.output
    lines = [line.split() for line in result.output.splitlines() if line]
    accuracy = next(cells for cells in lines if cells[:2] == ["radius", "0.5"])
    (mean,) = (cells for cells in lines if cells[0] == "ACR")
    log = read_log(path)
    assert float(accuracy[2]) == pytest.approx((log.correct & (log.radius >= 0.5)).mean(), abs=1e-4)
    assert float(mean[1]) == pytest.approx((log.correct * log.radius).mean(), abs=1e-4)
    assert "alpha = 0.0001" in result.output


def test_json_holds_verdict_fits_and_tables(tmp_path):
    path = printed_log(tmp_path / "log", 1000, 0.001)
    found = json.loads(run(path, "--sigma", "0.5", "--json").stdout)
    assert [*found] == ["log", "verdict", "contradicted", "fits", "tables"]
    assert found["fits"][0]["n"] == 1000
    assert found["tables"][0]["name"] == "as printed"


def test_the_command_ends_with_status_1_when_the_stated_alpha_is_wrong(tmp_path):
    path = printed_log(tmp_path / "log", 100_000, 0.01)
    result = run(path, "--sigma", "0.5", "--N", "100000", "--alpha", "0.001")
    assert result.exit_code == 1
    assert "is wrong" in result.output
    assert "  stated" in result.output


def test_candidates_replace_the_usual_ones(tmp_path):
    path = printed_log(tmp_path / "log", 1000, 0.001)
    options = ("--N-candidate", "1000", "--N-candidate", "2000", "--alpha-candidate", "0.001")
    found = json.loads(run(path, "--sigma", "0.5", *options, "--json").stdout)
    assert sorted(fit["n"] for fit in found["fits"]) == [1000, 2000]


def test_a_torn_log_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "log"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0:00:01\n1\t1")
    result = run(str(path), "--sigma", "0.5")
    assert result.exit_code == 1
    assert "line 3: is torn" in result.output
