"""plot, table and compare on run files and logs."""

import json

import pytest
from click.testing import CliRunner

from tcertify.cli.main import main
from tcertify.runs import certify_dataset, export_run
from tests.tiny import Network, images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for name, n in (("few", 100), ("many", 1000)):
        table = certify_dataset(Network(), images(), sigma=0.5, out=folder / f"{name}.run", n=n)
        export_run(table, folder / f"{name}.tsv")
    certify_dataset(
        Network(), images(6), sigma=0.5, out=folder / "early.run", n=1000, radii=[0, 0.25]
    )
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def command(*arguments):
        result = CliRunner().invoke(main, [*arguments])
        assert result.exit_code == 0, result.output
        return result

    return command


@pytest.mark.parametrize("name", ["p.png", "p.pdf", "p.svg"])
def test_plot_draws_runs_and_logs_together(run, folder, name):
    run("plot", "few.tsv", "many.run", "-o", name, "--overwrite")
    assert (folder / name).stat().st_size > 1000


def test_plot_draws_the_gain_of_methods_on_the_same_votes(run, folder):
    run("plot", "many.run", "--method", "certify", "--method", "joint", "--gain", "-o", "g.svg")
    assert (folder / "g.svg").stat().st_size > 1000


def test_table_prints_one_column_for_each_result(run):
    lines = run("table", "few.tsv", "many.run", "--radii", "0,0.25").stdout.splitlines()
    assert lines[0].split() == ["few", "many"]
    assert [line.split()[0] for line in lines[1:]] == ["radius"] * 2 + ["ACR", "abstained", "mean"]


def test_table_prints_each_layout_and_json(run):
    assert run("table", "many.run", "--format", "markdown").stdout.startswith("| run | r = 0 |")
    assert run("table", "many.run", "--format", "latex").stdout.startswith("\\begin{tabular}")
    assert run("table", "many.run", "--format", "csv").stdout.startswith("run,quantity,radius,")
    (record,) = json.loads(run("table", "many.run", "--json").stdout)["results"]
    assert (record["name"], record["images"], record["method"]) == ("many", 12, "joint")


def test_what_an_early_stopped_run_does_not_say_is_not_printed(run):
    result = run("table", "early.run")
    assert "ACR" not in result.stdout
    assert "stopped early" in result.stderr


def test_compare_counts_images_gained_and_lost(run):
    result = run("compare", "few.run", "many.tsv", "--radii", "0,0.5")
    assert result.stdout.startswith("few -> many, 12 images\nradius ")
    found = json.loads(run("compare", "few.run", "many.tsv", "--radii", "0,0.5", "--json").stdout)
    assert [entry["radius"] for entry in found["radii"]] == [0, 0.5]
    entry = found["radii"][1]
    gain = (len(entry["gained"]) - len(entry["lost"])) / 12
    assert entry["gain"] == pytest.approx(gain)
    assert entry["lower"] <= gain <= entry["upper"]


def test_compare_takes_the_images_and_the_radii_that_both_have(run):
    result = run("compare", "many.run", "early.run", "--radii", "0,0.1,0.25")
    assert "Compared are the 6 images that both hold; 6 are only in many" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[2:4]] == ["0", "0.25"]


def test_report_writes_a_page_with_pictures_and_keeps_one_that_exists(run, folder, tmp_path):
    page = tmp_path / "page.html"
    command = ["report", "few.run", "-o", str(page), "--dataset", "tests.tiny:images"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "data:image/webp" in page.read_text()
    assert "exists; give --overwrite" in CliRunner().invoke(main, command).output
    assert run(*command, "--overwrite").exit_code == 0
