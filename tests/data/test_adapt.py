import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import TensorDataset as TorchTensors

from tcertify import data
from tcertify.data.adapt import as_dataset

X, Y = torch.linspace(0, 1, 8).reshape(2, 1, 2, 2), torch.tensor([0, 1])


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        TorchTensors(X, Y),
        [(X[0], 0), (X[1], 1)],
    ],
    ids=["tensors", "arrays", "torch", "pairs"],
)
def test_every_form_gives_the_same_images_and_labels(given):
    found = as_dataset(given, num_classes=2)
    assert (len(found), found.num_classes) == (2, 2)
    for i in range(2):
        image, label = found[i]
        assert torch.equal(torch.as_tensor(image), X[i])
        assert int(label) == Y[i]


def test_a_data_set_of_ours_stays_as_it_is():
    digits = data.load("digits")
    assert as_dataset(digits) is digits


def test_the_fingerprint_sees_each_pixel_and_label():
    pairs = [(X[0].clone(), 0), (X[1], 1)]
    before = as_dataset(pairs, num_classes=2).fingerprint()
    assert as_dataset(list(pairs), num_classes=2).fingerprint() == before
    pairs[0][0][0, 0, 0] = 0.5
    assert as_dataset(pairs, num_classes=2).fingerprint() != before


def test_pictures_become_tensors_of_levels():
    grey = Image.fromarray(np.array([[0, 51], [102, 255]], np.uint8))
    found = as_dataset([(grey, 0)], num_classes=1, levels=255)
    image, _ = found[0]
    assert image.shape == (1, 2, 2)
    assert torch.equal(image * 255, torch.tensor([[[0.0, 51], [102, 255]]]))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(X[0], 0)])


def test_a_loader_is_refused_with_the_reason():
    with pytest.raises(TypeError, match=r"must find an image by its number.*pass its `dataset`"):
        as_dataset(DataLoader(TorchTensors(X, Y)), num_classes=2)
    with pytest.raises(TypeError, match=r"Stream does not: make it a list"):
        as_dataset(Stream(), num_classes=2)


def test_the_number_of_classes_must_be_known():
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        as_dataset(TorchTensors(X, Y))
