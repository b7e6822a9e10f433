"""The commands on run files: what they write, what they print, how they exit."""

import json
import re

import pytest
import torch
from click.testing import CliRunner

from tcertify.cli.main import main
from tcertify.logs import read_log
from tcertify.runs import certify_dataset, read_run
from tests import tiny
from tests.tiny import Network, images

ARGUMENTS = ("tests.tiny:images", "tests.tiny:Network", 0.5)
FEW = ("--N0", 20, "--N", 500, "--method", "certify")


@pytest.fixture
def run(tmp_path):
    """Run a command; a name like a.tsv, a.run, a.csv, a.parquet or a.png is a file in tmp_path."""

    def command(*arguments):
        texts = [str(argument) for argument in arguments]
        ends = (".tsv", ".run", ".csv", ".parquet", ".png")
        paths = [str(tmp_path / t) if t.endswith(ends) else t for t in texts]
        return CliRunner().invoke(main, paths)

    return command


def test_certify_writes_the_log_and_the_run_and_prints_the_table(run, tmp_path):
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--radii", "0,0.25")
    assert result.exit_code == 0, result.output
    first, second = result.stderr.splitlines()[:2]
    seed = read_run(tmp_path / "a.tsv.run").settings.seed
    assert first.startswith(f"gaussian noise, sigma = 0.5, seed = {seed} (random), on ")
    assert second.startswith("No radius above ")
    assert second.endswith("with --N 500.")
    heading = "certify, alpha = 0.001, sigma = 0.5, gaussian noise: 12 images\nradius 0 "
    assert result.stdout.startswith(heading)
    log, run_table = read_log(tmp_path / "a.tsv"), read_run(tmp_path / "a.tsv.run")
    assert log.predict.tolist() == run_table.predicted.tolist()
    assert len(run_table) == 12
    assert "stopped early" in result.stdout
    assert "\nACR" not in result.stdout


def test_quiet_prints_the_result_alone(run):
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--quiet")
    assert result.stderr == ""
    assert "ACR" in result.stdout


def test_json_is_one_object_that_names_the_files(run, tmp_path):
    found = json.loads(run("certify", *ARGUMENTS, "a.tsv", *FEW, "--json").stdout)
    assert found["log"] == str(tmp_path / "a.tsv")
    assert found["run"] == str(tmp_path / "a.tsv.run")
    assert found["certified_accuracy"][0]["radius"] == 0
    assert found["images"] == 12


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
    seed = read_run(tmp_path / "a.tsv.run").settings.seed
    assert run("certify", *ARGUMENTS, "b.tsv", *FEW, "--seed", seed).exit_code == 0
    whole, resumed = read_log(tmp_path / "b.tsv"), read_log(tmp_path / "a.tsv")
    assert resumed.radius.tolist() == whole.radius.tolist()


def test_a_resume_that_differs_ends_with_one_sentence(run):
    run("certify", *ARGUMENTS, "a.tsv", *FEW, "--max", 2)
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--resume", "--seed", 1)
    assert result.exit_code == 1
    assert re.search(r"--seed is \d+ there and 1 here", result.output)
    assert "Traceback" not in result.output


def test_invalid_images_and_votes_show_in_the_exit_code(run, monkeypatch):
    spoilt = images()
    spoilt.images[3] = float("nan")
    monkeypatch.setattr(tiny, "images", lambda: spoilt)
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW)
    assert result.exit_code == 3
    assert "1 images failed, 0 votes were invalid" in result.output


def test_predict_writes_the_log_and_the_run(run, tmp_path):
    result = run("predict", *ARGUMENTS, "a.tsv", "--N", 300)
    assert result.exit_code == 0, result.output
    assert (read_log(tmp_path / "a.tsv").radius == 0).all()
    assert "accuracy" in result.output


def test_a_target_radius_stops_early(run, tmp_path):
    run("certify", *ARGUMENTS, "a.tsv", "--N", 2000, "--method", "certify", "--target-radius", 0.3)
    table = read_run(tmp_path / "a.tsv.run")
    assert table.settings.radii == (0.3,)
    assert min(table.n) < 2000


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "done.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n=500, method="certify")
    return path


