import sys

import pytest
import torch

from tcertify.data import digits


def test_images_are_float32_in_the_unit_interval_with_labels_of_ten_classes():
    for split in ("train", "test"):
        data = digits.load(split)
        assert data.images.dtype == torch.float32
        assert data.images.shape == (len(data), 1, 8, 8)
        assert (data.images.min(), data.images.max()) == (0, 1)
        assert data.labels.unique().tolist() == list(range(10))
        assert data.num_classes == 10
        assert data.name == f"digits/{split}"


def test_an_item_is_an_image_and_a_plain_int():
    image, label = digits.load("train")[3]
    assert image.shape == (1, 8, 8)
    assert type(label) is int


def test_the_splits_share_no_image_and_together_hold_every_one():
    train, test = digits.load("train"), digits.load("test")
    assert (len(train), len(test)) == (1433, 364)
    everything = torch.cat([train.images, test.images]).flatten(1)
    assert len(everything) == 1797
    assert len(torch.unique(everything, dim=0)) == 1797


def test_every_class_has_a_fifth_of_its_images_in_the_test_split():
    train, test = (digits.load(split).labels.bincount() for split in ("train", "test"))
    assert torch.equal(test, -(-(train + test) // 5))


def test_the_fingerprint_is_the_same_every_time_and_differs_between_splits():
    assert digits.load("test").fingerprint() == digits.load("test").fingerprint()
    assert digits.load("test").fingerprint() != digits.load("train").fingerprint()


def test_one_changed_pixel_changes_the_fingerprint():
    data = digits.load("test")
    before = data.fingerprint()
    data.images[0, 0, 0, 0] += 1
    assert data.fingerprint() != before


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"`split` must be 'train' or 'test', got 'val'\."):
        digits.load("val")


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        digits.load("test")
