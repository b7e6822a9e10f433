"""Training under torchrun: a rank that dies restarts the job, which ends with the same bits."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.adre_train.test_train import same

ROOT = Path(__file__).parents[2]

#: Without it, workers that torch 2.13 starts again look for the addresses of those that are dead.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "PYTHONPATH": os.pathsep.join(sys.path),
}

MINE = """
    import os, signal
    import torch
    from torch import nn

    def images(split):
        generator = torch.Generator().manual_seed(1)
        return torch.rand(24, 1, 2, 2, generator=generator), torch.arange(24) % 3

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.passes = nn.Linear(4, 3), 0

        def forward(self, images):
            self.passes += self.training
            first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
            if first and os.environ["RANK"] == "1" and str(self.passes) == os.environ["DEADLY"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.fc(images.flatten(1))

    def network(num_classes):
        return Network()
"""


@pytest.fixture
def train(tmp_path):
    """Train on two processes, six steps an epoch; the second dies in its n-th step."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE))
    (tmp_path / "start.py").write_text("from adre_train.cli import main\nmain()\n")
    (tmp_path / "toy.toml").write_text(
        'dataset = "mine:images"\narchitecture = "mine:network"\nsigma = 0.5\nk = 1\nepochs = 2\n'
        "batch = 4\nlr = 0.1\n"
    )

    def started(folder, *, deadly, restarts, minutes):
        launch = ["--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
        training = ["start.py", "toy.toml", "--out", folder, "--checkpoint-minutes", minutes]
        return subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *launch, *map(str, training)],
            cwd=tmp_path,
            env={**ENVIRONMENT, "DEADLY": str(deadly)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return started


def test_a_rank_that_dies_within_an_epoch_restarts_the_job_which_ends_with_the_same_bits(
    train, tmp_path
):
    """After the death of step 9 it goes on from step 8, and after that of step 1 from nothing."""
    whole = train("whole", deadly=-1, restarts=0, minutes=0)
    assert whole.returncode == 0, whole.stderr
    weights = load_file(tmp_path / "whole" / "epoch-00002.safetensors")
    for folder, deadly in (("late", 9), ("early", 1)):
        done = train(folder, deadly=deadly, restarts=1, minutes=1e-9)
        assert done.returncode == 0, done.stderr
        assert "SIGKILL" in done.stderr or "exitcode: -9" in done.stderr
        assert done.stdout.splitlines()[-1].endswith("epoch-00002.safetensors")
        assert same(load_file(tmp_path / folder / "epoch-00002.safetensors"), weights)


def test_without_a_restart_a_rank_that_dies_ends_the_job(train, tmp_path):
    done = train("cut", deadly=9, restarts=0, minutes=1e-9)
    assert done.returncode != 0
    assert not (tmp_path / "cut" / "epoch-00002.safetensors").exists()


def test_nothing_is_evaluated_on_a_padded_share_of_the_data():
    """torch's DistributedSampler repeats images until the shares are equal."""
    sources = [p.read_text() for d in ("adre_train", "tcertify") for p in (ROOT / d).rglob("*.py")]
    assert not any("DistributedSampler" in source for source in sources)