def test_verify_reports_and_fails_on_findings(run, finished):
    result = run("verify", "done.run")
    assert result.exit_code == 0
    assert "12 images verified, 0 findings, 0 images failed, 0 still to do" in result.output
    content = bytearray(finished.read_bytes())
    finished.write_bytes(content[:-100])
    result = run("verify", "done.run")
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_verify_replays_with_model_and_data_set(run, finished):
    replay = ("verify", "done.run", "--replay", 2)
    result = run(*replay, "--dataset", "tests.tiny:images", "--model", "tests.tiny:Network")
    assert result.exit_code == 0
    assert "at most 0 votes moved" in result.output
    assert run(*replay).exit_code == 2


def test_fresh_votes_are_sampled_with_model_and_data_set(run, finished):
    fresh = ("verify", "done.run", "--fresh", 2)
    result = run(*fresh, "--dataset", "tests.tiny:images", "--model", "tests.tiny:Network")
    assert result.exit_code == 0
    assert re.search(r"sampled images \[\d+, \d+\] again under seed \d+", result.output)
    assert "--fresh needs --dataset and --model" in run(*fresh).output


def test_pixels_of_whole_grey_levels_get_integer_noise_and_a_seed_that_is_told(run, tmp_path):
    arguments = ("certify", "tests.tiny:grey_images", "tests.tiny:Network", 0.5)
    result = run(*arguments, "a.tsv", *FEW, "--seed", "derived")
    table = read_run(tmp_path / "a.tsv.run")
    noise = "integer noise on 255 grey levels"
    assert result.stderr.startswith(
        f"{noise}, sigma = 0.5, seed = {table.settings.seed} (derived), on "
    )
    assert f", {noise}: 12 images" in result.stdout.splitlines()[0]
    assert (table.squared_levels >= 0).tolist() == (table.predicted >= 0).tolist()
    again = run(*arguments, "b.tsv", *FEW, "--seed", "derived", "--json")
    assert json.loads(again.stdout)["seed"] == table.settings.seed
    assert json.loads(again.stdout)["noise"] == "integer"
    gaussian = run(*arguments, "c.tsv", *FEW, "--noise", "gaussian", "--seed", 5)
    assert gaussian.stderr.startswith("gaussian noise, sigma = 0.5, seed = 5, on ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--levels", 0), "--levels must be a whole number from 1 to 32767, got 0"),
        (("--noise", "integer", "--levels", "2.5"), "'2.5' is not a valid integer"),
        (("--noise", "gaussian", "--levels", 16), "--levels are those of integer noise, got 16"),
        (("--noise", "uniform"), "'uniform' is not one of"),
        (("--seed", "lucky"), "it must be a number, random or derived, got 'lucky'"),
        (
            ("--noise", "integer"),
            "Stopped before the run: 3 images in a row failed, image 2 with `x` must be on the grid"
            " k / 255: pixel (0, 0, 0) is ",
        ),
        (
            ("--noise", "integer", "--levels", 1, "--seed", 0),
            "image 2 with `x` must be on the grid k / 1",
        ),
    ],
)
def test_noise_that_cannot_be_drawn_gets_one_sentence(run, options, words):
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, *options)
    assert result.exit_code in (1, 2)
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_sigma_below_the_grey_levels_is_gaussian_unless_integer_noise_was_asked_for(run):
    arguments = ("certify", "tests.tiny:grey_images", "tests.tiny:Network", 0.001)
    assert run(*arguments, "a.tsv", *FEW).stderr.startswith("gaussian noise")
    result = run(*arguments, "b.tsv", *FEW, "--noise", "integer")
    assert "SIGMA must be at least 0.3 grey levels" in result.output


def test_recertify_prints_the_table_of_another_method(run, finished, tmp_path):
    result = run("recertify", "done.run", "--method", "joint", "--alpha", 0.01, "--out", "j.tsv")
    assert result.exit_code == 0
    assert result.stdout.startswith("joint, alpha = 0.01, sigma = 0.5, gaussian noise: 12 images")
    run("export", "done.run", "--out", "c.tsv")
    assert (read_log(tmp_path / "j.tsv").radius >= read_log(tmp_path / "c.tsv").radius).all()


