"""Images: exact copies of what the data set gives, and what is wrong is named."""

import pytest
import torch

from tcertify.data.dataset import TensorDataset
from tcertify.errors import StoppedError, VoidCertificateError
from tests.tiny import CLASSES, certify, images, rows_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.run"


def with_image(image, at=2):
    items = [[i, int(label)] for i, label in map(images().__getitem__, range(4))]
    items[at][0] = image
    return [tuple(item) for item in items]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 2, 2, dtype=torch.uint8), "must be floats in"),
        (torch.zeros(1, 2, 2, dtype=torch.complex64), "must be floats in"),
        ([[0.5]], "must be a tensor or an array, got list"),
        (torch.tensor(0.5), "must be one image"),
        (torch.zeros(4, 1, 2, 2), "must be one image"),
        (torch.zeros(1, 2, 3), "that of the first"),
    ],
)
def test_an_image_that_is_not_what_it_should_be_fails_and_the_run_goes_on(path, image, message):
    table = certify(path, data=with_image(image), num_classes=CLASSES)
    assert table.failed.tolist() == [False, False, True, False]
    assert message in table.errors[2]


def test_float64_is_rounded_and_the_run_says_so_once(path):
    data = [(image.double() * 0.7, label) for image, label in map(images().__getitem__, range(4))]
    table = certify(path, data=data, num_classes=CLASSES)
    assert not table.failed.any()
    assert [*table.warnings].count("Images were float64 and were rounded to float32.") == 1


@pytest.mark.parametrize(
    ("pixel", "advice"),
    [(200, "divide them by 255"), (-0.01, r"map them by \(x \+ 1\) / 2"), (1.01, "Standardise")],
)
def test_an_image_outside_the_range_is_an_error_that_names_it_unless_it_is_allowed(
    path, pixel, advice
):
    data = with_image(torch.full((1, 2, 2), float(pixel)))
    with pytest.raises(VoidCertificateError, match=rf"Image 2 lies outside \[0, 1\]: .*{advice}"):
        certify(path, data=data, num_classes=CLASSES)
    table = certify(path, data=data, num_classes=CLASSES, allow=["range"], overwrite=True)
    assert not table.failed.any()


@pytest.mark.parametrize("label", [3, -1, 1.7, "cat", None, True])
def test_a_label_that_is_none_of_the_classes_makes_its_image_fail(path, label):
    data = [images()[i] for i in range(3)]
    data[1] = data[1][0], label
    table = certify(path, data=data, num_classes=CLASSES)
    assert table.failed.tolist() == [False, True, False]
    assert "`label` must be" in table.errors[1]


def test_three_images_in_a_row_that_are_none_stop_a_run_before_it_begins(path):
    data = [(torch.zeros(1, 2, 2, dtype=torch.uint8), 0)] * 5
    with pytest.raises(StoppedError, match="before the run: 3 images in a row failed, image 2"):
        certify(path, data=data, num_classes=CLASSES)
    assert [*path.parent.iterdir()] == []


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.clone])
def test_a_data_set_may_use_its_buffer_again(tmp_path, kind):
    class Reusing(list):
        buffer = kind(torch.empty(1, 2, 2))

        def __getitem__(self, at):
            self.buffer[:] = kind(super().__getitem__(at)[0])
            return self.buffer, super().__getitem__(at)[1]

    plain = [images()[i] for i in range(12)]
    certify(tmp_path / "a.run", data=plain, num_classes=CLASSES)
    certify(tmp_path / "b.run", data=Reusing(plain), num_classes=CLASSES)
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.double(),
        lambda x: x.permute(0, 2, 1).contiguous().permute(0, 2, 1),
        lambda x: x.numpy(),
    ],
)
def test_images_of_the_same_values_give_the_same_rows(tmp_path, convert):
    plain = [images()[i] for i in range(3)]
    certify(tmp_path / "a.run", data=plain, num_classes=CLASSES)
    converted = [(convert(image), label) for image, label in plain]
    certify(tmp_path / "b.run", data=converted, num_classes=CLASSES)
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


def test_an_image_with_nan_is_invalid_and_the_run_goes_on(path):
    data = with_image(torch.full((1, 2, 2), torch.nan))
    table = certify(path, data=data, num_classes=CLASSES)
    assert table.failed.tolist() == [False, False, True, False]
    assert (table.predicted[2], table.radius[2], table.n[2]) == (-1, 0, 0)
    assert rows_of(path)[2].error == "its pixels are NaN or infinite"


def test_a_data_set_that_fails_for_one_image_makes_it_invalid(path):
    class Torn(list):
        def __getitem__(self, at):
            if at == 1:
                raise OSError("truncated file")
            return super().__getitem__(at)

    table = certify(path, data=Torn(with_image(torch.zeros(1, 2, 2))), num_classes=CLASSES)
    assert table.failed.tolist() == [False, True, False, False]
    assert rows_of(path)[1].error == "OSError: truncated file"


def test_uint8_images_of_a_tensor_data_set_are_scaled_exactly(path):
    pixels = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8)
    data = TensorDataset("bytes", CLASSES, pixels, torch.zeros(3, dtype=torch.int64))
    assert len(certify(path, data=data)) == 3
