"""Sampler: votes that depend on nothing but seed, image, sample and stream."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tcertify.sampling import ESTIMATION, SELECTION, Sampler

IMAGES = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def sampler(batch_size=64, seed=0):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    return Sampler(network, 3, 1.0, seed=seed, batch_size=batch_size)


@given(
    batch_size=st.integers(1, 200),
    stops=st.lists(st.integers(0, 90), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_counts_do_not_depend_on_the_batches_or_the_order_of_images(batch_size, stops, order):
    ids, stops, order = np.arange(10, 14), np.array(stops), list(order)
    whole = sampler().count(IMAGES, ids, 0, stops, ESTIMATION)
    assert whole.sum(1).tolist() == stops.tolist()
    shuffled = sampler(batch_size).count(IMAGES[order], ids[order], 0, stops[order], ESTIMATION)
    assert shuffled.tolist() == whole[order].tolist()


@given(st.integers(0, 100))
def test_a_range_is_the_sum_of_its_parts(cut):
    ids = range(4)
    whole = sampler().count(IMAGES, ids, 0, 100, ESTIMATION)
    first = sampler().count(IMAGES, ids, 0, cut, ESTIMATION)
    second = sampler().count(IMAGES, ids, cut, 100, ESTIMATION)
    assert (first + second).tolist() == whole.tolist()


def test_streams_and_seeds_draw_different_votes():
    counts = [
        sampler(seed=seed).count(IMAGES, range(4), 0, 5000, stream).tolist()
        for seed in (0, 1)
        for stream in (SELECTION, ESTIMATION)
    ]
    assert all(a != b for i, a in enumerate(counts) for b in counts[:i])


def test_sample_ids_far_beyond_32_bits_are_drawn():
    counts = sampler().count(IMAGES, range(4), 2**40, 2**40 + 50, ESTIMATION)
    assert counts.sum(1).tolist() == [50] * 4


def test_votes_are_those_of_a_plain_loop_with_the_same_noise():
    """Against one forward pass over all noisy copies of one image."""
    seen = []

    def classifier(batch):
        seen.append(batch.clone())
        return batch.flatten(1)[:, :3]

    counts = Sampler(classifier, 3, 0.5, batch_size=1000).count(IMAGES[:1], [5], 0, 800, ESTIMATION)
    votes = torch.cat(seen).flatten(1)[:, :3].argmax(1)
    assert counts[0, :3].tolist() == torch.bincount(votes, minlength=3).tolist()
    noise = (torch.cat(seen) - IMAGES[0]) / 0.5
    assert abs(float(noise.mean())) < 5 / np.sqrt(noise.numel())
    assert abs(float(noise.std()) - 1) < 5 / np.sqrt(noise.numel())


def test_nan_logits_in_one_of_a_thousand_rows_are_invalid_votes():
    def classifier(batch):
        logits = torch.zeros(len(batch), 3)
        logits[::1000] = torch.nan
        return logits

    counts = Sampler(classifier, 3, 0.5, batch_size=1000).count(
        IMAGES[:1], [0], 0, 3000, ESTIMATION
    )
    assert counts.tolist() == [[2997, 0, 0, 3]]


def test_half_precision_images_stay_half_precision():
    def classifier(batch):
        assert batch.dtype == torch.bfloat16
        return batch.flatten(1)[:, :3]

    images = IMAGES.bfloat16()
    counts = Sampler(classifier, 3, 0.5).count(images, range(4), 0, 10, ESTIMATION)
    assert counts.sum() == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_ids": [2**32]}, "`image_ids` must be at most"),
        ({"image_ids": [-1]}, "`image_ids` must be at least 0"),
        ({"start": [-5]}, "`start` must be at least 0"),
    ],
)
def test_bad_ranges_get_one_sentence(arguments, message):
    call = {"image_ids": [0], "start": 0, "stop": 10, "stream": 0} | arguments
    with pytest.raises(ValueError, match=message):
        sampler().count(IMAGES[:1], **call)