@pytest.mark.parametrize(
    ("options", "claim"),
    [
        (("--reported", 0.1), "images were kept because their certificate at 0.001 reaches"),
        (("--all-at-once", 0.1), "images are robust at radius 0.1, all at once: the probability"),
        (("--all-at-once", 0, "--groups", "a=0,1"), "The class is the answer on "),
        (("--groups", "a or b=0,1"), "label 0 is a or b, 1 is 2."),
        (("--top-k", 2), "among the 2 most probable classes"),
    ],
)
def test_recertify_says_what_its_table_is(run, finished, options, claim):
    result = run("recertify", "done.run", *options)
    assert result.exit_code == 0
    assert claim in result.stdout
    as_json = run("recertify", "done.run", *options, "--json")
    assert claim in json.loads(as_json.stdout)["claim"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--groups", "a=0,7"), "--groups must name classes from 0 to 2, got 7 in a."),
        (("--groups", "a"), "--groups must be like animals=2,3,4, got 'a'."),
        (("--top-k", 3), "--top-k must be below the number of classes, 3, got 3."),
        (("--top-k", 2, "--method", "joint"), "--method must not be given with --top-k"),
        (("--reported", -1), "--reported must be one number"),
        (("--reported", 0.1, "--alpha-curve", "a.png"), "--alpha-curve cannot be drawn for"),
        (("--all-at-once", 0.1, "--alpha-curve", "a.png"), "--alpha-curve cannot be drawn for"),
        (("--all-at-once", -1), "--all-at-once must be at least 0 and finite, got -1.0."),
        (
            ("--all-at-once", 0.1, "--reported", 0.2),
            "--reported must not be given with --all-at-once, got 0.2.",
        ),
        (
            ("--all-at-once", 0.1, "--top-k", 2),
            "--top-k must not be given with --all-at-once",
        ),
    ],
)
def test_questions_that_make_no_sense_are_refused_in_one_sentence(run, finished, options, message):
    result = run("recertify", "done.run", *options)
    assert result.exit_code != 0
    assert message in result.stderr


def test_the_images_that_are_robust_all_at_once_stand_in_a_log(run, finished, tmp_path):
    result = run("recertify", "done.run", "--all-at-once", 0.25, "--out", "h.tsv")
    assert result.stdout.startswith("certify-holm, alpha = 0.001, sigma = 0.5, gaussian noise: 12")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == [
        "radius",
        "abstained",
        "mean",
    ]
    log = read_log(tmp_path / "h.tsv")
    listed = log.predict >= 0
    assert f"{listed.sum()} of the 12 images are robust at radius 0.25" in result.stdout
    assert 0 < listed.sum() < 12
    assert {*log.radius[listed]} == {0.25}
    assert {*log.radius[~listed]} == {0}


def test_recertify_draws_the_curve_over_alpha_and_replaces_nothing_unasked(run, finished, tmp_path):
    arguments = ("recertify", "done.run", "--groups", "a=0,1", "--alpha-curve", "alpha.png")
    assert run(*arguments).exit_code == 0
    assert (tmp_path / "alpha.png").stat().st_size > 1000
    assert "give --overwrite" in run(*arguments).stderr


@pytest.mark.parametrize("format", ["tsv", "csv", "parquet"])
def test_export_writes_each_format_and_replaces_nothing_unasked(run, finished, tmp_path, format):
    arguments = ("export", "done.run", "--format", format, "--out", f"e.{format}")
    assert run(*arguments).exit_code == 0
    assert (tmp_path / f"e.{format}").stat().st_size > 100
    assert run(*arguments).exit_code == 1
    assert run(*arguments, "--overwrite").exit_code == 0


def test_start_stop_skip_and_max_choose_images(run, tmp_path):
    chosen = ("--start", 2, "--stop", 9, "--skip", 3, "--max", 2)
    assert run("certify", *ARGUMENTS, "a.tsv", *FEW, *chosen).exit_code == 0
    assert read_log(tmp_path / "a.tsv").idx.tolist() == [2, 5]
    result = run("certify", *ARGUMENTS, "b.tsv", *FEW, "--start", 12)
    assert result.exit_code == 2
    assert "leave none of 12 images" in result.output


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_first_line_says_where_the_classifier_runs(run, device):
    first = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--device", device).stderr.splitlines()[0]
    there = "cuda:0" if device == "auto" and torch.cuda.is_available() else "cpu"
    assert first.endswith(f", on {there}")


