"""The demo, end to end, with a small n."""

import re

import pytest
from click.testing import CliRunner

from adre_train.demo import METHODS, demo
from tcertify.logs.tsv import read_log


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    arguments = ["--N", "1000", "--max", "20", "--epochs", "6", "--out", str(out)]
    return CliRunner().invoke(demo, arguments, catch_exceptions=False), out


def test_the_table_shows_every_method_and_the_gain(result):
    assert result[0].stderr.startswith("tcertify demo: digits")
    text = result[0].stdout
    for name in (*METHODS, "gain"):
        row = re.search(rf"^{name} .*$", text, re.MULTILINE).group()
        assert len(row.split()) == 1 + 7 + 2


def test_the_logs_hold_what_was_certified(result):
    logs = [read_log(result[1] / f"{method}.tsv") for method in METHODS]
    for log in logs:
        assert log.idx.tolist() == list(range(20))
        assert log.correct.mean() > 0.5
    certify, *_, tightest = logs
    assert (tightest.radius >= certify.radius).all()
    assert tightest.radius.sum() > certify.radius.sum()


def test_the_picture_and_the_checkpoint_are_written(result):
    from tcertify.classifiers.by_name import load

    out = result[1]
    assert (out / "certified_accuracy.png").read_bytes().startswith(b"\x89PNG")
    load(str(out / "digits.safetensors"))
