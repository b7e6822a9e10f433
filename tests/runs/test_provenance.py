"""Provenance: a run goes on only with what it was made with."""

from dataclasses import replace

import pytest
import torch

from tcertify.classifiers import Execution
from tcertify.errors import RunFileError
from tcertify.runs import verify_run
from tcertify.runs.file import RunFile, RunWriter
from tests.tiny import CLASSES, Network, certify, images, rows_of

RADII = (0.0, 0.25, 0.5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.run"


def other_network():
    model = Network()
    model.linear.bias.data[0] += 0.01
    return model


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"sigma": 0.25}, "sigma"),
        ({"n": 600}, "looks"),
        ({"n0": 30}, "n0"),
        ({"alpha": 0.01}, "alpha"),
        ({"seed": 1}, "seed"),
        ({"method": "joint"}, "method"),
        ({"radii": RADII}, "radii"),
        ({"execution": Execution(dtype="bfloat16")}, "dtype"),
        ({"execution": Execution(channels_last=True)}, "channels_last"),
        ({"execution": Execution(tf32=True)}, "tf32"),
        ({"model": other_network()}, "model"),
        ({"data": images(13)}, "data"),
    ],
)
def test_a_resume_that_differs_is_refused_and_named(path, change, name):
    certify(path, indices=range(2))
    before = rows_of(path)
    with pytest.raises(RunFileError, match=f"`{name}` is .* there and .* here"):
        certify(path, resume=True, **change)
    assert rows_of(path) == before


def test_a_data_set_without_a_fingerprint_is_told_by_its_images(path):
    items = [(image.numpy(), int(label)) for image, label in map(images().__getitem__, range(4))]
    certify(path, data=items, num_classes=CLASSES)
    certify(path, data=items, num_classes=CLASSES, resume=True)
    items[3][0][0, 0, 0] += 0.01
    with pytest.raises(RunFileError, match="`data` is"):
        certify(path, data=items, num_classes=CLASSES, resume=True)


class Hidden:
    """What no fingerprint looks into, but by which the classifier is another one."""

    __slots__ = ("shift",)

    def __init__(self, shift):
        self.shift = shift

    def __call__(self, batch):
        return batch.flatten(1)[:, :CLASSES] + self.shift * torch.arange(CLASSES)


def test_a_classifier_that_only_its_logits_tell_apart_is_refused(path):
    certify(path, Hidden(0.0), indices=range(2))
    before = rows_of(path)
    with pytest.raises(RunFileError, match="another model: on image 0 its logits differ"):
        certify(path, Hidden(0.5), resume=True)
    with pytest.raises(RunFileError, match="another model: on image 0 its logits differ"):
        verify_run(path, replay=1, model=Hidden(0.5), dataset=images())
    assert rows_of(path) == before
    certify(path, Hidden(0.0), resume=True)
    assert verify_run(path, replay=12, model=Hidden(0.0), dataset=images()).findings == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": None}, "does not say `dtype`"),
        ({"dtype": "int8"}, "parameters that make no sense: `dtype`"),
        ({"allow": "range"}, "does not say `allow`"),
        ({"model": None}, "another model"),
        ({"data": 5}, "other data"),
        ({"probe": 5}, "no probe that can be read"),
        ({"probe": {"image_id": 0}}, "no probe that can be read"),
        ({"probe": {"image_id": 0, "logits": "AAA="}}, "no probe that can be read"),
        ({"probe": {"image_id": 99, "logits": ""}}, "Image 99"),
        ({"probe": {"image_id": 0, "logits": ""}}, "its logits differ"),
    ],
)
def test_a_replay_of_a_run_that_does_not_say_how_it_was_made_is_refused(path, change, message):
    certify(path)
    with RunFile(path) as run:
        parameters = run.parameters | change
    with RunWriter(path, parameters, {}, range(12), overwrite=True):
        pass
    with pytest.raises(RunFileError, match=message):
        verify_run(path, replay=1, model=Network(), dataset=images())


def test_a_missing_parameter_is_named(path):
    certify(path)
    with RunFile(path) as run:
        parameters = run.parameters
    del parameters["tf32"], parameters["allow"], parameters["dtype"]
    with RunWriter(path, parameters, {}, range(12), overwrite=True):
        pass
    with pytest.raises(RunFileError, match="does not say `dtype`"):
        verify_run(path, replay=1, model=Network(), dataset=images())


def test_what_a_data_set_notes_is_stored_with_the_run(path):
    data = replace(images(), notes=("Pixels were doubled.",))
    assert certify(path, data=data).warnings == ("Pixels were doubled.",)


def test_a_run_says_whether_memory_was_kept(tmp_path, monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr("tcertify.runs.machine.kept", lambda: nullcontext(True))
    assert certify(tmp_path / "a.run").environment["memory_kept"] is True
    monkeypatch.setattr("tcertify.runs.machine.kept", lambda: nullcontext(False))
    assert certify(tmp_path / "b.run").environment["memory_kept"] is False
