import csv
import math

import numpy as np
import pytest
import torch

from adre_train import adre_risk
from adre_train.metrics import COLUMNS, Meter, collapses, to_csv
from adre_train.recipe import Recipe

CPU = torch.device("cpu")
ROW = {"largest_class": 0.2, "noisy_accuracy": 0.9, "at_floor": 0.1}


def test_the_means_are_those_of_all_images():
    recipe = Recipe(lam=0.3, floor=0.05, k=3)
    meter = Meter(4, recipe, CPU)
    generator = torch.Generator().manual_seed(0)
    kept = []
    for images in (6, 2):
        logits = 2 * torch.randn(3, images, 4, generator=generator)
        y = torch.arange(images) % 4
        loss = adre_risk(logits, y, lam=0.3, floor=0.05)
        meter.add(loss, logits, y, images)
        meter.add_step(torch.tensor(float(images)))
        kept.append((logits, y))
    row = meter.row(2.0, together=False)
    logits, y = torch.cat([z for z, _ in kept], 1), torch.cat([y for _, y in kept])
    f = logits.softmax(-1)
    g = f.mean(0).numpy()
    rival = np.where(np.eye(4, dtype=bool)[y], 0, g).max(1)
    assert row["loss"] == pytest.approx(adre_risk(logits, y, lam=0.3, floor=0.05).item(), rel=1e-5)
    assert row["l_per"] == pytest.approx(-f[:, torch.arange(8), y].log().mean().item(), rel=1e-5)
    assert row["l_adre"] == pytest.approx(-np.log(rival.clip(0.05)).mean(), rel=1e-5)
    assert row["at_floor"] == pytest.approx((rival <= 0.05).mean())
    assert row["noisy_accuracy"] == pytest.approx((logits.argmax(-1) == y).double().mean().item())
    assert row["largest_class"] == pytest.approx(np.bincount(g.argmax(1)).max() / 8)
    assert row["gradient_norm"] == 4
    assert (row["images_per_s"], row["seconds"]) == (4, 2)


def test_an_image_that_stands_for_none_counts_as_none():
    meter = Meter(2, Recipe(), CPU)
    meter.add(torch.tensor(1.0), torch.tensor([[[5.0, 0.0]]]), torch.tensor([0]), 1)
    meter.add(torch.tensor(9.0), torch.tensor([[[0.0, 5.0]]]), torch.tensor([0]), 0)
    meter.add_step(torch.tensor(1.0))
    row = meter.row(1.0, together=False)
    assert (row["loss"], row["noisy_accuracy"], row["images_per_s"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("change", "epoch", "message"),
    [
        ({}, 5, None),
        ({"largest_class": 0.995, "noisy_accuracy": 0.1}, 5, "collapsed: 100% of the images get"),
        ({"largest_class": 0.995, "noisy_accuracy": 0.1}, 0, None),
        ({"largest_class": 0.995, "noisy_accuracy": 0.99}, 5, None),  # a data set of one class
        ({"at_floor": 1.0}, 0, "no gradient left: 100% of the images are at the floor of 1e-06"),
    ],
)
def test_a_collapse_is_told_from_what_is_none(change, epoch, message):
    found = list(collapses({**ROW, **change}, Recipe(), epoch))
    assert len(found) == (message is not None)
    assert all(message in sentence for sentence in found)


def test_images_at_the_floor_are_no_news_where_no_regulariser_pulls():
    assert not list(collapses({**ROW, "at_floor": 1.0}, Recipe(lam=0.0), 3))


def test_the_history_is_a_table_whose_gaps_are_empty():
    text = to_csv([{"epoch": 1, "loss": math.pi}, {"epoch": 2, "average_radius": 0.5}]).decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["loss"], rows[0]["average_radius"], rows[1]["loss"]) == (str(math.pi), "", "")
