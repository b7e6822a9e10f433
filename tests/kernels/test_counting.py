import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcertify_kernels import count_votes, counting
from tests.kernels.backends import BACKENDS, counted

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def votes_one_by_one(counts, logits, slot, limit=None):
    """What count_votes does, in words: the first of the largest, or invalid."""
    counts = counts.clone()
    for row, (values, place) in enumerate(zip(logits.tolist(), slot.tolist(), strict=True)):
        if limit is None or row < int(limit):
            valid = all(value == value for value in values)
            counts[place, values.index(max(values)) if valid else len(values)] += 1
    return counts


def hard_logits(rows, classes, dtype, seed=0):
    """Logits with many ties, both zeros, infinities, subnormals and some NaN."""
    generator = torch.Generator().manual_seed(seed)
    values = [0.0, -0.0, 1.0, -1.0, 2.0, -torch.inf, 1e-6, 6e-8, -6e-8]
    choice = torch.randint(len(values), (rows, classes), generator=generator)
    logits = torch.tensor(values)[choice].to(dtype)
    logits[0] = -torch.inf
    logits[1, classes // 2] = torch.inf
    logits[2, -1] = torch.nan
    logits[3, 0] = -torch.nan
    logits[4] = torch.tensor([-0.0, 0.0] * classes)[:classes]
    return logits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 3, 10, 15, 16, 17, 100, 128, 129, 1000])
