"""certified_gain and McNemar's exact test: valid by enumeration."""

from itertools import product
from math import comb, factorial

import numpy as np
import pytest

from tcertify.statistics import certified_gain, mcnemar_exact


@pytest.mark.parametrize("differ", range(1, 13))
def test_mcnemar_rejects_no_oftener_than_its_level(differ):
    probability = {k: comb(differ, k) / 2**differ for k in range(differ + 1)}
    p_values = {k: mcnemar_exact(k, differ - k) for k in probability}
    for level in sorted(p_values.values()):
        rejected = sum(probability[k] for k in probability if p_values[k] <= level)
        assert rejected <= level * (1 + 1e-12)


def test_mcnemar_does_not_ask_which_is_first():
    assert mcnemar_exact(7, 2) == mcnemar_exact(2, 7)
    assert mcnemar_exact(0, 0) == 1


def _outcomes(images):
    """Every (gained, lost), with its multinomial coefficient."""
    for gained, lost in product(range(images + 1), repeat=2):
        if gained + lost <= images:
            rest = images - gained - lost
            ways = factorial(images) // (factorial(gained) * factorial(lost) * factorial(rest))
            yield gained, lost, ways


def _gain(images, gained, lost, alpha):
    before = [-1.0] * gained + [1.0] * (images - gained)
    after = [1.0] * gained + [-1.0] * lost + [1.0] * (images - gained - lost)
    return certified_gain(before, after, [0.0], alpha=alpha)


def test_the_interval_holds_the_difference_with_its_probability():
    images, alpha = 9, 0.2
    found = [(g, lost, ways, _gain(images, g, lost, alpha)) for g, lost, ways in _outcomes(images)]
    for p, q in product(np.linspace(0, 1, 11), repeat=2):
        if p + q > 1:
            continue
        missed = sum(
            ways * p**g * q**lost * max(0.0, 1 - p - q) ** (images - g - lost)
            for g, lost, ways, gain in found
            if not gain.lower[0] - 1e-12 <= p - q <= gain.upper[0] + 1e-12
        )
        assert missed <= alpha


def test_gains_and_losses_are_counted_at_each_radius():
    gain = certified_gain([0.5, 0.5, -1.0, 0.1], [0.6, 0.2, 0.3, 0.1], [0.0, 0.3, 0.55])
    assert gain.gained.tolist() == [1, 1, 1]
    assert gain.lost.tolist() == [0, 1, 0]
    assert gain.share.tolist() == [0.25, 0.0, 0.25]
    assert (gain.lower <= gain.share).all()
    assert (gain.share <= gain.upper).all()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"equally long and not empty, got shapes \(1,\) and \(2,"):
        certified_gain([0.1], [0.1, 0.2], [0])
    with pytest.raises(ValueError, match="`alpha` must be in"):
        certified_gain([0.1], [0.1], [0], alpha=1)
    with pytest.raises(ValueError, match="`gained` must be at least 0"):
        mcnemar_exact(-1, 2)
