"""What certificates say of every outcome of a few votes, for tests that enumerate failures."""

import numpy as np

from tcertify.certificates import certify_counts
from tests.reference import outcomes


def certified_t(look, level, method):
    """The bound on t of every outcome of a look, where it certifies; -inf elsewhere."""
    bound = np.full((look + 1, look + 1), -np.inf)
    k_a, k_b = outcomes(look)
    found = certify_counts(
        np.stack([k_a, k_b], axis=-1),
        np.zeros_like(k_a),
        sigma=2.0,
        alpha=level,
        method=method,
        invalid=look - k_a - k_b,
    )
    bound[k_a, k_b] = np.where(found.radius > 0, found.radius, -np.inf)
    return bound
