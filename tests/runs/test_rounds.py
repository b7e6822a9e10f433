"""Rounds: each image gets its votes, however the images are packed into batches."""

import numpy as np
import pytest
import torch

from tcertify.data.dataset import TensorDataset
from tcertify.errors import StoppedError, VoidCertificateError, VotesLostError
from tcertify.runs import read_run
from tcertify.sampling import Sampler
from tcertify.statistics.stopping import Schedule
from tests.runs.models import FailsOn, NeighbourLater
from tests.tiny import CLASSES, Network, certify, images, rows_of

RADII = (0.0, 0.25, 0.5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.run"


def test_an_image_in_many_rounds_gets_the_same_votes_as_in_one(tmp_path):
    """Rounds hold 16 batches: with batches of 4, one image fills several."""
    certify(tmp_path / "a.run", batch_size=4)
    certify(tmp_path / "b.run")
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


@pytest.mark.parametrize("method", ["certify", "joint"])
def test_early_stopping_gives_the_table_of_the_full_run_for_fewer_samples(tmp_path, method):
    data = images(30)
    full = certify(tmp_path / "full.run", data=data, n=5000, method=method)
    early = certify(tmp_path / "early.run", data=data, n=5000, method=method, radii=RADII)
    for radius in RADII:
        certified = [
            (t.predicted == t.label) & (t.radius >= radius) & (t.radius > 0) for t in (full, early)
        ]
        assert abs(int(certified[0].sum()) - int(certified[1].sum())) <= 1
    assert early.n.mean() < full.n.mean() / 2
    schedule = Schedule.geometric(5000, 0.001, first=100)
    assert set(early.n.tolist()) <= set(schedule.looks)
    for row in rows_of(tmp_path / "early.run").values():
        assert row.looks.sum(1).tolist() == [*schedule.looks[: len(row.looks)]]


def test_with_radii_an_image_ends_at_its_first_look_where_the_selected_class_is_wrong(tmp_path):
    pixels = images(6).images
    looks = Schedule.geometric(5000, 0.001, first=100).looks
    certify(tmp_path / "any.run", data=images(6), n=5000)
    votes = [row.selection for row in rows_of(tmp_path / "any.run").values()]
    selected = torch.tensor([int(vote[:-1].argmax()) for vote in votes])
    ended, going_on = (
        certify(
            tmp_path / f"{shift}.run",
            data=TensorDataset("tiny", CLASSES, pixels, (selected + shift) % CLASSES),
            n=5000,
            radii=RADII,
        )
        for shift in (1, 0)
    )
    assert ended.n.tolist() == [looks[0]] * 6
    assert (going_on.n > looks[0]).any()


def test_nan_logits_are_invalid_votes_and_count_against_the_class(path):
    class Network1000(Network):
        def forward(self, batch):
            logits = super().forward(batch)
            logits[torch.arange(len(batch)) % 1000 == 999] = torch.nan
            return logits

    table = certify(path, Network1000(), n=4000, batch_size=1000, indices=[0], allow=["rows"])
    assert table.invalid.tolist() == [4]
    votes = rows_of(path)[0].looks[0]
    assert votes.sum() == 4000
    assert votes[-1] == 4


def test_an_all_nan_network_certifies_nothing(path):
    class Nowhere(Network):
        def forward(self, batch):
            return super().forward(batch) * torch.nan

    table = certify(path, Nowhere())
    assert (table.predicted == -1).all()
    assert (table.radius == 0).all()
    assert table.invalid.tolist() == [500] * 12


def fails_on(marked, data, path, **options):
    return certify(path, FailsOn(marked, data), data, sigma=1e-6, **options)


def test_an_exception_for_one_image_makes_it_invalid_with_its_class(path):
    data = images()
    table = fails_on([4, 6, 7], data, path)
    assert np.flatnonzero(table.failed).tolist() == [4, 6, 7]
    assert rows_of(path)[4].error == "LookupError: no answer"
    plain = certify(path.with_name("b.run"), data=data, sigma=1e-6)
    others = ~table.failed
    assert table.radius[others].tolist() == plain.radius[others].tolist()


def test_three_exceptions_in_a_row_stop_the_run_and_what_was_finished_stays(path):
    data = images()
    with pytest.raises(StoppedError, match="3 images in a row failed, image 8 with LookupError"):
        fails_on([6, 7, 8], data, path, batch_size=16)
    kept = rows_of(path)
    assert 0 < len(kept) <= 6
    assert all(row.error is None for row in kept.values())


def test_images_that_fail_apart_from_each_other_do_not_stop_a_run(path):
    items = [(image, int(label)) for image, label in map(images(30).__getitem__, range(30))]
    for at in (3, 7, 11, 15, 19):
        items[at] = (torch.zeros(2, 2, 2), 0)
    table = certify(path, data=items, num_classes=CLASSES, n=100)
    assert np.flatnonzero(table.failed).tolist() == [3, 7, 11, 15, 19]


def test_an_error_text_that_no_file_can_hold_does_not_end_a_run(path):
    class Badly(FailsOn):
        def forward(self, batch):
            try:
                return super().forward(batch)
            except LookupError:
                raise OSError("caf\udce9.png") from None

    data = images()
    table = certify(path, Badly([4], data), data, sigma=1e-6)
    assert table.errors == {4: "OSError: caf\\udce9.png"}


def test_a_run_that_comes_to_no_image_writes_those_that_failed(path):
    table = certify(path, data=[(torch.zeros(1, 2, 2), 3)], num_classes=CLASSES)
    assert table.errors == {0: "ValueError: `label` must be at most 2, got 3."}
    assert table.warnings == ("No image could be classified, so the classifier was not checked.",)


def test_memory_that_runs_out_halves_the_batch_and_changes_no_row(tmp_path):
    class Tight(Network):
        def forward(self, batch):
            if len(batch) > 100:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(batch)

    table = certify(tmp_path / "a.run", Tight(), batch_size=1000)
    assert any("the batch size was halved to 62" in text for text in table.warnings)
    certify(tmp_path / "b.run")
    assert rows_of(tmp_path / "a.run") == rows_of(tmp_path / "b.run")


def test_a_classifier_that_looks_at_its_neighbours_later_ends_the_run(path):
    with pytest.raises(VoidCertificateError, match="depend on the other rows of its batch"):
        certify(path, NeighbourLater(), data=images(30), n=5000, batch_size=16)
    assert any("depend on the other rows" in text for text in read_run(path).warnings)


def test_neighbours_that_are_allowed_are_a_warning(path):
    table = certify(
        path, NeighbourLater(), data=images(6), n=2000, batch_size=16, allow=["rows", "random"]
    )
    assert len(table) == 6
    assert any("depend on the other rows" in text for text in table.warnings)


def test_votes_that_are_lost_end_the_run(path, monkeypatch):
    def count(self, images, image_ids, start, stop, stream):
        raise VotesLostError("256 of 5000 votes were counted.")

    monkeypatch.setattr(Sampler, "count", count)
    with pytest.raises(VotesLostError, match="256 of 5000"):
        certify(path)
