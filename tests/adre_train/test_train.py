import csv
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from adre_train import adre_risk, checkpoints
from adre_train.attack import noisy_logits
from adre_train.batches import held_out
from adre_train.objective import draw
from adre_train.recipe import Recipe
from adre_train.train import train
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
    recipe = dataclasses.replace(SHORT, epochs=6, validate_every=3, validate_samples=100)
    train(network(), data, recipe, tmp_path)
    rows = metrics(tmp_path)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert [bool(row["certified_accuracy"]) for row in rows] == [False, False, True] * 2
    assert 0 <= float(rows[-1]["average_radius"]) < 2
    for row in rows:
        assert float(row["loss"]) == pytest.approx(
            float(row["l_per"]) - 0.1 * float(row["l_adre"]), rel=1e-5
        )
        assert float(row["at_floor"]) == 0
        assert 0 < float(row["noisy_accuracy"]) <= 1
        assert float(row["gradient_norm"]) > 0
        assert float(row["images_per_s"]) > 0


class Watched(TensorDataset):
    """A data set that notes which of its images are asked for."""

    asked: ClassVar[set[int]] = set()

    def __getitem__(self, index):
        self.asked.add(index)
        return super().__getitem__(index)


def test_validation_images_are_every_tenth_and_are_not_trained_on(tmp_path, data):
    watched = Watched(**{f.name: getattr(data, f.name) for f in dataclasses.fields(data)})
    for every, expected in ((0, set(range(80))), (5, set(range(80)) - set(range(9, 80, 10)))):
        watched.asked.clear()
        recipe = dataclasses.replace(SHORT, epochs=1, validate_every=every)
        train(network(), watched, recipe, tmp_path / str(every))
        assert watched.asked == expected
    assert held_out(25).tolist() == [9, 19]


def test_the_checkpoint_that_certified_farthest_stays(tmp_path, data, monkeypatch):
    radii = iter([0.1, 0.4, 0.2, 0.3, 0.1])
    monkeypatch.setattr(
        "adre_train.train.certified",
        lambda *_: {"certified_accuracy": 0.5, "average_radius": next(radii)},
    )
    train(network(), data, dataclasses.replace(SHORT, epochs=5, validate_every=1), tmp_path)
    kept = sorted(path.name for path in tmp_path.glob("epoch-*.json"))
    assert kept == ["epoch-00002.json", "epoch-00004.json", "epoch-00005.json"]


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


def test_a_folder_that_is_a_file_is_refused(tmp_path, data):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="out"):
        train(network(), data, SHORT, tmp_path / "out")


def test_a_run_stops_at_a_step_and_goes_on_within_the_epoch_to_the_same_bits(tmp_path, data):
    """Three steps an epoch, so that step 5 is the second of the second epoch."""
    recipe = dataclasses.replace(SHORT, augment="crop-flip", validate_every=3, validate_samples=50)
    whole = weights(train(network(dropout=True), data, recipe, tmp_path / "whole"))
    options = {"max_steps": 5, "workers": 2}
    path = train(network(dropout=True), data, recipe, tmp_path / "cut", **options)
    assert path == tmp_path / "cut" / "epoch-00001-step-0000002.safetensors"
    again = train(
        network(7, dropout=True), data, recipe, tmp_path / "cut", resume=True, max_steps=5
    )
    assert again == path
    last = train(network(7, dropout=True), data, recipe, tmp_path / "cut", resume=True)
    assert same(weights(last), whole)
    assert len(metrics(tmp_path / "cut")) == 3


def test_a_last_step_that_ends_an_epoch_leaves_the_epoch_s_checkpoint(tmp_path, data):
    assert train(network(), data, SHORT, tmp_path, max_steps=3).name == "epoch-00001.safetensors"


def test_checkpoints_are_written_by_the_clock_within_an_epoch(tmp_path, data, monkeypatch):
    written = []
    original = checkpoints.write
    monkeypatch.setattr(
        checkpoints, "write", lambda *a, **k: (written.append(a[1]), original(*a, **k))
    )
    recipe = dataclasses.replace(SHORT, epochs=2)
    train(network(), data, recipe, tmp_path, checkpoint_minutes=1e-9)
    assert written == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    written.clear()
    train(network(), data, recipe, tmp_path / "other", checkpoint_minutes=0)
    assert written == [(1, 0), (2, 0)]


