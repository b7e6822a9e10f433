"""The commands on run files: what they write, what they print, how they exit."""

import pytest
from click.testing import CliRunner

from tcertify import data
from tcertify.cli.main import main
from tcertify.logs.tsv import read_log
from tcertify.runs.engine import certify_dataset
from tcertify.runs.file import RunFile
from tests.tiny import Network, images

ARGUMENTS = ("tiny", "tests.tiny:Network", 0.5)
FEW = ("--N0", 20, "--N", 500, "--method", "certify")


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    monkeypatch.setattr(data, "load", lambda name, split, root: images())


@pytest.fixture
def run(tmp_path):
    """Run a command; a name that ends in .tsv, .run, .csv or .parquet is a file in tmp_path."""

    def command(*arguments):
        texts = [str(argument) for argument in arguments]
        ends = (".tsv", ".run", ".csv", ".parquet")
        paths = [str(tmp_path / t) if t.endswith(ends) else t for t in texts]
        return CliRunner().invoke(main, paths)

    return command


def test_certify_writes_the_log_and_the_run_and_prints_the_table(run, tmp_path):
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--radii", "0,0.25")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("largest radius that 500 samples can certify: ")
    assert "certified accuracy at radius 0.25: " in result.output
    log = read_log(tmp_path / "a.tsv")
    with RunFile(tmp_path / "a.tsv.run") as file:
        rows = [*file.rows()]
    assert log.predict.tolist() == [row.predicted for row in rows]
    assert len(rows) == 12


def test_skip_and_max_count_images(run, tmp_path):
    assert run("certify", *ARGUMENTS, "a.tsv", *FEW, "--skip", 3, "--max", 2).exit_code == 0
    assert read_log(tmp_path / "a.tsv").idx.tolist() == [0, 3]
    assert run("certify", *ARGUMENTS, "b.tsv", *FEW, "--skip", 0).exit_code == 2


def test_an_existing_log_is_left_alone_without_overwrite(run, tmp_path):
    (tmp_path / "a.tsv").write_text("mine")
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW)
    assert result.exit_code == 1
    assert "exists; give --overwrite" in result.output
    assert (tmp_path / "a.tsv").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["a.tsv"]
    assert run("certify", *ARGUMENTS, "a.tsv", *FEW, "--overwrite").exit_code == 0
    assert len(read_log(tmp_path / "a.tsv").idx) == 12


def test_an_interrupted_run_says_how_to_resume_and_resumes(run, tmp_path, monkeypatch):
    class Interrupted(Network):
        calls = 0

        def forward(self, batch):
            Interrupted.calls += 1
            if Interrupted.calls == 45:
                raise KeyboardInterrupt
            return super().forward(batch)

    monkeypatch.setattr("tests.tiny.Network", Interrupted)
    arguments = ("certify", *ARGUMENTS, "a.tsv", *FEW, "--batch", 100)
    result = run(*arguments)
    assert result.exit_code == 130
    done = len(read_log(tmp_path / "a.tsv").idx)
    assert 0 < done < 12
    assert f"interrupted: {done} of 12 images" in result.output
    assert "--resume continues" in result.output
    assert run(*arguments, "--resume").exit_code == 0
    assert run("certify", *ARGUMENTS, "b.tsv", *FEW).exit_code == 0
    whole, resumed = read_log(tmp_path / "b.tsv"), read_log(tmp_path / "a.tsv")
    assert resumed.radius.tolist() == whole.radius.tolist()


def test_a_resume_that_differs_ends_with_one_sentence(run):
    run("certify", *ARGUMENTS, "a.tsv", *FEW, "--max", 2)
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--resume", "--seed", 1)
    assert result.exit_code == 1
    assert "`seed` is 0 there and 1 here" in result.output
    assert "Traceback" not in result.output


def test_invalid_images_and_votes_show_in_the_exit_code(run, monkeypatch):
    spoilt = images()
    spoilt.images[3] = float("nan")
    monkeypatch.setattr(data, "load", lambda name, split, root: spoilt)
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW)
    assert result.exit_code == 3
    assert "1 images invalid, 0 invalid votes" in result.output


