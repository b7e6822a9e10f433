import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tcertify.data import imagenet


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for seed, name in enumerate(["n02", "n01"]):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            picture(300, 260, seed).save(folder / "b.png")
            picture(260, 300, seed + 10).save(folder / "a.JPEG", quality=95)
            (folder / "notes.txt").write_text("passed over")
    return tmp_path


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_numbered_by_sorted_folder_and_file(root, split):
    data = imagenet.load(split, root)
    assert data.num_classes == 2
    assert data.name == f"imagenet/{split}"
    assert len(data) == 4
    assert [data[i][1] for i in range(4)] == [0, 0, 1, 1]
    assert [path.parent.name + "/" + path.name for path in data.paths] == [
        "n01/a.JPEG",
        "n01/b.png",
        "n02/a.JPEG",
        "n02/b.png",
    ]


def test_the_centre_of_the_scaled_image_is_read(root):
    size = (256, 256)
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[16:240, 16:240] = 255
    Image.fromarray(pixels).save(root / "val" / "n01" / "b.png")
    image, _ = imagenet.load("test", root)[1]
    assert image.shape == (3, 224, 224)
    assert image.dtype == torch.float32
    assert torch.equal(image, torch.ones(3, 224, 224))


@pytest.mark.parametrize("size", [(224, 1000), (10, 10), (257, 256)])
def test_every_size_is_scaled_to_224(root, size):
    picture(*size).save(root / "val" / "n01" / "b.png")
    image, _ = imagenet.load("test", root)[1]
    assert image.shape == (3, 224, 224)
    assert 0 <= image.min() < image.max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_other_colour_spaces_become_rgb(root, mode):
    picture(256, 256).convert(mode).save(root / "val" / "n01" / "a.JPEG")
    image, _ = imagenet.load("test", root)[0]
    assert image.shape == (3, 224, 224)


def test_the_fingerprint_tells_another_file_or_size(root):
    before = imagenet.load("test", root).fingerprint()
    assert imagenet.load("test", root).fingerprint() == before
    assert imagenet.load("train", root).fingerprint() != before
    with (root / "val" / "n01" / "b.png").open("ab") as file:
        file.write(b"\0")
    assert imagenet.load("test", root).fingerprint() != before


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_a_damaged_file_is_named_with_its_bytes(root, content):
    path = root / "val" / "n01" / "a.JPEG"
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    size = path.stat().st_size
    with pytest.raises(ValueError, match=rf"a\.JPEG \({size:,} bytes\) is no image to be read"):
        imagenet.load("test", root)[0]


def test_a_decompression_bomb_is_refused(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.raises(ValueError, match=r"is no image to be read: .*pixels"):
        imagenet.load("test", root)[0]


@pytest.mark.parametrize("made", ["nothing", "val", "val/n01"])
def test_absent_images_say_how_they_should_lie(tmp_path, made):
    (tmp_path / made).mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=r"a folder of JPEG files for each class.*n01440764"
    ):
        imagenet.load("test", tmp_path)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`split` must be 'train' or 'test', got 'val'\."):
        imagenet.load("val", tmp_path)


def test_without_pillow_the_message_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pillow"):
        imagenet.load("test", root)
