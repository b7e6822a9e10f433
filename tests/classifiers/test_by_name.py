"""load: functions by name and checkpoints of the digits network, never anything else."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tcertify.classifiers.by_name import load
from tcertify.classifiers.networks import DigitsNet


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
    with pytest.raises(ValueError, match=r"must be package.module:function or a .safetensors"):
        load("resnet110")


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", b"\x08" + bytes(7)])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no checkpoint of the digits network"):
        load(str(path))


def test_other_architectures_and_nan_weights_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(ValueError, match="is no checkpoint of the digits network"):
        load(str(path))
    state = DigitsNet().state_dict()
    state["0.bias"][3] = torch.nan
    save_file(state, path)
    with pytest.raises(ValueError, match="NaN or Inf"):
        load(str(path))
