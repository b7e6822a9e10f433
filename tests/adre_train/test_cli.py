import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from adre_train.cli import main
from adre_train.recipe import names
from tcertify import classifiers
from tcertify.cli.main import main as tcertify
from tcertify.data.fashion_mnist import DEBIAN

TINY = ["--set", "epochs=2", "--set", "k=1", "--set", "batch=512"]


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_recipe_trains_and_prints_where_the_weights_are(tmp_path):
    done = invoke("digits", *TINY, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert done.output == f"{tmp_path / 'epoch-00002.safetensors'}\n"
    assert (tmp_path / "epoch-00002.safetensors").is_file()
    assert (tmp_path / "metrics.csv").read_text().startswith("epoch,lr,loss,")


def test_without_a_folder_the_run_goes_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("digits", *TINY).output == "runs/digits/epoch-00002.safetensors\n"


def test_a_second_run_in_the_same_folder_is_refused_and_resume_allowed(tmp_path):
    invoke("digits", *TINY, "--out", tmp_path)
    again = invoke("digits", *TINY, "--out", tmp_path)
    assert again.exit_code == 1
    assert "resume it" in again.output
    assert invoke("digits", *TINY, "--out", tmp_path, "--resume").exit_code == 0
    changed = invoke("digits", *TINY, "--set", "lam=0.5", "--out", tmp_path, "--resume")
    assert changed.exit_code == 1
    assert "made with lam = 0.1, now 0.5" in changed.output


def test_a_dry_run_prints_settings_and_cost_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("digits", "--set", "lam=0.3", "--set", "bf16=true", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "lam = 0.3\n" in done.output
    assert "43,050 parameters, 690 steps, " in done.output
    assert re.search(
        r"about \S+ hours on this machine's \w+: \S+ to \S+ by 3 timings of \d+ images at once in"
        r" bf16, data loading",
        done.output,
    )
    assert not list(tmp_path.iterdir())


MINE = """
import torch
from tcertify.data import TensorDataset

def data(split):
    assert split == "train"
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 6, 6, generator=generator)
    return TensorDataset("mine/train", 3, images, torch.arange(40) % 3)

def network(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, num_classes))
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_training", raising=False)
    (tmp_path / "my_training.py").write_text(MINE)
    return ["--set", "dataset=my_training:data", "--set", "architecture=my_training:network"]


def test_data_and_network_of_the_user_train_and_the_checkpoint_loads_by_its_record(mine):
    done = invoke("digits", *TINY, *mine, "--out", "out")
    assert done.exit_code == 0, done.output
    record = json.loads(Path("out/epoch-00002.json").read_text())["record"]
    assert record["recipe"]["dataset"] == "my_training:data"
    assert record["data"]["name"] == "mine/train"
    model = classifiers.load("out/epoch-00002.safetensors")
    assert model(torch.zeros(2, 1, 6, 6)).shape == (2, 3)
    dry = invoke("digits", *mine, "--dry-run")
    assert "111 parameters, 30 steps, " in dry.output


def test_a_run_stops_at_a_step_goes_on_and_begins_another(tmp_path):
    stopped = invoke("digits", *TINY, "--out", tmp_path / "a", "--max-steps", 4)
    assert stopped.output == f"{tmp_path / 'a' / 'epoch-00001-step-0000001.safetensors'}\n"
    gone_on = invoke("digits", *TINY, "--out", tmp_path / "a", "--resume")
    assert gone_on.output == f"{tmp_path / 'a' / 'epoch-00002.safetensors'}\n"
    begun = invoke("digits", *TINY, "--out", tmp_path / "b", "--init", gone_on.output.strip())
    assert begun.exit_code == 0, begun.output


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_trained_on_and_certified_without_python(tmp_path):
    done = invoke("fashion-mnist", "--out", tmp_path / "out", "--max-steps", 2, "--tensorboard")
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "out" / "tensorboard").iterdir())
    arguments = ["fashion-mnist", done.output.strip(), "0.5", str(tmp_path / "out.tsv")]
    certified = CliRunner().invoke(tcertify, ["certify", *arguments, "--N", "100", "--max", "3"])
    assert certified.exit_code == 0, certified.output
    assert len((tmp_path / "out.tsv").read_text().splitlines()) == 4


@pytest.mark.parametrize("recipe", ["cifar10", "imagenet"])
def test_data_on_disk_must_be_named_and_there(tmp_path, recipe):
    missing = invoke(recipe, "--out", tmp_path / "out")
    assert missing.exit_code == 1
    assert f"must name the folder that holds {recipe}" in missing.output
    empty = invoke(recipe, "--out", tmp_path / "out", "--data", tmp_path)
    assert empty.exit_code == 1
    assert "https://" in empty.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["svhn"], "svhn is neither a file nor one of the recipes"),
        (["digits", "--set", "lam=-1"], "`lam` must be at least 0 and finite, got -1.0."),
        (["digits", "--set", "k=0"], "`k` must be at least 1, got 0."),
        (["digits", "--set", "architecture=vgg", *TINY], "`architecture` must be one of "),
        (["digits", "--set", "dataset=svhn"], "DATASET must be one of digits, fashion-mnist, "),
        (["digits", "--set", "dataset=nowhere:data"], "nowhere"),
        (["digits", "--set", "architecture=json:nothing"], "nothing"),
        (["digits", "--set", "architecture=json:dumps"], "must return a torch module, got str"),
        (["digits", "--set", "architecture=cifar-resnet20"], "does not fit digits/train, of shape"),
        (
            ["cifar10", "--set", "architecture=digits", "--dry-run"],
            "does not fit cifar10, of shape",
        ),
        (["digits", "--set", "risk=radius", "--set", "eps=0.5", "--set", "steps=1"], "`steps` att"),
        (["digits", "--resume"], "holds no checkpoint to resume."),
        (["digits", "--init", "absent.pt"], "absent.pt"),
        (
            ["digits", "--data", "/dev/null", "--set", "dataset=fashion-mnist"],
            "is not in /dev/null",
        ),
        (["/"], "Is a directory"),
        (["/dev/null"], "/dev/null must name a `dataset` and an `architecture`."),
        (["digits", "--set", "lam"], "`--set` must be key=value, got 'lam'."),
        (
            ["digits", "--set", "augment=resized-crop-flip"],
            "is for image folders, not digits/train",
        ),
    ],
)
def test_a_bad_argument_ends_with_one_sentence(tmp_path, arguments, message):
    done = invoke(*arguments, "--out", tmp_path)
    assert done.exit_code == 1, done.output
    assert message in done.output
    assert isinstance(done.exception, SystemExit)


FAILING = """
import numpy as np
import torch
from tcertify.data import TensorDataset

def wants(root, split):
    return None

def raises(split):
    rows = []
    return rows[3]

def bytes_as_floats(split):
    return np.full((20, 1, 6, 6), 255.0, np.float32), np.arange(20) % 3

def unchecked(split):
    return TensorDataset("mine", 3, torch.full((20, 1, 6, 6), 255.0), torch.arange(20) % 3)

def mislabelled(split):
    return TensorDataset("mine", 3, torch.rand(20, 1, 6, 6), torch.arange(20) % 4)

class Broken(TensorDataset):
    def __getitem__(self, index):
        return self.images[index] / 0 if index else self.nothing

def broken(split):
    return Broken("mine", 3, torch.rand(20, 1, 6, 6), torch.arange(20) % 3)

def colours(num_classes):
    return torch.nn.Sequential(torch.nn.Conv2d(3, 3, 6), torch.nn.Flatten())

class Failing(torch.nn.Linear):
    def forward(self, images):
        return super().forward(images.flatten(1))[:, : 3 // (len(images) == 1)]

def failing(num_classes):
    return Failing(36, num_classes)

def huge(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), Scaled(36, num_classes))

class Scaled(torch.nn.Linear):
    def forward(self, images):
        return super().forward(images) * torch.inf
"""


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ("dataset=failing:absent", [], "DATASET failing:absent: failing has no absent; it has "),
        ("dataset=failing:wants", [], "DATASET failing:wants cannot be called as it is: missing"),
        (
            "dataset=failing:raises",
            [],
            "failed in failing.py, line 11, in raises:\n    return rows",
        ),
        ("dataset=failing:bytes_as_floats", [], "like bytes: divide them by 255."),
        ("dataset=failing:unchecked", [], "of mine must have pixels in [0, 1], got 255: standard"),
        ("dataset=failing:mislabelled", [], "of mine must have a label in [0, 3), got 3."),
        ("dataset=failing:broken", [], "failing.py, line 24, in __getitem__:\n    return self.im"),
        ("dataset=failing:broken", ["--workers", "1"], "failing.py, line 24, in __getitem__:\n"),
        ("architecture=failing:colours", [], "does not fit mine/train, of shape (1, 6, 6)"),
        ("architecture=failing:colours", ["--dry-run"], "does not fit my_training:data, of shape"),
        (
            "architecture=failing:failing",
            [],
            "failing.py, line 34, in forward:\n    return super()",
        ),
        ("architecture=failing:huge", [], "The loss is nan in epoch 1, step 1."),
    ],
)
def test_a_failure_of_the_user_s_data_or_network_ends_with_his_line_and_a_sentence(
    mine, monkeypatch, settings, options, message
):
    monkeypatch.delitem(sys.modules, "failing", raising=False)
    Path("failing.py").write_text(FAILING)
    done = invoke("digits", *TINY, *mine, "--set", settings, *options, "--out", "out")
    assert done.exit_code == 1, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)
    if "Your code failed" in done.output:
        assert "`adre-train --traceback ...` shows all of it." in done.output
        whole = invoke("digits", *TINY, *mine, "--set", settings, "--traceback", "--out", "other")
        assert not isinstance(whole.exception, SystemExit)


@pytest.mark.parametrize("out", ["file", "file/below", "/dev/null", "/proc/nowhere", "a" * 300])
def test_a_folder_that_cannot_be_made_ends_with_one_sentence(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    done = invoke("digits", *TINY, "--out", out)
    assert done.exit_code == 1, done.output
    assert out in done.output
    assert isinstance(done.exception, SystemExit)
    assert (tmp_path / "file").read_text() == "mine"


def test_running_out_of_memory_is_said_with_what_helps(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("adre_train.train.train", full)
    done = invoke("digits", *TINY, "--out", tmp_path)
    assert done.exit_code == 1
    assert "Memory ran out: `accumulate` cuts a batch into parts." in done.output


def test_under_torchrun_the_process_joins_its_group_and_leaves_it(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 1}
    for name, value in {**group, "RANK": 0, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    done = invoke("digits", *TINY, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "epoch-00002.safetensors").is_file()
    assert not torch.distributed.is_initialized()


LEAVING = """
import gc, os, sys
from adre_train.cli import main

def threads():
    tasks = os.listdir("/proc/self/task")
    return [open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks]

try:
    main(sys.argv[1:], standalone_mode=False)
except Exception as error:
    kept = error  # as Python keeps one that nobody catches
    print(f"{type(error).__name__}: {error}")
gc.collect()
print([name for name in threads() if "gloo" in name or "tcpstore" in name])
"""


@pytest.mark.parametrize(
    ("setting", "message"),
    [("lam=0.1", "epoch-00002.safetensors"), ("lr=1e30", "ClickException: The loss is nan")],
)
def test_no_thread_of_the_process_group_outlives_training(tmp_path, setting, message):
    """A thread that did could free Python objects while Python ends, which aborts the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    command = [sys.executable, "-c", path + LEAVING, "digits", *TINY, "--set", setting]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path)],
            env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    first, second = (process.communicate()[0].splitlines() for process in processes)
    assert message in first[0]
    assert [first[-1], second[-1]] == ["[]", "[]"]
    assert [process.returncode for process in processes] == [0, 0]


def test_the_help_names_every_recipe():
    text = invoke("--help").output
    assert all(name in text for name in names())


def test_importing_the_command_loads_no_torch():
    code = f"import sys; sys.path[:0] = {sys.path!r}; import adre_train.cli; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
