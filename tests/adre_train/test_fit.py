import pytest
import torch
from torch import nn

from adre_train.fit import check_fits
from tcertify.classifiers import build


def test_a_network_for_the_images_fits_and_is_as_before():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    check_fits(network, "mine/train", (1, 8, 8), 5)
    assert [module.training for module in network] == [True, False, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (build("cifar-resnet20", 5), (1, 32, 32), "it standardises 3 channels"),
        (
            build("digits", 10),
            (3, 32, 32),
            r"mine/train, of shape \(3, 32, 32\) and 5 classes: Given",
        ),
        (build("digits", 10), (1, 8, 8), r"for one image it returns \(1, 10\)"),
        (nn.Flatten(0), (1, 8, 8), r"for one image it returns \(64,\)"),
    ],
)
def test_a_network_for_other_images_is_named_with_what_does_not_fit(network, shape, message):
    with pytest.raises(ValueError, match=message):
        check_fits(network, "mine/train", shape, 5)
