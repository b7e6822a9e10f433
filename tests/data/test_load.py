import numpy as np
import pytest
from PIL import Image

from tcertify import data
from tcertify.data import cifar10


def test_the_digits_need_no_folder():
    assert data.load("digits").name == "digits/test"
    assert data.load("digits", "train").name == "digits/train"


def test_cifar10_and_imagenet_are_read_from_the_folder_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", 2)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes(2 * cifar10.RECORD))
    assert data.load("cifar10", "test", tmp_path).name == "cifar10/test"
    (tmp_path / "train" / "n01").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "train" / "n01" / "a.png")
    assert data.load("imagenet", "train", tmp_path).name == "imagenet/train"


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_the_folder_must_be_named(name):
    with pytest.raises(ValueError, match=rf"`root` must name the folder that holds {name}, got"):
        data.load(name)


def test_an_unknown_name_is_an_error_that_says_what_exists():
    with pytest.raises(ValueError, match=r"one of digits, cifar10, imagenet, got 'mnist'\."):
        data.load("mnist")
