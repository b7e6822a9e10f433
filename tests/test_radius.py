import pytest

from tcertify.bounds import clopper_pearson_lower, clopper_pearson_lower_complement
from tcertify.radius import l2_radius_lower


def test_the_complement_keeps_the_radius_where_p_is_near_one():
    n = 10**16 // 2
    p, q = clopper_pearson_lower(n, n, 0.5), clopper_pearson_lower_complement(n, n, 0.5)
    with_q = l2_radius_lower(p, 1 - p, 1.0, q_a_upper=q)
    assert with_q > l2_radius_lower(p, 1 - p, 1.0)
    assert with_q == pytest.approx(7.9, abs=0.3)
