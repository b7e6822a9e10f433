import numpy as np
import pytest

from tcertify.bounds import clopper_pearson_upper, multiclass_upper


@pytest.mark.parametrize("n", [1, 7, 1000, 10**6])
def test_one_class_has_the_clopper_pearson_bound(n):
    counts = np.unique(np.linspace(0, n, 50).astype(int))
    alpha = np.array([[1e-9], [0.001], [0.4]])
    np.testing.assert_array_equal(
        multiclass_upper(counts[:, None], n, alpha), clopper_pearson_upper(counts, n, alpha)
    )


def test_a_count_of_n_leaves_nothing_to_exclude():
    np.testing.assert_array_equal(multiclass_upper([[10, 0], [3, 10]], 10, 0.001), 1)
