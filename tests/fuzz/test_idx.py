"""Fashion-MNIST's IDX files: the published images, or a ValueError."""

import gzip
import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcertify.data import fashion_mnist
from tests.data.test_fashion_mnist import COUNTS, files, labels, pixels
from tests.fuzz.mutations import damaged

FILES = {name: content for name, content in files().items() if name.startswith("t10k")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "COUNTS", COUNTS)
        patch.setattr(fashion_mnist, "DIGESTS", digests)
        yield tmp_path_factory.mktemp("idx")


@given(st.data())
def test_a_damaged_file_holds_the_published_images_or_is_refused(root, data):
    damage = data.draw(st.sampled_from([*FILES]))
    for name, content in FILES.items():
        packed = gzip.compress(content, mtime=0)
        (root / f"{name}.gz").write_bytes(packed)
        (root / name).unlink(missing_ok=True)
        if name == damage and data.draw(st.booleans()):
            (root / name).write_bytes(data.draw(damaged(content)))
        elif name == damage:
            (root / f"{name}.gz").write_bytes(data.draw(damaged(packed)))
    try:
        found = fashion_mnist.load("test", root)
    except ValueError as error:
        assert damage in str(error)
        return
    assert torch.equal(found.images[:, 0], torch.from_numpy(pixels("test")))
    assert found.labels.tolist() == labels("test").tolist()
