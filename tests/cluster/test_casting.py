"""The samples of images are cut into pieces, each sample once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcertify.cluster.casting import cut


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=5), st.integers(1, 20))
def test_the_pieces_hold_every_sample_once_and_are_of_one_size(ranges, size):
    start = np.array([at for at, _ in ranges], np.int64)
    stop = start + np.array([more for _, more in ranges], np.int64)
    pieces = [*cut(start, stop, size)]
    samples = [(s, i) for piece in pieces for s, a, b in piece for i in range(a, b)]
    assert samples == [(s, i) for s in range(len(start)) for i in range(start[s], stop[s])]
    sizes = [sum(b - a for _, a, b in piece) for piece in pieces]
    assert all(found == size for found in sizes[:-1])
    assert all(0 < found <= size for found in sizes[-1:])


@pytest.mark.parametrize(("size", "pieces"), [(10, 1), (3, 4), (1, 10)])
def test_one_image_becomes_as_many_pieces_as_its_samples_fill(size, pieces):
    assert len([*cut(np.array([5]), np.array([15]), size)]) == pieces
