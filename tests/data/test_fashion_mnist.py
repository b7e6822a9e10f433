import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from tcertify import data
from tcertify.data import fashion_mnist

COUNTS = {"train": 7, "test": 5}


def pixels(split):
    rng = np.random.default_rng(COUNTS[split])
    return rng.integers(0, 256, (COUNTS[split], 28, 28), np.uint8)


def labels(split):
    return np.arange(COUNTS[split], dtype=np.uint8)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def files():
    return {
        f"{fashion_mnist.PREFIXES[split]}-{name}": idx(array(split))
        for split in COUNTS
        for name, array in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", labels))
    }


@pytest.fixture(autouse=True)
def _small_files(monkeypatch, tmp_path):
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files().items()}
    monkeypatch.setattr(fashion_mnist, "COUNTS", COUNTS)
    monkeypatch.setattr(fashion_mnist, "DIGESTS", digests)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")


@pytest.fixture(params=[False, True], ids=["plain", "gz"])
def root(request, tmp_path):
    for name, content in files().items():
        if request.param:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_those_of_the_files(root, split):
    loaded = fashion_mnist.load(split, root)
    assert loaded.name == f"fashion-mnist/{split}"
    assert (len(loaded), loaded.num_classes) == (COUNTS[split], 10)
    image, label = loaded[3]
    assert image.shape == (1, 28, 28)
    assert torch.equal(image, torch.from_numpy(pixels(split)[3][None]).float() / 255)
    assert label == 3


def test_debian_s_package_is_found_by_itself(root, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", root)
    found = data.load("fashion-mnist", "test")
    assert found.fingerprint() == fashion_mnist.load("test", root).fingerprint()


def test_what_is_missing_is_named_with_where_to_obtain_it(root):
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte is not in .*debian.*pack"):
        fashion_mnist.load("test")
    for path in root.glob("t10k-labels*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte is not in .*zalando"):
        fashion_mnist.load("test", root)


NAME = "t10k-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "is no IDX file"),
        (lambda content: content[:9], "is no IDX file"),
        (lambda content: content[:-1], "is truncated: it must hold 3,936 bytes"),
        (lambda content: content + b"\0", "is longer than its header says"),
        (lambda content: idx(labels("test")), "is no IDX file"),
        (lambda content: idx(pixels("train")), "is no IDX file"),
        (lambda content: b"\x00\x00\x0d\x03" + content[4:], "is no IDX file"),
        (lambda content: content[:4] + b"\xff" * 12 + content[16:], "is no IDX file"),
        (
            lambda content: content[:-1] + b"\x01",
            "is not Fashion-MNIST's: it is damaged, or another data set's .* MNIST's",
        ),
    ],
    ids=["empty", "header", "short", "long", "labels", "other-split", "floats", "huge", "changed"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, change, message, packed):
    content = change(files()[NAME])
    path = tmp_path / (f"{NAME}.gz" if packed else NAME)
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=rf"{path.name} \([\d,]+ bytes\) {message}"):
        fashion_mnist.load("test", tmp_path)


def test_a_packed_file_that_would_fill_the_memory_is_refused_early(tmp_path):
    head = files()[NAME][:16]
    (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress(head + bytes(2**24)))
    with pytest.raises(ValueError, match="is longer than its header says"):
        fashion_mnist.load("test", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_archive_is_named_with_its_size(tmp_path, damage):
    content = gzip.compress(files()[NAME])
    flipped = content[:200] + bytes([content[200] ^ 0x55]) + content[201:]
    changed = {"cut": content[:-20], "flipped": flipped, "foreign": b"PK\x03\x04" + content}
    path = tmp_path / f"{NAME}.gz"
    path.write_bytes(changed[damage])
    with pytest.raises(
        ValueError, match=rf"{path.name} \([\d,]+ bytes\) is (truncated|damaged|not)"
    ):
        fashion_mnist.load("test", tmp_path)


def test_a_split_is_train_or_test(tmp_path):
    with pytest.raises(ValueError, match="`split` must be 'train' or 'test', got 'val'"):
        fashion_mnist.load("val", tmp_path)
