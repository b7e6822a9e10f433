import numpy as np
import pytest
import torch
from PIL import Image

from tcertify.data import folders


def picture(path, width=6, height=4, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_images_are_read_as_they_are_and_numbered_by_class_folder(tmp_path):
    first = picture(tmp_path / "cats" / "1.png", seed=1)
    picture(tmp_path / "ants" / "1.png", seed=2)
    data = folders.load(tmp_path)
    assert data.classes == ("ants", "cats")
    assert (len(data), data.num_classes, data.levels) == (2, 2, 255)
    image, label = data[1]
    assert label == 1
    expected = torch.from_numpy(first.transpose(2, 0, 1).astype(np.float32)) / 255
    assert torch.equal(image, expected)


@pytest.mark.parametrize(
    ("folder", "split"), [("val", "test"), ("test", "test"), ("train", "train")]
)
def test_a_split_may_have_a_folder_of_its_own(tmp_path, folder, split):
    picture(tmp_path / folder / "cats" / "1.png")
    data = folders.load(tmp_path, split)
    assert data.name == f"{tmp_path.name}/{split}"
    assert data.classes == ("cats",)


def test_scaling_and_cutting_are_asked_for(tmp_path):
    picture(tmp_path / "cats" / "1.png", 60, 40)
    assert folders.load(tmp_path)[0][0].shape == (3, 40, 60)
    assert folders.load(tmp_path, resize=20)[0][0].shape == (3, 20, 30)
    assert folders.load(tmp_path, resize=20, crop=16)[0][0].shape == (3, 16, 16)
    prints = {
        folders.load(tmp_path, resize=resize, crop=crop).fingerprint()
        for resize in (None, 20)
        for crop in (None, 16)
    }
    assert len(prints) == 4


def test_an_image_too_small_to_cut_is_refused(tmp_path):
    picture(tmp_path / "cats" / "1.png", 6, 4)
    with pytest.raises(ValueError, match=r"1\.png .*6x4 pixels are too few to cut 5"):
        folders.load(tmp_path, crop=5)[0]


def test_a_long_thin_picture_is_not_scaled_to_gigabytes(tmp_path):
    picture(tmp_path / "cats" / "1.png", 1, 60_000)
    with pytest.raises(ValueError, match=r"1x60000 pixels would become"):
        folders.load(tmp_path, resize=256)[0]


def test_sixteen_bits_are_refused_not_clipped(tmp_path):
    (tmp_path / "cats").mkdir()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "cats" / "1.png")
    with pytest.raises(ValueError, match="it has more than 8 bits per channel"):
        folders.load(tmp_path)[0]


def test_only_jpeg_and_png_are_decoded_whatever_the_name_says(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match=r"1\.jpg .* is no image to be read: cannot identify"):
        folders.load(tmp_path)[0]


def test_a_folder_without_images_says_how_they_should_lie(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder of JPEG or PNG files for each class"):
        folders.load(tmp_path)
