import io
import zipfile

import numpy as np
import pytest
import torch

from tcertify.data import arrays

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)


def test_bytes_are_images_of_255_levels():
    data = arrays.from_arrays(PIXELS, [1, 0])
    assert (len(data), data.num_classes, data.levels) == (2, 2, 255)
    image, label = data[1]
    assert torch.equal(image, torch.from_numpy(PIXELS[1].astype(np.float32)) / 255)
    assert label == 0


def test_grey_images_get_one_channel_and_floats_have_no_levels():
    data = arrays.from_arrays(torch.rand(4, 5, 6), torch.tensor([0, 2, 1, 0]))
    assert data[0][0].shape == (1, 5, 6)
    assert (data.num_classes, data.levels, data.notes) == (3, None, ())


def test_float64_is_rounded_with_a_word():
    exact = arrays.from_arrays(np.full((1, 1, 2, 2), 0.5), [0])
    assert exact.notes == ()
    rounded = arrays.from_arrays(np.full((1, 1, 2, 2), 0.1), [0], num_classes=2)
    assert rounded[0][0].dtype == torch.float32
    assert rounded.notes == ("The images were torch.float64 and were rounded to float32.",)


def test_big_endian_arrays_are_read():
    data = arrays.from_arrays(np.full((1, 2, 2), 0.25, ">f4"), np.array([1], ">i8"))
    assert float(data[0][0].max()) == 0.25


@pytest.mark.parametrize(
    ("scaled", "advice"),
    [
        (lambda x: x * 255, "like bytes: divide them by 255"),
        (lambda x: 2 * x - 1, r"map them by \(x \+ 1\) / 2"),
        (lambda x: (x - 0.5) / 0.2, r"put `tcertify\.classifiers\.Standardise"),
    ],
)
def test_images_outside_the_unit_interval_are_refused_with_what_to_do(scaled, advice):
    x = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 1, 2, 2)
    with pytest.raises(ValueError, match=rf"`x` lies outside \[0, 1\]: .*{advice}"):
        arrays.from_arrays(scaled(x), [0, 1])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (PIXELS, [0], r"`y` must hold one label for each of 2 images, got shape \(1,\)"),
        (PIXELS, [0, -1], "`y` must be whole numbers from 0"),
        (PIXELS, [0.0, 1.5], "`y` must be whole numbers from 0"),
        (PIXELS.astype(np.int64), [0, 1], "`x` must be uint8 or floats in"),
        (np.zeros((0, 1, 2, 2), np.uint8), [], r"`x` must hold images"),
    ],
)
def test_arrays_that_are_no_images_with_labels_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        arrays.from_arrays(x, y)


def test_text_is_no_image():
    with pytest.raises(TypeError, match="`x` must be numbers"):
        arrays.from_arrays(np.array([["a", "b"]]), [0])


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("x_test", "y_test")])
def test_an_npz_file_is_read_under_the_usual_names(tmp_path, names):
    np.savez(tmp_path / "a.npz", **{names[0]: PIXELS, names[1]: np.array([0, 1])})
    data = arrays.load(tmp_path / "a.npz")
    assert data.name == "a.npz/test"
    assert data.fingerprint() == arrays.load(tmp_path / "a.npz").fingerprint()
    assert torch.equal(data.images, torch.from_numpy(PIXELS))


def test_the_training_split_has_its_own_arrays(tmp_path):
    y = np.array([0, 1])
    np.savez(tmp_path / "a.npz", x_test=PIXELS, y_test=y, x_train=PIXELS[::-1], y_train=y[::-1])
    assert arrays.load(tmp_path / "a.npz", "train")[0][1] == 1
    assert arrays.load(tmp_path / "a.npz", "test")[0][1] == 0


def test_other_names_are_refused_with_those_that_are_there(tmp_path):
    np.savez(tmp_path / "a.npz", pictures=PIXELS)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as images: it must hold x_test"):
        arrays.load(tmp_path / "a.npz")


def hostile(path, kind):
    np.savez(path, x=PIXELS, y=np.array([0, 1]))
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        path.write_bytes(b"<html></html>")
    elif kind == "objects":
        np.savez(path, x=np.array([{"a": 1}, {}], dtype=object), y=np.array([0, 1]))
    elif kind == "huge":  # a header that promises 2**50 images
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": "|u1", "fortran_order": False, "shape": (2**50, 3, 2, 2)}
        )
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", head.getvalue() + PIXELS.tobytes())
            archive.writestr("y.npy", head.getvalue())
    elif kind == "flipped":
        at = content.index(PIXELS.tobytes())
        path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])


@pytest.mark.parametrize("kind", ["truncated", "empty", "foreign", "objects", "huge", "flipped"])
def test_a_damaged_or_hostile_npz_is_one_sentence(tmp_path, kind):
    path = tmp_path / "a.npz"
    hostile(path, kind)
    with pytest.raises(ValueError, match=r"^DATASET .*a\.npz (cannot be read as images|holds one)"):
        arrays.load(path)


def test_an_npz_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.npz does not exist"):
        arrays.load(tmp_path / "a.npz")
