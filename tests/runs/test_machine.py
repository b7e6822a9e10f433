"""A machine makes the same rows of its images however they are handed to it."""

from pathlib import Path

import pytest
import torch

from tcertify.classifiers import Classifier
from tcertify.data import as_dataset
from tcertify.runs.machine import Job, machine
from tcertify.runs.settings import Settings
from tests.runs.models import FailsOn
from tests.tiny import CLASSES, Network, images


class Kept:
    """A sink in memory."""

    path = Path("a.run")

    def __init__(self):
        self.rows, self.warnings = [], []

    def add(self, rows):
        self.rows += rows

    def warn(self, text):
        self.warnings.append(text)


def at_work(data, model=None, sigma=0.5):
    data = as_dataset(data, num_classes=CLASSES)
    settings = Settings.make(num_classes=CLASSES, sigma=sigma, n0=20, n=500, alpha=0.001)
    job = Job(settings, [*range(len(data))], [], None)
    return machine(Classifier.of(model or Network(), CLASSES), data, job)


def columns(rows):
    return {row.image_id: (row.label, row.predicted, row.looks.tolist(), row.error) for row in rows}


@pytest.mark.parametrize("size", [1, 5, 12])
def test_images_in_several_lots_become_the_rows_of_one_lot(size):
    with at_work(images()) as hands:
        whole, parts = Kept(), Kept()
        hands.certify(range(12), whole)
        for first in range(0, 12, size):
            assert hands.certify(range(first, min(first + size, 12)), parts) == []
    assert columns(parts.rows) == columns(whole.rows)
    assert len(parts.rows) == 12


def test_an_image_of_another_shape_fails_in_whatever_lot_it_is_the_first():
    data = [images()[i] for i in range(4)]
    data[2] = torch.zeros(1, 2, 3), 0
    with at_work(data) as hands:
        sink = Kept()
        assert [row.image_id for row in hands.certify([2], sink)] == [2]
        hands.certify([3], sink)
    assert [row.image_id for row in sink.rows] == [3]


def test_the_rows_of_failures_that_end_a_lot_are_handed_back():
    data = images()
    with at_work(data, FailsOn([6, 7], data), sigma=1e-6) as hands:
        sink = Kept()
        rest = hands.certify(range(8), sink)
    assert [row.image_id for row in rest] == [6, 7]
    assert [row.image_id for row in sink.rows] == [*range(6)]
