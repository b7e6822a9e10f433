import dataclasses

import pytest
import torch

from adre_train.batches import Batches, Share, check_images, default_workers, held_out, parts
from adre_train.recipe import Recipe
from tcertify.data import TensorDataset
from tcertify.data.folders import ImageFolders

CPU = torch.device("cpu")
DATA = TensorDataset("numbers", 50, torch.zeros(23, 1, 2, 2), torch.arange(23))
RECIPE = Recipe(batch=5)


def batches(recipe=RECIPE, rank=0, processes=1, workers=0):
    return Batches(DATA, recipe, rank=rank, processes=processes, workers=workers, device=CPU)


def drawn(made, epoch, first=0):
    return [(one.y.tolist(), one.share, one.size) for one in made.epoch(epoch, first)]


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own():
    made = batches()
    assert made.steps == 5
    orders = [[i for labels, _, _ in drawn(made, epoch) for i in labels] for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(23))
    assert orders[0] != orders[1]
    assert all(one.ids.tolist() == one.y.tolist() for one in made.epoch(0))
    assert [(share, size) for _, share, size in drawn(made, 0)] == [(1, 5)] * 4 + [(1, 3)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_taken_up_at_any_step_by_any_number_of_readers(workers):
    made = batches(workers=workers)
    whole = drawn(made, 3)
    assert drawn(made, 3, first=2) == whole[2:]
    assert drawn(batches(), 3) == whole


def test_processes_share_every_batch():
    whole = drawn(batches(), 0)
    shares = [drawn(batches(rank=rank, processes=4), 0) for rank in range(4)]
    for batch, *parts_of_it in zip(whole, *shares, strict=True):
        taken = [i for labels, share, _ in parts_of_it for i in labels if share]
        assert sorted(taken) == sorted(batch[0])
        assert sum(share for _, share, _ in parts_of_it) == pytest.approx(1)
    assert shares[3][-1] == (whole[-1][0][:1], 0.0, 3)  # three images for four processes


def test_with_validation_every_tenth_image_is_held_out():
    made = batches(dataclasses.replace(RECIPE, validate_every=1))
    seen = sorted(i for labels, _, _ in drawn(made, 0) for i in labels)
    assert seen == sorted(set(range(23)) - {9, 19})
    assert held_out(23).tolist() == [9, 19]
    assert held_out(9).tolist() == []


def test_a_data_set_without_an_image_is_refused():
    empty = TensorDataset("none", 2, torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="none has no image to train on"):
        Batches(empty, RECIPE, rank=0, processes=1, workers=0, device=CPU)


def test_readers_are_started_for_files_and_a_device_that_waits_for_them(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    files = ImageFolders("files", (), (), ())
    cuda = torch.device("cuda")
    assert default_workers(DATA, cuda, 1) == 0
    assert default_workers(files, CPU, 1) == 0
    assert [default_workers(files, cuda, processes) for processes in (1, 4, 24)] == [8, 3, 1]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            [0.0, 255.0, 7.0],
            [0, 1, 2],
            r"Image 11 of mine must have pixels in \[0, 1\], got 255: s",
        ),
        ([0.0, 1.0, -0.5], [0, 1, 2], r"Image 12 of mine must have pixels in \[0, 1\], got -0\.5"),
        ([float("nan"), 1.0, 0.5], [0, 1, 2], r"Image 10 of mine must have pixels .*, got nan"),
        ([0.0, 1.0, 0.5], [0, 1, 3], r"Image 12 of mine must have a label in \[0, 3\), got 3\."),
        ([0.0, 1.0, 0.5], [-1, 1, 3], r"Image 10 of mine must have a label in \[0, 3\), got -1\."),
        (
            [0.0, 1.0, 0.5],
            [0.0, 1.5, 1.0],
            r"labels of mine must be whole numbers, got torch\.fl",
        ),
    ],
)
def test_an_image_that_is_none_is_named(images, labels, message):
    x = torch.tensor(images).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    batch = Share(x, torch.tensor(labels), torch.arange(10, 13), 1.0, 3)
    with pytest.raises(ValueError, match=message):
        check_images(batch, "mine", 3)


def test_labels_that_are_words_are_refused():
    batch = Share(torch.zeros(2, 1, 2, 2), ["cat", "dog"], torch.arange(2), 1.0, 2)
    with pytest.raises(ValueError, match="labels of mine must be whole numbers, got str"):
        check_images(batch, "mine", 3)


def test_parts_carry_the_weight_of_their_images_and_the_last_is_marked():
    batch = Share(torch.zeros(7, 1), torch.arange(7), torch.arange(10, 17), 0.5, 14)
    cut = list(parts(batch, 3))
    assert [len(x) for (x, _, _), _, _ in cut] == [3, 3, 1]
    assert [ids.tolist() for (_, _, ids), _, _ in cut] == [[10, 11, 12], [13, 14, 15], [16]]
    assert [weight for _, weight, _ in cut] == pytest.approx([1.5 / 7, 1.5 / 7, 0.5 / 7])
    assert [is_last for *_, is_last in cut] == [False, False, True]
