""".npz files: images in [0, 1] with labels, or a ValueError; of a damaged file, the same ones."""

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcertify.data import arrays
from tests.fuzz.mutations import damaged

X = np.random.default_rng(0).integers(0, 256, (6, 4, 4), np.uint8)
Y = np.arange(6) % 3


def saved(write):
    file = io.BytesIO()
    write(file, x=X, y=Y)
    return file.getvalue()


PLAIN, PACKED = saved(np.savez), saved(np.savez_compressed)


def members():
    with zipfile.ZipFile(io.BytesIO(PLAIN)) as file:
        return {name: file.read(name) for name in file.namelist()}


def repacked(name, content):
    """An archive with other bytes for a member, and checksums that fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for member, there in members().items():
            file.writestr(member, content if member == name else there)
    return out.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays") / "a.npz"


def loaded(path, content):
    path.write_bytes(content)
    try:
        return arrays.load(path)
    except ValueError as error:
        assert str(path) in str(error)
        return None


@given(damaged(PLAIN) | damaged(PACKED))
def test_a_damaged_archive_holds_the_same_images_or_is_refused(path, content):
    found = loaded(path, content)
    if found is not None:
        assert torch.equal(found.images[:, 0], torch.from_numpy(X))
        assert torch.equal(found.labels, torch.from_numpy(Y))


@given(
    st.sampled_from([*members()]).flatmap(
        lambda name: damaged(members()[name]).map(lambda content: repacked(name, content))
    )
)
def test_a_changed_member_is_images_with_labels_or_is_refused(path, content):
    found = loaded(path, content)
    if found is not None:
        assert len(found.images) == len(found.labels) > 0
        assert int(found.labels.min()) >= 0
        assert found.images.dtype in (torch.uint8, torch.float32)
        values = found.images.double().nan_to_num()
        assert ((values >= 0) & (values <= 255)).all()
