"""tune, and certify --execution fastest: the table, and what is taken from it."""

import json

import pytest
import torch
from click.testing import CliRunner

from tcertify.cli.main import main
from tcertify.runs import read_run, verify_run
from tcertify.sampling import tuning
from tests.tiny import Network, images

ARGUMENTS = ("tests.tiny:images", "tests.tiny:Network", "0.5")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(tuning, "_LADDER_SECONDS", 0.02)
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)


def test_tune_prints_every_execution_and_the_fastest():
    result = CliRunner().invoke(main, ["tune", *ARGUMENTS])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rows", "samples/s", "votes", "that", "differ"]
    assert lines[1].startswith("float32 ")
    assert "not possible: `fold` found no BatchNorm in Network" in result.stdout
    assert lines[-1].startswith("fastest: ")
    found = json.loads(CliRunner().invoke(main, ["tune", *ARGUMENTS, "--json"]).stdout)
    assert [*found] == ["trials", "fastest"]
    assert found["fastest"] in found["trials"]
    assert found["trials"][0]["execution"]["dtype"] == "float32"


def test_certify_takes_the_fastest_and_says_so(tmp_path):
    out = tmp_path / "a.tsv"
    options = [str(out), "--N0", "20", "--N", "500", "--method", "certify"]
    result = CliRunner().invoke(main, ["certify", *ARGUMENTS, *options, "--execution", "fastest"])
    assert result.exit_code == 0, result.output
    assert "samples/s  votes that differ" in result.stderr
    assert "taken: " in result.stderr
    assert len(read_run(f"{out}.run")) == 12
    replay = verify_run(f"{out}.run", replay=12, model=Network(), dataset=images())
    assert (replay.findings, replay.moved) == ((), 0)