def test_accuracy_without_noise_is_said_where_images_are_standardised(run, tmp_path):
    wrong = ("--normalize", "0.5/0.2", "--model-arg", "sign=-1")
    result = run("certify", "tests.tiny:images", "tests.tiny:signed", 0.5, "a.tsv", *FEW, *wrong)
    assert result.exit_code == 0, result.output
    assert " of the first 12 images are right without noise" in result.stderr.splitlines()[1]
    wrong = (*wrong, "--expect-accuracy", 0.9)
    result = run("certify", "tests.tiny:images", "tests.tiny:signed", 0.5, "b.tsv", *FEW, *wrong)
    assert result.exit_code == 1
    assert "fewer than --expect-accuracy 0.9. The likely cause is the stand" in result.stderr
    assert "--normalize 0.5/0.2 was given" in result.stderr
    assert not (tmp_path / "b.tsv.run").exists()


def test_a_replay_takes_the_same_normalisation(run, tmp_path):
    standardised = ("--normalize", "0.5/0.2")
    assert run("certify", *ARGUMENTS, "a.tsv", *FEW, *standardised).exit_code == 0
    again = ("--replay", 2, "--dataset", ARGUMENTS[0], "--model", ARGUMENTS[1])
    assert run("verify", "a.tsv.run", *again, *standardised).exit_code == 0
    assert "another model" in run("verify", "a.tsv.run", *again).output


