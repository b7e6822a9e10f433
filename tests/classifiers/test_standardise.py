import pytest
import torch

from tcertify.classifiers.standardise import CONSTANTS, Standardise, standardising_layer


def test_the_first_layer_standardises_by_constants_that_are_no_state():
    layer = Standardise([0.5, 0.25], [0.5, 0.125])
    images = torch.stack([torch.full((3, 3), 0.75), torch.full((3, 3), 0.5)])[None]
    assert torch.equal(layer(images)[0, :, 0, 0], torch.tensor([0.5, 2.0]))
    assert not layer.state_dict()
    assert {name for name, _ in layer.named_buffers()} == {"mean", "std"}


def test_constants_have_names():
    layer = standardising_layer("imagenet")
    assert torch.equal(layer.mean.flatten(), torch.tensor(CONSTANTS["imagenet"][0]))
    assert isinstance(standardising_layer("none"), torch.nn.Identity)


def test_constants_may_be_given_as_mean_and_deviation():
    layer = standardising_layer("0.5,0.25/0.5,0.125")
    assert layer.mean.flatten().tolist() == [0.5, 0.25]
    assert layer.std.flatten().tolist() == [0.5, 0.125]


@pytest.mark.parametrize("text", ["mnist", "0.5", "0.5/0.5,0.5", "a/b", "/", "nan/1", "1/inf"])
def test_what_is_no_standardisation_is_refused(text):
    with pytest.raises(ValueError, match=r"`normalize` must be one of cifar10, imagenet, none, or"):
        standardising_layer(text)


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive standard deviations"):
        standardising_layer("0.5/0")