def test_a_finished_run_is_trained_longer(tmp_path, data):
    train(network(), data, SHORT, tmp_path)
    longer = dataclasses.replace(SHORT, epochs=5)
    assert train(network(), data, longer, tmp_path, resume=True).name == "epoch-00005.safetensors"
    with pytest.raises(ValueError, match=r"made with epochs = 5, now 3\."):
        train(network(), data, SHORT, tmp_path, resume=True)


def test_training_begins_with_weights_that_are_given_and_records_which(tmp_path, data):
    first = train(network(), data, SHORT, tmp_path / "a")
    recipe = dataclasses.replace(SHORT, epochs=1, lr=1e-9)
    path = train(network(5), data, recipe, tmp_path / "b", init=first)
    torch.testing.assert_close(weights(path)["4.bias"], weights(first)["4.bias"])
    record = checkpoints.latest(tmp_path / "b").record
    assert record["init"]["path"] == str(first)
    assert record["init"]["sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="give one of them"):
        train(network(), data, recipe, tmp_path / "b", init=first, resume=True)


def test_the_record_says_what_was_trained(tmp_path, data):
    train(network(), data, SHORT, tmp_path)
    record = checkpoints.latest(tmp_path).record
    assert record["data"] == {
        "name": "digits/train",
        "fingerprint": data.fingerprint(),
        "num_classes": 10,
    }
    assert record["network"] == "torch.nn.modules.container:Sequential"
    assert (record["recipe"]["dataset"], record["recipe"]["architecture"]) == ("", "")
    other = dataclasses.replace(SHORT, dataset="cifar10")
    with pytest.raises(ValueError, match="`dataset` is cifar10, and the data is digits/train"):
        train(network(), data, other, tmp_path / "other")


def test_what_collapses_is_named_while_it_happens(tmp_path, data, caplog):
    """Every image at a floor of .9: the regulariser is constant; one class for all: collapsed."""
    train(network(), data, dataclasses.replace(SHORT, floor=0.9), tmp_path / "floor")
    assert [r.message.partition(":")[0] for r in caplog.records] == ["Epoch 1"]
    assert "has no gradient left: 100% of the images are at the floor of 0.9" in caplog.text
    caplog.clear()
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(constant[1].weight)
    constant[1].bias.data[4] = 9.0
    train(constant, data, dataclasses.replace(SHORT, lr=1e-9), tmp_path / "class")
    assert "Epoch 2: The training has collapsed: 100% of the images get one class" in caplog.text
    assert len(caplog.records) == 1


def test_without_a_terminal_a_line_now_and_then_says_how_it_goes(
    tmp_path, data, caplog, monkeypatch
):
    monkeypatch.setattr("adre_train.train.LINE_SECONDS", 1e-9)
    caplog.set_level("INFO", "adre_train")
    train(network(), data, dataclasses.replace(SHORT, epochs=1), tmp_path)
    lines = [record.message for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == [
        "epoch 1 of 1, step 1 of 3",
        "epoch 1 of 1, step 2 of 3",
    ]
    assert "images/s" in lines[0]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
@pytest.mark.parametrize("setting", ["channels_last", "compile"])
def test_layout_and_compilation_change_rounding_and_nothing_else(tmp_path, data, setting):
    recipe = dataclasses.replace(SHORT, epochs=1, lr=1e-3, eps=0.1, steps=1)
    plain = weights(train(network(), data, recipe, tmp_path / "plain"))
    recipe = dataclasses.replace(recipe, **{setting: True})
    other = weights(train(network(), data, recipe, tmp_path / "other"))
    assert plain.keys() == other.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-4, rtol=1e-3)


def test_a_gradient_is_shortened_to_the_norm_asked_for(tmp_path):
    data = few(10)
    recipe = Recipe(
        sigma=0.3, k=2, epochs=1, batch=10, lr=0.1, schedule="step", momentum=0.0,
        weight_decay=0.0, clip=0.01,
    )  # fmt: skip
    before = network().state_dict()
    after = weights(train(network(), data, recipe, tmp_path / "clipped"))
    moved = [after[name] - before[name] for name, _ in network().named_parameters()]
    norm = torch.linalg.vector_norm(torch.cat([change.flatten() for change in moved]))
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-4)
    assert float(metrics(tmp_path / "clipped")[0]["gradient_norm"]) > 0.01
    loose = weights(train(network(), data, dataclasses.replace(recipe, clip=1e3), tmp_path / "a"))
    free = weights(train(network(), data, dataclasses.replace(recipe, clip=0.0), tmp_path / "b"))
    assert same(loose, free)


