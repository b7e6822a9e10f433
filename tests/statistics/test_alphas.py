import re

import numpy as np
import pytest

from tcertify.certificates import certify_counts
from tcertify.statistics.alphas import ALPHAS, alpha_curve
from tcertify.statistics.curves import average_certified_radius, certified_accuracy
from tcertify.votes import Votes

COUNTS = np.array([[990, 8, 2], [700, 200, 100], [350, 400, 250], [0, 1000, 0]])
TOP, LABEL = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
VOTES = Votes.of(COUNTS, TOP)


@pytest.mark.parametrize("method", ["joint", "certify", "t-certify"])
def test_each_row_is_the_table_at_its_alpha(method):
    radii = [0.0, 0.25, 0.9]
    curve = alpha_curve(VOTES, LABEL, sigma=0.5, radii=radii, alphas=[0.1, 1e-4], method=method)
    for row, alpha in enumerate((0.1, 1e-4)):
        found = certify_counts(COUNTS, TOP, sigma=0.5, alpha=alpha, method=method)
        correct = found.predicted == LABEL
        accuracy = certified_accuracy(found.radius, correct, radii).share
        acr = average_certified_radius(found.radius, correct).value
        np.testing.assert_array_equal(curve.certified_accuracy[row], accuracy)
        assert curve.average_certified_radius[row] == pytest.approx(acr, rel=1e-15)


def test_smaller_alphas_certify_less():
    curve = alpha_curve(VOTES, LABEL, sigma=0.5)
    assert curve.alpha.tolist() == list(ALPHAS)
    assert (np.diff(curve.average_certified_radius) < 0).all()
    assert (np.diff(curve.certified_accuracy, axis=0) <= 0).all()
    assert (np.diff(curve.certified_accuracy, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 1]}, "`label` must have the shape (M,) of the votes, got (2,) for (4,)."),
        ({"alphas": [0.1, 1.0]}, "`alphas` must be in (0, 1), got 1.0."),
        ({"radii": [-1.0]}, "`radii` must be at least 0 and finite, got -1.0."),
        ({"method": "t"}, "`method` must be one of joint, t-certify, certify, got 't'."),
        ({"sigma": 0}, "`sigma` must be positive and finite, got 0.0."),
    ],
)
def test_misuse_is_named(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        alpha_curve(**({"votes": VOTES, "label": LABEL, "sigma": 0.5} | change))
