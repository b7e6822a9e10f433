import hashlib

import pytest
import torch
from torch import nn

from tcertify.classifiers import networks as models

#: Of the names and shapes of torchvision 0.28's resnet50, in order.
TORCHVISION_RESNET50 = "d7e4f8bb0a5363446a59c81c3887ccf66900a11651a0ae2dec96d1bb1eb6ea81"


def names_and_shapes(model):
    return "\n".join(f"{name} {tuple(t.shape)}" for name, t in model.state_dict().items())


@pytest.fixture
def small():
    torch.manual_seed(0)
    return models.build("cifar-resnet20", 10)


@pytest.mark.parametrize(("depth", "parameters"), [(20, 272_474), (56, 855_770), (110, 1_730_714)])
def test_the_cifar_networks_have_the_known_number_of_parameters(depth, parameters):
    model = models.build(f"cifar-resnet{depth}", 10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    assert len(convolutions) + 1 == depth


def test_the_cifar_network_is_named_as_the_field_s_checkpoints_are(small):
    names = set(small.state_dict())
    assert {
        "1.conv1.weight",
        "1.bn1.running_mean",
        "1.layer1.0.conv1.weight",
        "1.layer2.0.downsample.0.weight",
        "1.layer3.2.bn2.bias",
        "1.fc.bias",
    } < names
    assert all(name.startswith("1.") for name in names)


def test_resnet50_is_torchvision_s_key_for_key():
    names = names_and_shapes(models.ResNet50())
    assert hashlib.sha256(names.encode()).hexdigest() == TORCHVISION_RESNET50


def test_resnet50_answers_as_torchvision_s_does():
    resnet = pytest.importorskip("torchvision.models.resnet", reason="torchvision is not installed")
    theirs, ours = resnet.resnet50().eval(), models.ResNet50().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(theirs(x), ours(x))


def test_the_networks_give_one_logit_a_class():
    with torch.no_grad():
        cifar = models.build("cifar-resnet56", 7).eval()(torch.rand(2, 3, 32, 32))
        imagenet = models.build("resnet50", 11).eval()(torch.rand(1, 3, 64, 64))
    assert cifar.shape == (2, 7)
    assert imagenet.shape == (1, 11)


def test_the_densely_connected_network_is_named_as_the_field_s_checkpoints_are():
    model = models.build("cifar-densenet40", 10).eval()
    assert sum(p.numel() for p in model.parameters()) == 211_978
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 38  # of the 40, the field's code leaves out the transitions'
    assert {
        "1.features.conv0.weight",
        "1.features.block1.layer1.brc_1.norm.running_mean",
        "1.features.block3.layer6.brc_2.conv.weight",
        "1.features.norm_last.bias",
        "1.classifier.weight",
    } < set(model.state_dict())
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_lenet_takes_grey_images_of_28_pixels():
    model = models.build("lenet", 10)
    assert {"1.conv1.weight", "1.conv2.bias", "1.fc1.weight", "1.fc2.bias"} < set(
        model.state_dict()
    )
    assert sum(p.numel() for p in model.parameters()) == 431_080
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_the_small_networks_take_the_images_of_their_data_set():
    for name, side, parameters in (("digits", 8, 43_050), ("fashion-mnist", 28, 105_866)):
        model = models.build(name, 10)
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert model(torch.rand(2, 1, side, side)).shape == (2, 10)


def test_another_standardisation_can_be_asked_for():
    plain = models.build("cifar-resnet20", 10, "none")
    assert torch.equal(plain[0](torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))
    halves = models.build("cifar-resnet20", 10, "0.5,0.5,0.5/0.5,0.5,0.5")
    assert torch.equal(halves[0](torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))
    assert not plain[0].state_dict()


def test_an_unknown_architecture_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of cifar-resnet20, .*fashion-mnist, got 'vgg'\."):
        models.build("vgg", 10)
