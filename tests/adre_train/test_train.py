import csv
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from adre_train import adre_risk, checkpoints, radius_risk, stability
from adre_train.attack import noisy_logits, pgd
from adre_train.recipe import Recipe
from adre_train.train import certified, risk, train
from tcertify.data import digits
from tcertify.data.dataset import TensorDataset

SHORT = Recipe(sigma=0.3, k=2, lam=0.1, epochs=3, batch=32, lr=0.05)


def few(count, split="train"):
    data = digits.load(split)
    return dataclasses.replace(data, images=data.images[:count], labels=data.labels[:count])


def network(seed=0, dropout=False):
    torch.manual_seed(seed)
    middle = [nn.BatchNorm2d(4), nn.ReLU(), *([nn.Dropout(0.2)] if dropout else [])]
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), *middle, nn.Flatten(), nn.Linear(64, 10)
    )


def weights(path):
    return load_file(path)


def metrics(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.fixture(scope="module")
def data():
    return few(80)


def test_training_lowers_the_loss_and_logs_every_epoch(tmp_path, data):
    recipe = dataclasses.replace(SHORT, epochs=6, validate_every=3, validate_images=20)
    train(network(), data, recipe, tmp_path, test=few(50, "test"))
    rows = metrics(tmp_path)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert [bool(row["certified_accuracy"]) for row in rows] == [False, False, True] * 2
    assert 0 < float(rows[-1]["average_radius"]) < 2


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(tmp_path, data):
    first = weights(train(network(), data, SHORT, tmp_path / "a"))
    torch.manual_seed(77)
    torch.rand(5)
    assert same(weights(train(network(), data, SHORT, tmp_path / "b")), first)
    other = dataclasses.replace(SHORT, seed=1)
    assert not same(weights(train(network(), data, other, tmp_path / "c")), first)


def test_readers_in_other_processes_change_no_bit(tmp_path, data):
    recipe = dataclasses.replace(SHORT, epochs=1, augment="crop-flip")
    alone = weights(train(network(), data, recipe, tmp_path / "a"))
    assert same(weights(train(network(), data, recipe, tmp_path / "b", workers=2)), alone)


class Dying(TensorDataset):
    """A data set whose disk fails after so many images."""

    left = 0

    def __getitem__(self, index):
        if self.left == 0:
            raise OSError("disk gone")
        object.__setattr__(self, "left", self.left - 1)
        return super().__getitem__(index)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_a_resumed_run_ends_with_the_bits_of_one_undisturbed(tmp_path, data, schedule):
    recipe = dataclasses.replace(
        SHORT,
        epochs=4,
        schedule=schedule,
        step_every=2,
        warmup=1,
        eps=0.2,
        steps=1,
        eps_warmup=2,
        augment="crop-flip",
        accumulate=2,
    )
    whole = weights(train(network(dropout=True), data, recipe, tmp_path / "whole"))
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    dying = Dying(**fields)
    object.__setattr__(dying, "left", 200)
    with pytest.raises(OSError, match="disk gone"):
        train(network(dropout=True), dying, recipe, tmp_path / "cut")
    assert checkpoints.latest(tmp_path / "cut").record["epoch"] == 2
    path = train(network(seed=9, dropout=True), data, recipe, tmp_path / "cut", resume=True)
    assert same(weights(path), whole)
    optimizers = [
        load_file(tmp_path / run / "epoch-00004.optimizer.safetensors") for run in ("whole", "cut")
    ]
    assert same(*optimizers)
    rows = metrics(tmp_path / "cut")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]


def test_resuming_a_finished_run_trains_no_more(tmp_path, data):
    first = weights(train(network(), data, SHORT, tmp_path))
    assert same(weights(train(network(3), data, SHORT, tmp_path, resume=True)), first)


