"""load_published: the field's checkpoints and ours, read without running what is in them."""

import pytest
import torch
from safetensors.torch import save_file

from tcertify.classifiers.checkpoints import load_published
from tcertify.classifiers.networks import build


def published(model, wrapped):
    """Return the model's parameters as the field saves them, under DataParallel or not."""
    state = {}
    for name, tensor in model.state_dict().items():
        first, rest = name.split(".", 1)
        state[f"{first}.module.{rest}" if wrapped else name] = tensor
    return {"epoch": 90, "arch": "resnet", "state_dict": state, "optimizer": {"state": {}}}


@pytest.fixture
def small():
    torch.manual_seed(0)
    return build("cifar-resnet20", 10)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_published_checkpoint_loads_wrapped_in_data_parallel_or_not(small, tmp_path, wrapped):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(published(small, wrapped), path)
    other = build("cifar-resnet20", 10)
    load_published(other, path)
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.state_dict().items())


def test_a_checkpoint_from_before_batches_were_counted_loads(small, tmp_path):
    path = tmp_path / "old.pt"
    state = {n: t for n, t in small.state_dict().items() if not n.endswith("batches_tracked")}
    torch.save(state, path)
    load_published(build("cifar-resnet20", 10), path)


def test_safetensors_load(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(small.state_dict(), path)
    other = build("cifar-resnet20", 10)
    load_published(other, path)
    assert torch.equal(other[1].fc.weight, small[1].fc.weight)


@pytest.mark.parametrize(
    ("architecture", "classes", "message"),
    [
        ("cifar-resnet56", 10, r"another architecture: it lacks \d+ of the model's \d+ entries"),
        ("resnet50", 10, r"another architecture: it lacks"),
        ("cifar-resnet20", 11, r"another architecture: it has other shapes for 2 of .*'1\.fc\.we"),
    ],
)
def test_a_checkpoint_for_another_architecture_is_refused(
    small, tmp_path, architecture, classes, message
):
    path = tmp_path / "checkpoint.pt"
    torch.save(published(small, wrapped=True), path)
    model = build(architecture, classes)
    before = model.state_dict()["1.fc.weight"].clone()
    with pytest.raises(ValueError, match=message):
        load_published(model, path)
    assert torch.equal(model.state_dict()["1.fc.weight"], before)


def test_a_checkpoint_with_more_than_the_model_is_refused(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({**small.state_dict(), "1.extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"it adds 1 .*'1\.extra'"):
        load_published(build("cifar-resnet20", 10), path)


def test_a_checkpoint_with_a_nan_weight_is_refused(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    small[1].fc.bias.data[3] = torch.nan
    save_file(small.state_dict(), path)
    with pytest.raises(ValueError, match=r"not finite, in '1\.fc\.bias'"):
        load_published(build("cifar-resnet20", 10), path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch announces both
@pytest.mark.parametrize(
    "other",
    [
        lambda weight: weight.to_sparse(),
        lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        lambda weight: weight.to("meta"),
    ],
    ids=["sparse", "quantised", "meta"],
)
def test_a_weight_that_is_no_plain_array_is_refused(tmp_path, other):
    model = torch.nn.Linear(3, 2)
    path = tmp_path / "weights.pt"
    torch.save({**model.state_dict(), "weight": other(model.weight.detach())}, path)
    with pytest.raises(ValueError, match=r"holds no plain array of numbers for 'weight'\."):
        load_published(model, path)


@pytest.mark.parametrize("name", ["page.pt", "page.safetensors"])
def test_a_file_that_is_no_checkpoint_is_named_with_its_size(small, tmp_path, name):
    path = tmp_path / name
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=rf"{name} \(16 bytes\) is no checkpoint"):
        load_published(small, path)


def test_a_pickle_that_would_run_code_is_refused_unrun(small, tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "hostile.pt"
    torch.save(Payload(), path)
    with pytest.raises(ValueError, match="holds more than weights, and is not read"):
        load_published(small, path)
    assert not (tmp_path / "ran").exists()


def test_a_file_without_parameters_is_refused(small, tmp_path):
    path = tmp_path / "list.pt"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds no parameters by name"):
        load_published(small, path)


def test_a_missing_checkpoint_is_a_missing_file(small, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        load_published(small, tmp_path / "absent.pt")