def test_an_n_that_can_never_certify_is_refused_with_the_smallest_useful_one(run, tmp_path):
    result = run("certify", *ARGUMENTS, "a.tsv", "--N", 9)
    assert result.exit_code == 1
    assert "can never certify anything at alpha = 0.001" in result.output
    assert list(tmp_path.iterdir()) == []


def test_predict_writes_the_log_and_the_run(run, tmp_path):
    result = run("predict", *ARGUMENTS, "a.tsv", "--N", 300)
    assert result.exit_code == 0, result.output
    assert (read_log(tmp_path / "a.tsv").radius == 0).all()
    assert "accuracy" in result.output


def test_a_device_that_does_not_exist_is_named(run):
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--device", "cuda:77")
    assert result.exit_code == 1
    assert "--device cuda:77: " in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--radii", "0,x"), "numbers separated by commas"),
        (("--radii", "0", "--target-radius", "1"), "exclude each other"),
        (("--method", "best"), "'best' is not one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, options, message):
    result = run("certify", *ARGUMENTS, "a.tsv", *options)
    assert result.exit_code == 2
    assert message in result.output


def test_a_target_radius_stops_early(run, tmp_path):
    run("certify", *ARGUMENTS, "a.tsv", "--N", 2000, "--method", "certify", "--target-radius", 0.3)
    with RunFile(tmp_path / "a.tsv.run") as file:
        assert file.parameters["radii"] == [0.3]
        assert min(row.n for row in file.rows()) < 2000


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "done.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n=500, method="certify")
    return path


def test_verify_reports_and_fails_on_findings(run, finished):
    result = run("verify", "done.run")
    assert result.exit_code == 0
    assert "12 images verified, 0 findings, 0 images invalid, 0 still to do" in result.output
    content = bytearray(finished.read_bytes())
    finished.write_bytes(content[:-100])
    result = run("verify", "done.run")
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_verify_replays_with_model_and_data_set(run, finished):
    replay = ("verify", "done.run", "--replay", 2)
    result = run(*replay, "--dataset", "tiny", "--model", "tests.tiny:Network")
    assert result.exit_code == 0
    assert "at most 0 votes moved" in result.output
    assert run(*replay).exit_code == 2


def test_a_file_that_is_no_run_is_named(run, tmp_path):
    (tmp_path / "x.run").write_text("idx\tlabel\n")
    for command in (
        ("verify", "x.run"),
        ("recertify", "x.run"),
        ("export", "x.run", "--out", "x.csv"),
    ):
        result = run(*command)
        assert result.exit_code == 1
        assert "is not a run file: it begins with" in result.output
    result = run("verify", "missing.run")
    assert result.exit_code == 1
    assert "No such file" in result.output


def test_recertify_prints_the_table_of_another_method(run, finished, tmp_path):
    result = run("recertify", "done.run", "--method", "joint", "--alpha", 0.01, "--out", "j.tsv")
    assert result.exit_code == 0
    assert result.output.startswith("joint, alpha = 0.01, sigma = 0.5: 12 images")
    run("export", "done.run", "--out", "c.tsv")
    assert (read_log(tmp_path / "j.tsv").radius >= read_log(tmp_path / "c.tsv").radius).all()


@pytest.mark.parametrize("format", ["tsv", "csv", "parquet"])
def test_export_writes_each_format_and_replaces_nothing_unasked(run, finished, tmp_path, format):
    arguments = ("export", "done.run", "--format", format, "--out", f"e.{format}")
    assert run(*arguments).exit_code == 0
    assert (tmp_path / f"e.{format}").stat().st_size > 100
    assert run(*arguments).exit_code == 1
    assert run(*arguments, "--overwrite").exit_code == 0


def test_a_full_disk_names_the_file_that_could_not_be_written(run, finished):
    result = run("export", "done.run", "--format", "csv", "--out", "/dev/full")
    assert result.exit_code == 1
    assert "Cannot write /dev/full: No space left on device." in result.output