def test_votes_are_counted_as_one_by_one(backend, dtype, classes):
    rows = 37
    logits, slot = hard_logits(rows, classes, dtype), (torch.arange(rows) // 5 % 4).int()
    counts = torch.arange(5 * (classes + 1)).reshape(5, -1)
    expected = votes_one_by_one(counts, logits, slot)
    assert torch.equal(counted(backend, counts.clone(), logits, slot), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_classes_of_imagenet_21k_are_counted(backend):
    logits, slot = hard_logits(5, 21_841, torch.float32), torch.zeros(5).int()
    counts = torch.zeros(1, 21_842, dtype=torch.int64)
    expected = votes_one_by_one(counts, logits, slot)
    assert torch.equal(counted(backend, counts, logits, slot), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limit", [-3, 0, 1, 36, 37, 2**40])
def test_rows_from_the_limit_on_do_not_vote(backend, limit):
    for classes in (10, 200):
        logits, slot = hard_logits(37, classes, torch.float32), torch.zeros(37).int()
        counts, limits = torch.zeros(1, classes + 1, dtype=torch.int64), torch.tensor(limit)
        expected = votes_one_by_one(counts, logits, slot, limit)
        assert torch.equal(counted(backend, counts, logits, slot, limits), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_that_do_not_start_on_16_bytes_are_counted(backend):
    for dtype, offset in itertools.product(DTYPES, (1, 3)):
        room = hard_logits(20, 35, dtype, seed=offset).flatten()
        logits, slot = room[offset : offset + 19 * 35].view(19, 35), torch.zeros(19).int()
        counts = torch.zeros(1, 36, dtype=torch.int64)
        expected = votes_one_by_one(counts, logits, slot)
        assert torch.equal(counted(backend, counts, logits, slot), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_counts_beyond_32_bits_are_exact(backend):
    logits = torch.eye(3)
    counts = torch.full((1, 4), 2**53, dtype=torch.int64)
    expected = torch.tensor([[2**53 + 1] * 3 + [2**53]])
    assert torch.equal(counted(backend, counts, logits, torch.zeros(3).int()), expected)


@pytest.mark.parametrize("backend", ["torch", *BACKENDS[2:]])
@pytest.mark.parametrize("classes", [10, 200])
def test_a_row_whose_slot_only_the_device_sees_to_be_wrong_does_not_vote(
    backend, classes, monkeypatch
):
    logits, slot = hard_logits(70, classes, torch.float32), torch.zeros(70).int()
    bad = [0, 5, 33, 64]
    good = [row for row in range(70) if row not in bad]
    counts = torch.zeros(2, classes + 1, dtype=torch.int64)
    expected = votes_one_by_one(counts, logits[good], slot[good])
    slot[bad] = torch.tensor([-1, 2, 2**31 - 1, -(2**31)]).int()
    monkeypatch.setattr(counting, "check_range", lambda *_: None)
    assert torch.equal(counted(backend, counts, logits, slot), expected)


@given(st.data())
@settings(max_examples=20)
def test_batches_orders_and_threads_change_no_count(data):
    rows, classes = data.draw(st.integers(5, 60)), data.draw(st.integers(2, 40))
    logits = hard_logits(rows, classes, data.draw(st.sampled_from(DTYPES)), seed=rows)
    slot = (torch.arange(rows) % 3).int()
    counts = torch.zeros(3, classes + 1, dtype=torch.int64)
    expected = count_votes(counts.clone(), logits, slot)
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    for part in order.split(data.draw(st.integers(1, rows))):
        count_votes(counts, logits[part], slot[part])
    assert torch.equal(counts, expected)


def test_the_number_of_threads_changes_no_count(monkeypatch):
    logits, slot = hard_logits(500, 10, torch.float32), torch.zeros(500).int()
    monkeypatch.setattr(counting, "_LOGITS_PER_THREAD", 100)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(count_votes(torch.zeros(1, 11, dtype=torch.int64), logits, slot))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_batch_without_rows_is_counted_as_none():
    counts = torch.ones(1, 4, dtype=torch.int64)
    assert count_votes(counts, torch.empty(0, 3), torch.zeros(0).int()) is counts
    assert (counts == 1).all()


GOOD = {
    "counts": torch.full((2, 4), 7),
    "logits": torch.zeros(3, 3),
    "slot": torch.zeros(3).int(),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"counts": np.zeros((2, 4))}, TypeError, "`counts` must be a torch tensor, got ndarray"),
        (
            {"counts": torch.zeros(2, 4)},
            TypeError,
            "`counts` must be torch.int64, got torch.float3",
        ),
        (
            {"counts": torch.zeros(2, 3).long()},
            ValueError,
            r"`counts` must have shape \(2, 4\), got",
        ),
        (
            {"counts": torch.zeros(4).long()},
            ValueError,
            r"`counts` must have shape \(4, 4\), got \(4",
        ),
        ({"counts": torch.zeros(4, 2).long().T}, ValueError, "`counts` must be contiguous"),
        ({"logits": [[1.0, 2.0]]}, TypeError, "`logits` must be a torch tensor, got list"),
        (
            {"logits": torch.zeros(3, 3).long()},
            TypeError,
            "`logits` must be torch.float32, torch.f",
        ),
        ({"logits": torch.zeros(3)}, ValueError, r"`logits` must have shape \(B, C\)"),
        ({"logits": torch.zeros(3, 0)}, ValueError, "C at least 2, got .3, 0."),
        ({"logits": torch.zeros(3, 3).T.expand(3, 3)}, ValueError, "`logits` must be contiguous"),
        ({"logits": torch.zeros(3, 3, device="meta")}, ValueError, "`logits` must be on the CPU"),
        ({"slot": torch.zeros(3)}, TypeError, "`slot` must be torch.int32, got torch.float32"),
        ({"slot": torch.zeros(2).int()}, ValueError, r"`slot` must have shape \(3,\), got \(2,\)"),
        ({"slot": torch.tensor([0, 2, 0]).int()}, ValueError, r"`slot` must be in \[0, 2\), got 2"),
        ({"limit": 3}, TypeError, "`limit` must be a torch tensor, got int"),
        ({"limit": torch.tensor([3])}, ValueError, r"`limit` must have shape \(\), got \(1,\)"),
        ({"backend": "numba"}, ValueError, "`backend` must be None or \"torch\", got 'numba'"),
    ],
)
def test_misuse_is_named_before_anything_is_counted(change, error, message):
    arguments = {**GOOD, **change}
    tensors = [arguments.pop(name) for name in GOOD]
    with pytest.raises(error, match=message):
        count_votes(*tensors, **arguments)
    assert (GOOD["counts"] == 7).all()
