"""load: functions by name, checkpoints, timm and ONNX, never anything else."""

import json
import sys
from types import ModuleType

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tcertify.classifiers.by_name import load, new
from tcertify.classifiers.networks import DigitsNet, build


def test_a_checkpoint_gives_the_network_that_was_saved_in_eval_mode(tmp_path):
    network = DigitsNet()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    loaded = load(str(tmp_path / "net.safetensors"))
    assert not loaded.training
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(x), network(x))


def test_a_function_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Linear(3, 2)\n\nvalue = 3\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert isinstance(load("my_models:net"), nn.Linear)
    with pytest.raises(ValueError, match="my_models has no resnet; it has net, number"):
        load("my_models:resnet")
    with pytest.raises(ValueError, match="must return a torch module, got int"):
        load("my_models:number")


def test_what_does_not_exist_is_named_with_what_does(tmp_path):
    save_file(DigitsNet().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"does not exist; checkpoints beside it: net.safetensors"):
        load(str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="No module named 'no_such_package'"):
        load("no_such_package:net")
    with pytest.raises(ValueError, match=r"must be package.module:function, timm:NAME, or a file"):
        load("resnet110")


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", b"\x08" + bytes(7)])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"MODEL .*net\.safetensors .* is no checkpoint that can"):
        load(str(path))


def test_other_architectures_and_nan_weights_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(ValueError, match="is no checkpoint of the digits network"):
        load(str(path))
    state = DigitsNet().state_dict()
    state["0.bias"][3] = torch.nan
    save_file(state, path)
    with pytest.raises(ValueError, match="holds a weight that is not finite"):
        load(str(path))


def trained(path, architecture, classes, network):
    """Write a checkpoint with its record, as training does."""
    save_file(network.state_dict(), path)
    record = {"recipe": {"architecture": architecture}, "data": {"num_classes": classes}}
    path.with_suffix(".json").write_text(json.dumps({"record": record, "sha256": []}))


def test_the_record_beside_a_checkpoint_names_its_architecture(tmp_path):
    network = build("cifar-resnet20", 7).eval()
    trained(tmp_path / "epoch-00001.safetensors", "cifar-resnet20", 7, network)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(load(str(tmp_path / "epoch-00001.safetensors"))(x), network(x))


def test_a_record_may_name_an_architecture_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_by_user.py").write_text(
        "from torch import nn\ndef net(classes): return nn.Linear(4, classes)\n"
    )
    trained(tmp_path / "a.safetensors", "nets_by_user:net", 3, nn.Linear(4, 3))
    assert load("a.safetensors").out_features == 3
    assert new("nets_by_user:net", 5).out_features == 5


def test_a_record_that_says_nothing_is_refused(tmp_path):
    save_file(DigitsNet().state_dict(), tmp_path / "a.safetensors")
    for text in ("{}", "[", '{"record": {"recipe": {}, "data": {}}}', "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=r"a\.json names no architecture"):
            load(str(tmp_path / "a.safetensors"))


@pytest.fixture
def of_the_field(tmp_path):
    """A checkpoint as the field's training scripts write it, under DataParallel."""
    torch.manual_seed(0)
    network = build("cifar-resnet20", 10).eval()
    state = {n.replace("1.", "1.module.", 1): t for n, t in network.state_dict().items()}
    content = {"epoch": 90, "arch": "cifar_resnet20", "state_dict": state, "optimizer": {}}
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    return network, str(tmp_path / "checkpoint.pth.tar")


def test_a_checkpoint_of_the_field_loads_with_its_standardisation(of_the_field):
    network, path = of_the_field
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(load(path, normalize="cifar10")(x), network(x))
    assert not torch.equal(load(path, normalize="imagenet")(x), network(x))


def test_the_standardisation_of_the_fields_checkpoint_is_never_guessed(of_the_field):
    with pytest.raises(ValueError, match=r"the wrong constants load silently: give --normalize"):
        load(of_the_field[1])


def test_another_architecture_of_the_field_is_named(tmp_path):
    torch.save({"arch": "wide_resnet", "state_dict": {}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"architecture is 'wide_resnet'; tcertify builds cifar-"):
        load(str(tmp_path / "a.pth"), normalize="none")


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path):
    torch.save({"arch": "lenet", "state_dict": Hostile()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds more than weights, and is not read"):
        load(str(tmp_path / "a.pth"), normalize="none")


def test_a_function_may_have_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sized_by_user.py").write_text(
        "from torch import nn\ndef net(width=2): return nn.Linear(width, 2)\n"
    )
    assert load("sized_by_user:net(width=5)").in_features == 5
    assert load("sized_by_user:net", arguments={"width": 6}).in_features == 6
    standardised = load("sized_by_user:net", normalize="cifar10")
    assert torch.equal(standardised[0].mean.flatten(), torch.tensor([0.4914, 0.4822, 0.4465]))
    with pytest.raises(ValueError, match="`arguments` are for a function"):
        load("a.onnx", arguments={"width": 6})


def test_timm_is_standardised_as_its_record_says(monkeypatch):
    timm = ModuleType("timm")
    timm.list_models = lambda pretrained: ["small"]

    def create_model(name, pretrained):
        network = nn.Flatten()
        network.pretrained_cfg = {"mean": (0.5, 0.25, 0.5), "std": (0.5, 0.5, 0.5)}
        return network

    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    out = load("timm:small")(torch.full((1, 3, 1, 1), 0.5))
    assert torch.equal(out, torch.tensor([[0.0, 0.5, 0.0]]))
    with pytest.raises(ValueError, match="timm has no pretrained network of that name"):
        load("timm:other")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match="timm cannot be imported"):
        load("timm:small")


def linear_onnx(path):
    """Write a linear classifier of 4 pixels and 3 classes as an ONNX file; return its weight."""
    weight = torch.arange(12.0).reshape(4, 3) / 7
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["B", 3])],
        [onnx.numpy_helper.from_array(weight.numpy(), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return weight


def test_an_onnx_file_is_run(tmp_path):
    weight = linear_onnx(tmp_path / "a.onnx")
    x = torch.rand(5, 1, 2, 2)
    assert torch.allclose(load(str(tmp_path / "a.onnx"))(x), x.flatten(1) @ weight)