def test_tensorboard_gets_the_metrics_and_after_resuming_those_that_count(tmp_path, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(network(), data, SHORT, tmp_path, tensorboard=True, max_steps=6)
    (tmp_path / "epoch-00002.json").unlink()  # as if it had been cut in epoch 2
    train(network(), data, SHORT, tmp_path, tensorboard=True, resume=True)
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = metrics(tmp_path)
    assert {*seen.Tags()["scalars"], "epoch"} == {name for name in rows[0] if rows[0][name]}
    found = [(scalar.step, scalar.value) for scalar in seen.Scalars("loss")]
    assert [step for step, _ in found] == [1, 2, 3]
    assert [loss for _, loss in found] == pytest.approx([float(row["loss"]) for row in rows])


def test_without_tensorboard_installed_a_sentence_says_how(tmp_path, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        train(network(), data, SHORT, tmp_path, tensorboard=True)
    assert not list(tmp_path.iterdir())


def test_there_must_be_something_to_resume(tmp_path, data):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint to resume"):
        train(network(), data, SHORT, tmp_path, resume=True)


def test_resuming_with_another_recipe_or_data_names_the_differences(tmp_path, data):
    train(network(), data, dataclasses.replace(SHORT, epochs=1), tmp_path)
    other = dataclasses.replace(SHORT, lam=0.2, batch=16)
    with pytest.raises(ValueError, match=r"made with lam = 0\.1, now 0\.2; batch = 32, now 16\."):
        train(network(), data, other, tmp_path, resume=True)
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
    with pytest.raises(
        ValueError, match=r"Image \d+ of digits/train must have a label in \[0, 10\), got 1\d\."
    ):
        train(network(), bad, SHORT, tmp_path)


def test_accumulated_parts_make_the_step_of_the_whole_batch(tmp_path, data):
    """Without BatchNorm; an image's noise does not depend on the part that it is in."""
    recipe = dataclasses.replace(SHORT, epochs=2, batch=30)

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
    noise = draw(x, torch.from_numpy(permutation(recipe, 10)), recipe, epoch=0)
    loss = adre_risk(noisy_logits(by_hand.train(), x, noise), y, lam=0.2)
    loss.backward()
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(seen[name], parameter.detach() - 0.1 * parameter.grad)


def permutation(recipe, count):
    return np.random.default_rng((recipe.seed, 0)).permutation(count)


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
    recipe = Recipe(sigma=0.5, k=1, epochs=3, batch=4, lr=0.1, accumulate=2)
    train(Net(), data, recipe, folder, resume=deadly < 0)
    distributed.destroy_process_group()
"""


def torchrun(tmp_path, folder, *, count=9, deadly=0, processes=2):
    script = tmp_path / "script.py"
    code = textwrap.dedent(TWO_PROCESSES).replace("COUNT", str(count))
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
    whole = torchrun(tmp_path, tmp_path / "whole", count=8)
    assert whole.returncode == 0, whole.stderr
    # The two processes see different images.
    seen = [torch.load(tmp_path / "whole" / f"seen-{rank}") for rank in (0, 1)]
    assert not torch.equal(*seen)
    died = torchrun(tmp_path, tmp_path / "cut", count=8, deadly=6)
    assert died.returncode != 0
    assert f"Signal {signal.SIGKILL.value}" in died.stderr
    assert checkpoints.latest(tmp_path / "cut").record["epoch"] == 1
    resumed = torchrun(tmp_path, tmp_path / "cut", count=8, deadly=-1)
    assert resumed.returncode == 0, resumed.stderr
    paths = [tmp_path / f / "epoch-00003.safetensors" for f in ("whole", "cut")]
    assert same(*map(weights, paths))
