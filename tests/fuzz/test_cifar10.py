"""CIFAR-10: of a damaged file the same images, or an error; of a changed one bytes and labels."""

import gzip
import io
import tarfile
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcertify.data import cifar10
from tests.data.test_cifar10 import binary, images, python
from tests.fuzz.mutations import damaged

N = 20
(BINARY,), (PYTHON,) = cifar10.BINARY["test"], cifar10.PYTHON["test"]


@pytest.fixture(scope="module", autouse=True)
def _small_files():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "IMAGES_PER_FILE", N)
        yield


def tar(name, content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@cache
def archives():
    return {
        "cifar-10-binary.tar.gz": tar(BINARY, binary(5)),
        "cifar-10-python.tar.gz": tar(PYTHON, python(5)),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cifar10")


def loaded(root, name, content):
    """Load a folder that holds one file; its records, where it is not refused."""
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        (records,) = cifar10.load("test", root).records
        return np.array(records)
    except (ValueError, FileNotFoundError) as error:
        assert str(path) in str(error)
        return None
    finally:
        path.unlink()
        if path.parent != root:
            path.parent.rmdir()


@given(st.data())
def test_a_damaged_archive_holds_the_same_images_or_is_refused(root, data):
    name, content = data.draw(st.sampled_from([*archives().items()]))
    found = loaded(root, name, data.draw(damaged(gzip.compress(content, 1, mtime=0))))
    if found is not None:
        pixels, labels = images(5)
        np.testing.assert_array_equal(found, np.hstack([labels[:, None], pixels]))


@given(st.data())
def test_what_is_changed_in_an_archive_is_bytes_with_labels_or_is_refused(root, data):
    name, content = data.draw(st.sampled_from([*archives().items()]))
    found = loaded(root, name, gzip.compress(data.draw(damaged(content[:1500])) + content[1500:]))
    assert found is None or (found.shape == (N, 3073) and found[:, 0].max() < 10)


@given(st.data())
def test_a_changed_file_is_bytes_with_labels_or_is_refused(root, data):
    name, content = data.draw(st.sampled_from([(BINARY, binary(5)), (PYTHON, python(5))]))
    start = data.draw(st.sampled_from([0, -300]))  # where a pickle has its structure
    changed = data.draw(damaged(content[start:][:300]))
    changed = content[:start] + changed if start else changed + content[300:]
    found = loaded(root, name, changed)
    assert found is None or (found.shape == (N, 3073) and found[:, 0].max() < 10)
