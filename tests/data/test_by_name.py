import sys
from types import ModuleType

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
    with pytest.raises(ValueError, match=r"one of digits, fashion-mnist, cifar10, .*'mnist'\."):
        data.load("mnist")


def test_files_and_folders_are_data_sets(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 1, 2, 2), np.uint8), y=np.array([0, 1]))
    assert len(data.load(str(tmp_path / "a.npz"))) == 2
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "pictures" / "cats" / "a.png")
    assert data.load(str(tmp_path / "pictures"), crop=4)[0][0].shape == (3, 4, 4)
    with pytest.raises(ValueError, match="`resize` and `crop` are for a folder of images"):
        data.load(str(tmp_path / "a.npz"), crop=4)


def test_a_function_of_the_users_is_called_with_the_split_if_it_takes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets_by_user.py").write_text(
        "import numpy as np\n"
        "def pair(split, size=1):\n"
        "    return np.zeros((size, 2, 2), np.uint8), [int(split == 'train')] * size\n"
        "def fixed(): return np.zeros((3, 2, 2), np.uint8), [0, 1, 0]\n"
    )
    train = data.load("sets_by_user:pair(size=2)", "train")
    assert (len(train), train[0][1], train.name) == (2, 1, "sets_by_user:pair(size=2)/train")
    assert len(data.load("sets_by_user:fixed")) == 3


class FakeMnist:
    def __init__(self, root, train=True):
        self.classes = ["0", "1"]
        self.items = [(Image.fromarray(np.full((2, 2), 255, np.uint8)), int(train))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_a_data_set_of_torchvisions_is_read_from_its_folder(tmp_path, monkeypatch):
    torchvision, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    datasets.FakeMnist = FakeMnist
    torchvision.datasets = datasets
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    found = data.load("torchvision:FakeMnist", "test", tmp_path)
    assert (found.levels, found.num_classes, found[0][1]) == (255, 2, 0)
    assert float(found[0][0].min()) == 1
    with pytest.raises(ValueError, match=r"torchvision\.datasets has no Other"):
        data.load("torchvision:Other", "test", tmp_path)


def test_torchvision_that_cannot_be_imported_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match="torchvision cannot be imported"):
        data.load("torchvision:MNIST", "test", ".")
