"""Every command with every kind of mistake: words that help, and never a traceback."""

import os
import re

import pytest
from click.testing import CliRunner

from tcertify.cli.main import main
from tcertify.runs import certify_dataset, export_run
from tests.tiny import Network, images

DATA, MODEL = "tests.tiny:images", "tests.tiny:Network"
FEW = ["--N0", "20", "--N", "200", "--method", "certify"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run, its log, and files that are neither."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "broken.py").write_text("def net(:\n    pass\n")
    (folder / "empty").write_text("")
    (folder / "text.tsv").write_text("idx\tlabel\n")
    (folder / "folder.run").mkdir()
    table = certify_dataset(
        Network(), images(), sigma=0.5, out=folder / "a.run", n0=20, n=200, method="certify"
    )
    export_run(table, folder / "a.tsv")
    certify_dataset(
        Network(),
        images(),
        sigma=0.5,
        out=folder / "half.run",
        n0=20,
        n=200,
        method="certify",
        reserve=0.5,
    )
    for number in (1, 2):
        certify_dataset(
            Network(),
            images(),
            sigma=number / 4,
            out=folder / f"shard-{number}.run",
            n0=20,
            n=200,
            method="certify",
            shard=(number, 2),
        )
    (folder / "torn.run").write_bytes((folder / "a.run").read_bytes()[:9000])
    return folder


def certify(*options, data=DATA, model=MODEL, sigma="0.5", out="out.tsv", few=FEW):
    return ["certify", data, model, sigma, out, *few, *options]


def faulty(name):
    return certify(model=f"tests.cli.faulty:{name}")


#: Arguments of the Python functions, which the command line spells otherwise.
PYTHON = re.compile(
    "`(n|n0|alpha|sigma|seed|indices|root|split|batch_size|radii|allow|methods?|dtype|replay|"
    "resume|overwrite|step|radius|p_a|p_b|path|layout)`"
)

MISTAKES = [
    # numbers
    (certify("--N", "9", few=[]), "can never certify anything at alpha = 0.001"),
    (certify("--N", "-1"), "--N must be at least 1, got -1"),
    (certify("--N0", "0"), "--N0 must be at least 1, got 0"),
    (certify("--N", "many"), "'many' is not a valid integer"),
    (certify("--alpha", "2"), "--alpha must be in (0, 1), got 2.0"),
    (certify("--seed", "-1"), "--seed must be at least 0, got -1"),
    (certify("--batch", "0"), "--batch must be at least 1, got 0"),
    (certify("--fold"), "--fold found no BatchNorm in Network that follows a convolution"),
    (certify("--execution", "fastest", "--dtype", "bfloat16"), "give none of them"),
    (certify("--execution", "fast"), "'fast' is not 'fastest'"),
    (["tune", DATA, MODEL, "nan"], "SIGMA must be positive"),
    (["tune", DATA, MODEL, "0.5", "--batch", "0"], "--batch must be at least 1, got 0"),
    (
        ["tune", DATA, MODEL, "0.5", "--num-classes", "5"],
        "must return float logits of shape (256, 5)",
    ),
    (certify("--skip", "0"), "0 is not in the range"),
    (certify("--max", "0"), "0 is not in the range"),
    (certify(sigma="-0.5"), "SIGMA must be positive"),
    (certify(sigma="-1e-3"), "SIGMA must be positive"),
    (certify(sigma="nan"), "SIGMA must be positive"),
    (certify(sigma="much"), "'much' is not a valid float"),
    (certify("--radii", "0,x"), "numbers separated by commas"),
    (certify("--radii", "-1"), "--radii must be"),
    (certify("--radii", "0", "--target-radius", "1"), "exclude each other"),
    (certify("--budget", "2 days"), "a whole number of samples, such as 5e6, or a time"),
    (certify("--budget", "100"), "--budget must be at least 2400, a first look of 200 samples"),
    (certify("--budget", "0.001s"), "is too short: at"),
    (certify("--budget", "5e6", "--radius-loss", "0.1"), "--budget excludes --radius-loss"),
    (certify("--budget", "5e6", "--shard", "1/2"), "so that it excludes --shard"),
    (certify("--reserve", "half"), "'half' is not a valid float"),
    (certify("--reserve", "1"), "--reserve must be in (0, 1), got 1.0"),
    (certify("--reserve", "0.5", "--charge-noise"), "--reserve must not be given with --charge-"),
    (certify("--reserve", "0.5", "--radius-loss", "0.1"), "not be given with --radius-loss"),
    (certify("--reserve", "0.5", "--budget", "5e6"), "--budget must not be given with --reserve"),
    (certify("--top-up", "a.run"), "Cannot top up `a.run`: it was made without a reserve"),
    (certify("--top-up", "half.run", "--N", "600"), "--N must be 200 times a power of two"),
    (certify("--top-up", "half.run", "--N", "400", "--seed", "1"), "--seed is 0 there and 1 here"),
    (certify("--top-up", "half.run", "--N", "400", "--alpha", "0.1"), "--alpha is 0.001 there and"),
    (certify("--top-up", "half.run", "--reserve", "0.5"), "--top-up must not be given with --rese"),
    (certify("--top-up", "half.run", "--overwrite", out="half"), "--top-up must be another run"),
    (certify("--top-up", "missing.run"), "missing.run"),
    (certify("--top-up", "text.tsv"), "`text.tsv` is not a run file"),
    (["recertify", "half.run", "--alpha-curve", "a.png"], "drawn for a run with --reserve"),
    (certify("--method", "best"), "'best' is not one of"),
    (certify("--dtype", "int8"), "'int8' is not one of"),
    (certify("--allow", "everything"), "--allow must hold codes of"),
    (certify("--frobnicate"), "No such option"),
    # devices
    (certify("--device", "cuda:77"), "--device: cuda:77 cannot compute"),
    (certify("--device", "meta"), "--device: meta cannot compute"),
    (certify("--device", "toaster"), "--device: toaster cannot compute"),
    # data
    (certify(data="cifar11"), "DATASET must be one of digits, "),
    (certify(data="cifar10"), "--data must name the folder that holds cifar10"),
    (certify("--data", "/nowhere", data="cifar10"), "--data: /nowhere is no folder"),
    (certify("--data", "a.tsv", data="cifar10"), "--data"),
    (certify("--data", ".", data="cifar10"), "--data .: CIFAR-10 is not in ."),
    (certify("--data", ".", data="imagenet"), "--data ."),
    (certify("--split", "validation", data="digits"), "--split must be"),
    (certify("--resize", "4"), "--resize and --crop are for a folder of images"),
    (certify(data="missing.npz"), "missing.npz"),
    (certify(data="empty.npz"), "empty.npz"),
    (certify(data="tests.tiny:nothing"), "has no nothing"),
    (certify(data="nowhere:images"), "No module named 'nowhere'"),
    (certify(data="tests.cli.faulty:no_data"), "holds no image"),
    (certify(data="tests.cli.faulty:bytes_for_images"), "[0, 1]"),
    (certify(data="tests.cli.faulty:wants_arguments"), "depth"),
    # models
    (certify(model="nothing"), "MODEL"),
    (certify(model="nowhere:net"), "No module named 'nowhere'"),
    (certify(model="tests.tiny:nothing"), "has no nothing"),
    (certify(model="missing.safetensors"), "does not exist"),
    (certify(model="empty.safetensors"), "empty.safetensors"),
    (certify(model="broken:net"), "broken.py, line 1, is not Python"),
    (faulty("no_weights"), "'missing.pth'"),
    (faulty("wants_arguments"), "depth"),
    (faulty("returns_nothing"), "NoneType"),
    (faulty("ends_the_program"), "SystemExit: usage: train.py"),
    (faulty("not_text"), "weights-"),
    (faulty("key_error"), "KeyError: 'logits'"),
    (faulty("assertion"), "AssertionError"),
    (faulty("memory"), "Memory"),
    (faulty("wants_three_channels"), "channels"),
    (faulty("wants_larger_images"), "shapes cannot be multiplied"),
    (faulty("wrong_width"), ", 3), got ("),
    (faulty("rolls_dice"), "--allow random"),
    # files
    (certify(out="a.tsv"), "exists; give --overwrite"),
    (certify(out="nowhere/out.tsv"), "nowhere/out.tsv"),
    (certify(out="x" * 300), "File name too long"),
    (certify(out="/proc/out.tsv"), "/proc/out.tsv"),
    (certify("--overwrite", out="folder"), "folder"),
    (["predict", DATA, MODEL, "0.5", "p.tsv", "--N", "0"], "--N must be at least 1, got 0"),
    (["predict", DATA, MODEL, "-1", "p.tsv"], "SIGMA must be positive"),
    *(
        ([*command, path, *more], words)
        for path, words in (
            ("missing.run", "missing.run"),
            ("empty", "empty"),
            ("text.tsv", "text.tsv"),
            ("folder.run", "folder.run"),
        )
        for command, *more in (
            (["verify"],),
            (["recertify"],),
            (["export", "--out", "e.csv"],),
            (["table"],),
            (["plot", "-o", "p.png"],),
            (["compare", "a.run"],),
        )
    ),
    (["verify", "torn.run"], "torn.run"),
    (["verify", "a.run", "--replay", "2"], "--replay needs --dataset and --model"),
    (["verify", "a.run", "--replay", "-2", "--dataset", DATA, "--model", MODEL], "--replay must"),
    (
        ["verify", "a.run", "--replay", "2", "--dataset", "digits", "--model", MODEL],
        "other data",
    ),
    (["recertify", "a.run", "--alpha", "0"], "--alpha must be in (0, 1), got 0.0"),
    (["recertify", "a.run", "--all-at-once", "far"], "'far' is not a valid float"),
    (["recertify", "a.run", "--all-at-once", "-1"], "--all-at-once must be at least 0 and finite"),
    (["recertify", "a.run", "--out", "a.tsv"], "exists; give --overwrite"),
    (["recertify", "a.run", "--out", "nowhere/a.tsv"], "nowhere/a.tsv"),
    (certify("--shard", "3/2"), "it must be I/N with I from 1 to N, got '3/2'"),
    (certify("--shard", "x/y"), "it must be I/N with I from 1 to N, got 'x/y'"),
    (
        certify("--shard", "1/13", "--seed", "0"),
        "--shard must have at most as many parts as images",
    ),
    (certify("--shard", "1/2"), "--seed must not be random for a --shard"),
    (["merge", "--out", "m.run"], "Missing argument 'RUN...'"),
    (["merge", "a.run", "a.run"], "Missing option '--out'"),
    (["merge", "a.run", "--out", "m.run"], "RUN... must be at least two run files to merge, got 1"),
    (["merge", "a.run", "missing.run", "--out", "m.run"], "missing.run"),
    (["merge", "a.run", "a.tsv", "--out", "m.run"], "`a.tsv` is not a run file"),
    (["merge", "a.run", "torn.run", "--out", "m.run"], "torn.run"),
    (["merge", "a.run", "a.run", "--out", "a.tsv"], "`a.tsv` exists"),
    (["merge", "a.run", "a.run", "--out", "no/m.run"], "Cannot create `no/m.run`: No such file"),
    (["merge", "shard-1.run", "shard-2.run", "--out", "m.run"], "sigma is 0.25 in `shard-1.run`"),
    (["merge", "shard-1.run", "shard-1.run", "--out", "m.run"], "--shard 2/2` makes 6 (images 1,"),
    (["export", "a.run", "--out", "/dev/full", "--format", "csv"], "/dev/full"),
    (["export", "a.run"], "Missing option '--out'"),
    (["table"], "Missing argument"),
    (["table", "a.run", "--radii", "-1"], "--radii must be"),
    (["table", "a.tsv", "--method", "certify"], "keeps no votes"),
    (["plot", "a.run", "-o", "p.jpeg"], ".png, .pdf, .svg"),
    (["plot", "a.run", "-o", "nowhere/p.png"], "nowhere/p.png"),
    (["plot", "a.run", "-o", "a.tsv"], "exists; give --overwrite"),
    (["plot", "a.run", "-o", "p.png", "--gain"], "at least 2"),
    (["compare", "a.run"], "Missing argument 'B'"),
    (["report", "a.run"], "Missing option '-o'"),
    (["report", "a.tsv", "-o", "page.html"], "a.tsv"),
    (["report", "a.run", "-o", "no/page.html"], "no/page.html: No such file"),
    (["report", "a.run", "-o", "page.html", "--dataset", "digits"], "it is not the run's"),
    (["report", "a.run", "-o", "page.html", "--dataset", "cifar10"], "--data must name the folder"),
    (certify("--expect-accuracy", "2"), "2.0 is not in the range 0<=x<=1"),
    (certify("--normalize", "cifar11"), "--normalize must be one of cifar10, imagenet, none"),
    (certify("--start", "12"), "leave none of 12 images"),
    (["audit", "a.tsv"], "Missing option '--sigma'"),
    (["audit", "a.tsv", "--sigma", "0"], "--sigma must be positive and finite, got 0.0"),
    (["audit", "a.tsv", "--sigma", "0.5", "--step", "1e-12"], "--step must leave at most 1000"),
    (["audit", "a.tsv", "--sigma", "0.5", "--step", "0"], "--step must be positive"),
    (["audit", "text.tsv", "--sigma", "0.5"], "line 1: the header lacks predict"),
    (["audit", "/proc/self/mem", "--sigma", "0.5"], "/proc/self/mem"),
    (["audit", "missing.tsv", "--sigma", "0.5"], "does not exist"),
    (["bound", "-5", "10"], "K must be at least 0, got -5"),
    (["bound", "11", "10"], "11"),
    (["bound", "5", "10", "--alpha", "1.5"], "--alpha must be in (0, 1), got 1.5"),
    (["plan", "--radius", "-1", "--sigma", "0.5", "--p-a", "0.9"], "--radius must be"),
    (["plan", "--radius", "1", "--sigma", "0.5", "--p-a", "9"], "--p-a must be in [0, 1]"),
    (
        ["plan", "--radius", "1", "--sigma", "0.5", "--p-a", "0.9", "--p-b", "0.9"],
        "--p-a + --p-b must be at most 1",
    ),
    (["plan", "--radius", "1", "--sigma", "0.5"], "Missing option '--p-a'"),
    (["demo", "--out", "/proc/x"], "/proc/x"),
    (["demo", "--N", "9"], "can never certify anything"),
    (["demo", "--max", "0"], "0 is not in the range"),
    (["doctor", "what"], "unexpected extra argument"),
    (["certfy"], "No such command 'certfy'"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), MISTAKES, ids=[" ".join(a)[:80] for a, _ in MISTAKES]
)
def test_a_mistake_ends_with_words_that_help(folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (1, 2)
    assert words in result.output
    assert "Traceback" not in result.output
    assert not PYTHON.search(result.output)
    for path, written in before.items():
        assert os.stat(path).st_mtime_ns == written
    for path in {*folder.iterdir()}.difference(before):
        path.unlink()


def test_every_command_stands_in_the_table():
    assert {arguments[0] for arguments, _ in MISTAKES} >= {*main.commands}


def test_an_n_that_can_never_certify_prints_nothing_else(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, certify("--N", "9", few=[]))
    assert result.output == (
        "Error: n = 9 samples can never certify anything at alpha = 0.001, even if all votes agree:"
        " the smallest useful n is 10.\n"
    )


def test_traceback_shows_all_of_an_error(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, ["--traceback", "bound", "-5", "10"])
    assert isinstance(result.exception, ValueError)