def test_arguments_for_what_is_no_function_name_the_option(run, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    model = str(tmp_path / "a.safetensors")
    result = run("certify", ARGUMENTS[0], model, 0.5, "a.tsv", "--model-arg", "depth=20")
    assert "--model-arg are for a function" in result.output
    result = run("certify", *ARGUMENTS, "a.tsv", "--model-arg", "20")
    assert "it must be name=value, got '20'" in result.output


def test_num_classes_is_for_data_that_does_not_say_it(run):
    arguments = ("tests.tiny:pairs", "tests.tiny:Network", 0.5)
    assert "--num-classes must be given" in run("certify", *arguments, "a.tsv", *FEW).output
    result = run("certify", *arguments, "b.tsv", *FEW, "--num-classes", 3)
    assert result.exit_code == 0, result.output


def test_shards_say_what_they_are_and_merge_to_the_run(run, tmp_path):
    options = (*FEW, "--seed", 3)
    whole = run("certify", *ARGUMENTS, "whole.tsv", *options)
    for number in (1, 2):
        result = run("certify", *ARGUMENTS, f"{number}.tsv", *options, "--shard", f"{number}/2")
        assert result.exit_code == 0, result.output
        assert ": shard: 6 of 12 images\nradius 0 " in result.stdout
        assert "(shard: 6 of 12 images) is not the whole run: merge it" in result.stdout
    merged = run("merge", "1.tsv.run", "2.tsv.run", "--out", "merged.run")
    assert merged.exit_code == 0, merged.output
    assert merged.stdout == whole.stdout
    assert merged.stderr == f"merged 2 files; wrote {tmp_path / 'merged.run'}\n"


@pytest.fixture
def shard(run):
    assert run("predict", *ARGUMENTS, "p.tsv", "--shard", "1/2", "--seed", 1).exit_code == 0
    assert run("certify", *ARGUMENTS, "a.tsv", *FEW, "--shard", "1/2", "--seed", 1).exit_code == 0
    return "a.tsv.run"


def test_every_reader_says_that_a_run_is_a_shard(run, shard):
    said = "shard: 6 of 12 images"
    for arguments in (
        ("table", shard),
        ("table", shard, "--method", "joint", "--method", "certify", "--format", "latex"),
        ("compare", shard, shard),
        ("recertify", shard, "--alpha", 0.01),
        ("export", shard, "--out", "b.tsv"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert said in result.output, arguments
    assert said in run("table", shard).stdout
    assert "; it is a shard of a run of 12 images" in run("verify", shard).stdout
    assert json.loads(run("verify", shard, "--json").stdout)["shard_of"] == 12
    assert json.loads(run("recertify", shard, "--json").stdout)["shard_of"] == 12
    assert (
        "shard: 6 of 12 images"
        in run("predict", *ARGUMENTS, "p.tsv", "--resume", "--shard", "1/2").stdout
    )


@pytest.mark.parametrize("shard", ["3/2", "0/2", "x/y", "1", "1/", "/2", "-1/2", "1/2/3", "²/3"])
def test_what_is_no_shard_is_wrong_usage(run, tmp_path, shard):
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--shard", shard)
    assert result.exit_code == 2
    assert f"it must be I/N with I from 1 to N, got '{shard}'." in result.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_shard_of_too_few_images_or_of_a_random_seed_is_refused(run, tmp_path):
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--seed", 1, "--shard", "1/13")
    assert "Error: --shard must have at most as many parts as images" in result.stderr
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--shard", "1/3")
    assert "Error: --seed must not be random for a --shard, since" in result.stderr
    assert result.exit_code == 1
    assert [*tmp_path.iterdir()] == []


def test_merging_nothing_or_one_file_is_refused(run, shard, tmp_path):
    assert run("merge", "--out", "b.run").exit_code == 2
    assert run("merge", shard).exit_code == 2
    result = run("merge", shard, "--out", "b.run")
    assert result.exit_code == 1
    assert result.stderr == "Error: RUN... must be at least two run files to merge, got 1.\n"
    result = run("merge", shard, shard, "--out", "b.run")
    assert result.exit_code == 1
    assert "`tcertify certify ... --seed 1 --shard 2/2` makes 6 (images 1, 3" in result.stderr
    assert not (tmp_path / "b.run").exists()


def test_merging_ends_with_a_status_of_its_own_where_images_failed(run, tmp_path):
    data = [images()[i] for i in range(4)]
    data[1] = torch.full((1, 2, 2), torch.nan), 0
    for number in (1, 2):
        out = tmp_path / f"{number}.run"
        certify_dataset(
            Network(), data, sigma=0.5, out=out, n=500, num_classes=3, shard=(number, 2)
        )
    result = run("merge", "1.run", "2.run", "--out", "merged.run")
    assert result.exit_code == 3
    assert "1 images failed" in result.stderr
    assert (tmp_path / "merged.run").exists()


def test_charged_noise_is_told_recorded_and_verified(run, tmp_path):
    result = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--charge-noise", "--seed", 3)
    line = "Gaussian noise as drawn has n tau = 1.3e-05, which alpha was charged for"
    assert line in result.stdout.splitlines()[1]
    assert read_run(tmp_path / "a.tsv.run").settings.charge_noise
    assert line in run("verify", "a.tsv.run").stdout
    assert line in run("recertify", "a.tsv.run").stdout
    assert json.loads(run("verify", "a.tsv.run", "--json").stdout)["charge_noise"]
    refused = run("recertify", "a.tsv.run", "--alpha-curve", "a.png")
    assert "--alpha-curve cannot be drawn for a run with --charge-noise." in refused.stderr


def test_noise_that_was_not_charged_is_told_when_it_is_verified(run):
    certified = run("certify", *ARGUMENTS, "a.tsv", *FEW, "--seed", 3, "--json")
    assert 0 < json.loads(certified.stdout)["n_tau"] < 1e-4
    said = run("verify", "a.tsv.run").stdout
    assert "n tau = 1.3e-05: a certificate may be wrong with probability alpha exp(n tau)" in said
    refused = run("certify", *ARGUMENTS, "b.tsv", *FEW, "--noise", "integer", "--charge-noise")
    assert "--charge-noise is for Gaussian noise" in refused.stderr


def test_verify_says_beforehand_that_bounds_of_many_votes_take_long(run, monkeypatch):
    run("certify", *ARGUMENTS, "a.tsv", *FEW[:4])
    assert "minutes" not in run("verify", "a.tsv.run").stderr
    monkeypatch.setattr("tcertify.cli.runs._LONG", 0)
    assert "12 joint bounds of 500 votes may take up to 0 min" in run("verify", "a.tsv.run").stderr