def test_a_folder_with_a_checkpoint_is_not_overwritten(tmp_path, data):
    train(network(), data, dataclasses.replace(SHORT, epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r"holds epoch-00001\.safetensors: resume it"):
        train(network(), data, SHORT, tmp_path)


def test_there_must_be_something_to_resume(tmp_path, data):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint to resume"):
        train(network(), data, SHORT, tmp_path, resume=True)


def test_resuming_with_another_recipe_or_data_names_the_differences(tmp_path, data):
    train(network(), data, dataclasses.replace(SHORT, epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r"made with lam = 0\.1, now 0\.2; epochs = 1, now 3"):
        train(network(), data, dataclasses.replace(SHORT, lam=0.2), tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"made with data = '\w+', now '\w+'"):
        train(network(), few(40), dataclasses.replace(SHORT, epochs=1), tmp_path, resume=True)


def test_resuming_with_another_architecture_is_refused(tmp_path, data):
    recipe = dataclasses.replace(SHORT, epochs=1)
    train(network(), data, recipe, tmp_path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=r"epoch-00001\.safetensors is for another architecture"):
        train(other, data, recipe, tmp_path, resume=True)


class Poisoned(nn.Module):
    """A network whose logits are NaN from one forward pass on."""

    def __init__(self, healthy):
        super().__init__()
        self.body, self.healthy = network(), healthy

    def forward(self, images):
        self.healthy -= 1
        logits = self.body(images)
        return logits if self.healthy >= 0 else logits.index_fill(1, torch.tensor([2]), torch.nan)


def test_a_nan_logit_stops_the_run_with_epoch_step_and_last_good_checkpoint(tmp_path, data):
    model = Poisoned(healthy=7)  # three steps an epoch: the eighth is step 2 of epoch 3
    with pytest.raises(FloatingPointError) as stopped:
        train(model, data, SHORT, tmp_path)
    assert str(stopped.value) == (
        "The loss is nan in epoch 3, step 2. The last good checkpoint is "
        f"{tmp_path / 'epoch-00002.safetensors'}."
    )
    assert all(t.isfinite().all() for t in weights(tmp_path / "epoch-00002.safetensors").values())


def test_a_nan_before_any_checkpoint_says_that_there_is_none(tmp_path, data):
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1.*checkpoint does not exist"):
        train(Poisoned(healthy=0), data, SHORT, tmp_path)


def test_a_weight_that_is_not_finite_is_never_written(tmp_path, data):
    model = network()
    model[1].running_mean[0] = torch.inf  # not used in train mode, so that the loss stays finite
    with pytest.raises(FloatingPointError, match="A weight is not finite in epoch 1"):
        train(model, data, SHORT, tmp_path)
    assert not list(tmp_path.iterdir())


def test_labels_outside_the_classes_are_refused(tmp_path, data):
    bad = dataclasses.replace(data, labels=data.labels + 5)
    with pytest.raises(ValueError, match=r"`y` must be in \[0, 10\), got 1\d\."):
        train(network(), bad, SHORT, tmp_path)


def test_accumulated_parts_make_the_step_of_the_whole_batch(tmp_path, data):
    """Without BatchNorm, and with noise too small to matter, parts and whole agree."""
    recipe = dataclasses.replace(SHORT, sigma=1e-9, k=1, epochs=2, batch=30)

    def linear():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()

    data = dataclasses.replace(data, images=data.images.double())
    whole = weights(train(Widened(linear()), data, recipe, tmp_path / "whole"))
    recipe = dataclasses.replace(recipe, accumulate=4)
    parts = weights(train(Widened(linear()), data, recipe, tmp_path / "parts"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-7, rtol=0)


class Widened(nn.Module):
    """A float64 network for whatever comes in."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, images):
        return self.body(images.double())


def test_bf16_trains_with_float32_weights(tmp_path, data):
    path = train(network(), data, dataclasses.replace(SHORT, bf16=True), tmp_path)
    assert {t.dtype for n, t in weights(path).items() if "batches" not in n} == {torch.float32}
    rows = metrics(tmp_path)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_without_momentum_and_schedule_a_step_is_plain_gradient_descent(tmp_path):
    data = few(10)
    recipe = Recipe(
        sigma=0.3, k=2, lam=0.2, epochs=1, batch=10, lr=0.1, schedule="step", momentum=0.0,
        weight_decay=0.0,
    )  # fmt: skip
    model, by_hand = network(), network()
    path = train(model, data, recipe, tmp_path)
    seen = weights(path)
    order = [data[int(i)] for i in permutation(recipe, 10)]
    x, y = torch.stack([image for image, _ in order]), torch.tensor([label for _, label in order])
    noise = first_noise(recipe, x)
    loss = adre_risk(noisy_logits(by_hand.train(), x, noise), y, lam=0.2)
    loss.backward()
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(seen[name], parameter.detach() - 0.1 * parameter.grad)


def permutation(recipe, count):
    return np.random.default_rng((recipe.seed, 0)).permutation(count)


def first_noise(recipe, x):
    key = np.random.SeedSequence((recipe.seed, 0, 0)).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(key))
    torch.empty((), dtype=torch.int64).random_()  # the data loader's seed
    return recipe.sigma * torch.randn(recipe.k, *x.shape)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda m, x, y, d: adre_risk(noisy_logits(m, x, d), y, lam=0.1)),
        (
            {"per": "single", "label_smoothing": 0.1, "floor": 0.01},
            lambda m, x, y, d: adre_risk(
                noisy_logits(m, x, d), y, lam=0.1, per="single", label_smoothing=0.1, floor=0.01
            ),
        ),
        (
            {"risk": "radius"},
            lambda m, x, y, d: radius_risk(noisy_logits(m, x, d), y, lam=0.1, sigma=0.3),
        ),
        (
            {"risk": "stability"},
            lambda m, x, y, d: stability(m(x), noisy_logits(m, x, d), y, lam=0.1),
        ),
        (
            {"eps": 0.2, "steps": 2, "eps_warmup": 2},
            lambda m, x, y, d: adre_risk(
                noisy_logits(m, pgd(m, x, y, d, lam=0.1, eps=0.1, steps=2), d), y, lam=0.1
            ),
        ),
    ],
)
def test_every_recipe_s_risk_is_the_function_of_that_name(data, settings, expected):
    recipe = dataclasses.replace(SHORT, **settings)
    model = network().eval()
    x, y = data.images[:8], data.labels[:8]
    torch.manual_seed(5)
    found = risk(model, model, x, y, recipe, epoch=0)
    torch.manual_seed(5)
    noise = recipe.sigma * torch.randn(recipe.k, *x.shape)
    torch.testing.assert_close(found, expected(model, x, y, noise))


def test_a_quick_certification_counts_only_correct_images():
    test = few(30, "test")
    answers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(answers[1].weight)
    answers[1].bias.data = torch.eye(10)[3]  # always class 3, so certified for as far as 500 reach
    found = certified(answers, test, dataclasses.replace(SHORT, validate_images=30), "cpu")
    share = float((test.labels == 3).float().mean())
    assert found["certified_accuracy"] == pytest.approx(share)
    assert found["average_radius"] == pytest.approx(share * 0.3 * 2.2, rel=0.02)


TWO_PROCESSES = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from torch import distributed, nn
    from adre_train.recipe import Recipe
    from adre_train.train import train
    from tcertify.data.dataset import TensorDataset

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, folder, deadly = distributed.get_rank(), Path(sys.argv[1]), int(sys.argv[2])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.passes = nn.Linear(4, 3), 0
        def forward(self, images):
            self.passes += 1
            if rank == 1 and self.passes == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if not os.path.exists(folder / f"seen-{rank}"):
                torch.save(images.detach(), folder / f"seen-{rank}")
            return self.fc(images.flatten(1))

    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset("toy", 3, torch.rand(COUNT, 1, 2, 2, generator=generator),
                         torch.arange(COUNT) % 3)
    recipe = Recipe(sigma=SIGMA, k=1, epochs=3, batch=4, lr=0.1, accumulate=2)
    train(Net(), data, recipe, folder, resume=deadly < 0)
    distributed.destroy_process_group()
"""


def torchrun(tmp_path, folder, *, count=9, sigma=1e-9, deadly=0, processes=2):
    script = tmp_path / "script.py"
    code = textwrap.dedent(TWO_PROCESSES).replace("COUNT", str(count)).replace("SIGMA", str(sigma))
    script.write_text(f"import sys; sys.path[:0] = {sys.path!r}\n{code}")
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *run, str(script), str(folder), str(deadly)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_take_the_steps_of_one_also_in_a_short_last_batch(tmp_path):
    """Nine images in batches of four: in the last, of one, the second process has no image."""
    for folder, processes in (("one", 1), ("two", 2)):
        done = torchrun(tmp_path, tmp_path / folder, processes=processes)
        assert done.returncode == 0, done.stderr
    one, two = (weights(tmp_path / f / "epoch-00003.safetensors") for f in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-6, rtol=0)
    losses = [[float(row["loss"]) for row in metrics(tmp_path / f)] for f in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_dying_process_stops_all_and_the_run_resumes_to_the_same_bits(tmp_path):
    whole = torchrun(tmp_path, tmp_path / "whole", sigma=0.5, count=8)
    assert whole.returncode == 0, whole.stderr
    # The noise of the two processes differs, as do their images.
    seen = [torch.load(tmp_path / "whole" / f"seen-{rank}") for rank in (0, 1)]
    assert not torch.equal(*seen)
    died = torchrun(tmp_path, tmp_path / "cut", sigma=0.5, count=8, deadly=6)
    assert died.returncode != 0
    assert f"Signal {signal.SIGKILL.value}" in died.stderr
    assert checkpoints.latest(tmp_path / "cut").record["epoch"] == 1
    resumed = torchrun(tmp_path, tmp_path / "cut", sigma=0.5, count=8, deadly=-1)
    assert resumed.returncode == 0, resumed.stderr
    paths = [tmp_path / f / "epoch-00003.safetensors" for f in ("whole", "cut")]
    assert same(*map(weights, paths))
