"""read_checkpoint and load_published: finite weights that fit, or a ValueError; no code is run."""

import io
import json
import warnings
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from adre_train import checkpoints
from tcertify.classifiers.checkpoints import load_published, read_checkpoint
from tests.fuzz.mutations import NUMBERS, damaged, values


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


STATE = network().state_dict()
WRAPPED = {"arch": "resnet50", "state_dict": {f"module.{n}": t for n, t in STATE.items()}}
TORCH = saved(WRAPPED)
LEGACY = saved(WRAPPED, _use_new_zipfile_serialization=False)
RECORD = {"recipe": {"architecture": "resnet50"}, "data": {"num_classes": 10}}


def repacked(content, changed):
    """The zip file of torch with other bytes for its pickle, and checksums that fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as there, zipfile.ZipFile(out, "w") as here:
        for name in there.namelist():
            here.writestr(name, changed if name.endswith("data.pkl") else there.read(name))
    return out.getvalue()


def pickled(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        (name,) = (name for name in file.namelist() if name.endswith("data.pkl"))
        return file.read(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


def read(path):
    """Read a checkpoint, and load it; what is loaded is finite, and all of it or nothing is."""
    try:
        read_checkpoint(path)
    except ValueError as error:
        assert str(path.with_suffix("")) in str(error)
        return
    model = network()
    try:
        load_published(model, path)
    except ValueError:
        state = model.state_dict()
        assert all(torch.equal(state[name], there) for name, there in STATE.items())
    else:
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@given(
    damaged(TORCH)
    | damaged(LEGACY)
    | damaged(pickled(TORCH)).map(lambda changed: repacked(TORCH, changed))
)
def test_a_damaged_file_of_torch_is_weights_or_refused(folder, content):
    path = folder / "a.pth.tar"
    path.write_bytes(content)
    read(path)


@given(damaged(save(STATE)) | damaged(save(STATE), NUMBERS))
def test_a_damaged_file_of_safetensors_is_weights_or_refused(folder, content):
    path = folder / "weights.safetensors"
    path.write_bytes(content)
    read(path)


@given(
    damaged(json.dumps({"record": RECORD}).encode())
    | st.builds(
        lambda name, value: json.dumps({"record": RECORD | {name: value}}).encode(),
        st.sampled_from([*RECORD]),
        values() | st.dictionaries(st.sampled_from(["architecture", "num_classes"]), values()),
    )
)
def test_a_damaged_record_names_a_network_or_is_refused(folder, content):
    path = folder / "named.safetensors"
    path.write_bytes(save(STATE))
    path.with_suffix(".json").write_bytes(content)
    try:
        found = read_checkpoint(path)
    except ValueError as error:
        assert "is no record of adre-train's" in str(error)
        return
    assert isinstance(found.architecture, str)
    assert 2 <= found.num_classes <= 2**24


@pytest.fixture(scope="module")
def two(folder):
    for epoch in (1, 2):
        weights = {"w": torch.full((3, 2), float(epoch))}
        checkpoints.write(folder, (epoch, 0), weights, {}, {"note": epoch})
    return {path: path.read_bytes() for path in sorted(folder.glob("epoch-00002*"))}


@given(st.data())
def test_of_two_checkpoints_a_damaged_one_is_passed_over(two, data):
    path, content = data.draw(st.sampled_from([*two.items()]))
    path.write_bytes(data.draw(damaged(content) | damaged(content, NUMBERS)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = checkpoints.latest(path.parent)
    path.write_bytes(content)
    assert torch.equal(found.weights["w"], torch.full((3, 2), float(found.record["note"])))
    assert found.record["note"] == found.record["epoch"]
