import numpy as np
import pytest
import torch
from PIL import Image

from adre_train.augment import Augmented, crop, resized_crop
from tcertify.data import digits, imagenet


def test_without_augmentation_the_images_are_the_data_s():
    data = digits.load("test")
    image, label = Augmented(data, "none", seed=0)[0, 5]
    assert torch.equal(image, data[5][0])
    assert label == data[5][1]


def test_an_image_depends_on_seed_epoch_and_number_and_on_nothing_else():
    data = digits.load("test")

    def images(seed, epoch):
        augmented = Augmented(data, "crop-flip", seed)
        return torch.stack([augmented[epoch, i][0] for i in range(20)])

    first = images(seed=0, epoch=0)
    assert torch.equal(images(seed=0, epoch=0), first)
    assert not torch.equal(images(seed=0, epoch=1), first)
    assert not torch.equal(images(seed=1, epoch=0), first)
    alone = Augmented(data, "crop-flip", seed=0)[0, 13][0]
    assert torch.equal(alone, first[13])


def test_half_of_the_images_are_mirrored():
    data = digits.load("train")
    augmented = Augmented(data, "crop-flip", seed=0)
    upright = 0
    for i in range(400):
        image, original = augmented[0, i][0], data[i][0]
        shifts = [
            torch.nn.functional.pad(original, [4] * 4)[:, t : t + 8, left : left + 8]
            for t in range(9)
            for left in range(9)
        ]
        as_it_was = any(torch.equal(image, shifted) for shifted in shifts)
        mirrored = any(torch.equal(image, shifted.flip(-1)) for shifted in shifts)
        assert as_it_was or mirrored
        upright += as_it_was
    assert 150 < upright < 250


def test_a_crop_is_a_shift_over_black_by_at_most_the_border():
    image = torch.zeros(1, 9, 9)
    image[0, 4, 4] = 1
    rng = np.random.default_rng(0)
    places = {tuple(int(v) for v in crop(image, rng).nonzero()[0, 1:]) for _ in range(2000)}
    assert places == {(row, column) for row in range(9) for column in range(9)}


@pytest.mark.parametrize("size", [(300, 200), (2000, 20), (20, 2000), (1, 1)])
def test_a_resized_crop_is_a_square_from_inside_the_picture(size):
    rng = np.random.default_rng(0)
    picture = Image.new("RGB", size, (255, 255, 255))
    for _ in range(20):
        part = resized_crop(picture, rng)
        assert part.size == (224, 224)
        assert np.asarray(part).min() == 255


@pytest.mark.parametrize("how", ["none", "crop-flip", "resized-crop-flip"])
def test_folders_of_images_are_augmented_to_224_pixels(tmp_path, how):
    folder = tmp_path / "train" / "n01"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    augmented = Augmented(imagenet.load("train", tmp_path), how, seed=0)
    image, label = augmented[0, 0]
    assert image.shape == (3, 224, 224)
    assert label == 0
    assert torch.equal(augmented[0, 0][0], image)


def test_a_resized_crop_of_what_is_no_folder_of_images_is_refused():
    with pytest.raises(ValueError, match=r"resized-crop-flip is for image folders, not digits/t"):
        Augmented(digits.load("test"), "resized-crop-flip", seed=0)
