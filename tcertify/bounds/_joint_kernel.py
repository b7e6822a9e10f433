"""The compiled half of the joint bound: ordering, rejection probability, branch and bound.

Everything here assumes arguments that `joint_lower` has checked. The mathematics, with proofs, is
in docs/joint.md; the names below are those of that text.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tcertify_kernels.jit import njit

#: Share of alpha paid for looking at plausible p_A only.
BETA = 1e-4
#: Share of alpha that the columns left out of a sum may hold.
LEFT_OUT = 1e-9
#: Accuracy of log P that branch and bound works to.
TOLERANCE = 5e-4
#: Angles at which the ordering splits z between p_A and the competitor.
ANGLES = 32
#: Halvings of one cell before branch and bound gives up.
CELLS_WAITING = 60
#: Below this a binomial mass is not carried on by recurrence.
TINY = 1e-290

#: The rejected outcomes b <= columns[a - first], with n and the x of the tails exp(-x) left out.
Region = tuple[NDArray[np.int64], int, int, float]

_SQRT2 = math.sqrt(2.0)
_SQRT2PI = math.sqrt(2.0 * math.pi)
_FAR = 37.0  # Phi(-37) is about the smallest normal double


@njit(cache=True, nogil=True)
def _phi(x: float) -> float:
    return math.exp(-0.5 * x * x) / _SQRT2PI


@njit(cache=True, nogil=True)
def _cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / _SQRT2)


@njit(cache=True, nogil=True)
def _quantile(p: float) -> float:
    """Phi^-1 by two Halley steps from Hastings' formula, good to a few ulp."""
    if p > 0.5:
        return -_quantile(1.0 - p)
    if p < 1e-300:
        return -_FAR
    t = math.sqrt(-2.0 * math.log(p))
    x = (2.515517 + t * (0.802853 + t * 0.010328)) / (
        1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))
    ) - t
    for _ in range(2):
        error = (_cdf(x) - p) / _phi(x)
        x -= error / (1.0 + 0.5 * x * error)
    return x


@njit(cache=True, nogil=True)
def _stirling_error(n: float) -> float:
    """log(n!) less Stirling's formula."""
    if n < 16.0:
        return math.lgamma(n + 1.0) - (n + 0.5) * math.log(n) + n - 0.9189385332046727
    s = 1.0 / (n * n)
    return (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s / 1188)))) / n


@njit(cache=True, nogil=True)
def _deviance(k: float, mean: float) -> float:
    """The Poisson deviance k log(k / mean) + mean - k without cancellation."""
    d = (k - mean) / (k + mean)
    if abs(d) > 0.1:
        return k * math.log(k / mean) + mean - k
    # log(k / mean) = 2 atanh(d)
    total = (k - mean) * d
    term = 2.0 * k * d
    j = 1
    while True:
        term *= d * d
        update = total + term / (2 * j + 1)
        if update == total:
            return total
        total = update
        j += 1


@njit(cache=True, nogil=True)
def _mass(k: int, n: int, p: float, q: float) -> float:
    """P(Bin(n, p) = k), with q = 1 - p given so that neither loses digits."""
    if p <= 0.0:
        return 1.0 if k == 0 else 0.0
    if q <= 0.0:
        return 1.0 if k == n else 0.0
    if k == 0:
        return math.exp(n * (math.log1p(-p) if p < 0.5 else math.log(q)))
    if k == n:
        return math.exp(n * (math.log1p(-q) if q < 0.5 else math.log(p)))
    log_mass = (
        _stirling_error(float(n))
        - _stirling_error(float(k))
        - _stirling_error(float(n - k))
        - _deviance(k, n * p)
        - _deviance(n - k, n * q)
    )
    return math.exp(log_mass) * math.sqrt(n / (2.0 * math.pi * k) / (n - k))


@njit(cache=True, nogil=True)
def _spread(variance: float, x: float) -> float:
    """Bernstein: a binomial lies this far to one side of its mean with probability <= exp(-x)."""
    return x / 3.0 + math.sqrt(x * x / 9.0 + 2.0 * variance * x)


# --- the ordering ---------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _upper_rate(k: float, m: float, z: float) -> float:
    """Upper limit at z of a rate with k of m seen (arcsine scale): the inverse of _lower_count."""
    angle = math.asin(math.sqrt((k + 1.0) / (m + 1.0))) + 0.5 * z / math.sqrt(m + 1.0)
    if angle >= 0.5 * math.pi:
        return 1.0
    shift = (z * z - 4.0) / (12.0 * (m + z * z))
    return min((math.sin(angle) ** 2 + shift) / (1.0 + 2.0 * shift), 1.0)


@njit(cache=True, nogil=True)
def _lower_quantile(a: int, n: int, z: float) -> float:
    """Phi^-1 of a lower limit at z of p_A, a >= 1 votes of n: on the arcsine or Paulson's scale.

    The first agrees with `_upper_rate`, which two classes need; the second is good for few votes.
    """
    if 2 * a >= n >= 0.5 * z * z:
        return -_quantile(_upper_rate(n - a, n, z))
    # for few votes, no less than a union bound over the choices of a samples
    odds_least = 0.0
    if a <= z * z + 1.0:
        log_choices = math.lgamma(n + 1.0) - math.lgamma(a + 1.0) - math.lgamma(n - a + 1.0)
        odds_least = math.exp((math.log(_cdf(-z)) - log_choices) / a)
    above = 1.0 - 1.0 / (9.0 * (n - a + 1.0))
    below = 1.0 - 1.0 / (9.0 * a)
    square = below * below - z * z * (1.0 - below)
    odds = 0.0
    if square > 0.0:
        root = below * below * above * above - square * (above * above - z * z * (1.0 - above))
        odds = (square / (below * above + math.sqrt(max(root, 0.0)))) ** 3 * a / (n - a + 1.0)
    odds = max(odds, odds_least)
    return _quantile(odds / (1.0 + odds)) if odds < 1.0 else -_quantile(1.0 / (1.0 + odds))


@njit(cache=True, nogil=True)
def _lower_count(rate: float, m: float, z: float) -> float:
    """Largest (real) count of m that speaks against `rate` at z; nondecreasing in `rate`."""
    if rate >= 1.0:
        return m
    shift = (z * z - 4.0) / (12.0 * (m + z * z))
    shifted = rate * (1.0 + 2.0 * shift) - shift
    if shifted <= 0.0:
        return -1.0
    angle = math.asin(math.sqrt(min(shifted, 1.0))) - 0.5 * z / math.sqrt(m + 1.0)
    if angle <= 0.0:
        return -1.0
    return (m + 1.0) * math.sin(angle) ** 2 - 1.0


@njit(cache=True, nogil=True)
def _rank(k_a: int, k_b: int, n: int, z: float) -> float:
    """T(k_a, k_b): the least t over the splits of z; +inf where k_a = n."""
    least = math.inf
    if k_a == n:
        return least
    for j in range(ANGLES + 1):
        angle = 0.5 * math.pi * j / ANGLES
        z_a = _lower_quantile(k_a, n, z * math.cos(angle))
        rate = _upper_rate(k_b, n - k_a, z * math.sin(angle))
        least = min(least, z_a - _quantile(_cdf(-z_a) * rate))
    return least


@njit(cache=True, nogil=True)
def _largest_count(rank: float, n: int, m: int, z_a: float, z_b: float) -> float:
    """The largest (real) b beside a = n - m whose limits at z_a and z_b leave t >= rank.

    More than the rounding error of the formulas is added: a larger region is on the safe side.
    """
    if m == 0:
        return 0.0
    if m == n:
        return -1.0
    limit = _lower_quantile(n - m, n, z_a)
    return _lower_count(_cdf(limit - rank) / _cdf(-limit), m, z_b) + 1e-9 + 1e-11 * m


@njit(cache=True, nogil=True)
def _columns(rank: float, n: int, z: float, first: int, last: int) -> NDArray[np.int64]:
    """b*(a) for a = first..last: a superset, nondecreasing up to b <= n - a, of {T >= rank}."""
    out = np.empty(last - first + 1, np.int64)
    cosines = np.empty(ANGLES + 1)
    sines = np.empty(ANGLES + 1)
    for j in range(ANGLES + 1):
        cosines[j] = z * math.cos(0.5 * math.pi * j / ANGLES)
        sines[j] = z * math.sin(0.5 * math.pi * j / ANGLES)
    running = -1.0
    j = 0
    for a in range(first, last + 1):
        m = n - a
        if running >= m:
            out[a - first] = m
            continue
        # The least over the angles is found downhill from the angle that was best before.
        largest = _largest_count(rank, n, m, cosines[j], sines[j])
        if largest >= m:
            for k in range(ANGLES + 1):
                other = _largest_count(rank, n, m, cosines[k], sines[k])
                if other < largest:
                    j, largest = k, other
        for step in (1, -1):
            while 0 <= j + step <= ANGLES and largest >= 0.0:
                other = _largest_count(rank, n, m, cosines[j + step], sines[j + step])
                if other >= largest:
                    break
                j, largest = j + step, other
        running = max(running, largest)
        out[a - first] = min(math.floor(running), m)
    return out


# --- the probability of the region -----------------------------------------------------------


@njit(cache=True, nogil=True)
def _lower_tail(k: int, m: int, r: float) -> tuple[float, float]:
    """An upper bound of P(Bin(m, r) <= k) and the mass at k (0: not to be carried on)."""
    if r < 1e-290:  # 1 is all but exact there, and quotients by r stay finite above
        return 1.0, 0.0
    mass = _mass(k, m, r, 1.0 - r)
    if mass < TINY:
        # Below the mean the whole tail is at most k + 1 such masses; above it 1 is bound enough.
        return (1.0 if k > m * r else 1e-270), 0.0
    total = mass
    term = mass
    odds = (1.0 - r) / r
    while k > 0 and term > total * 1e-18:
        term *= k / (m - k + 1.0) * odds
        total += term
        k -= 1
    return total, mass


@njit(cache=True, nogil=True)
def _probability(region: Region, q: float, r: float) -> float:
    """An upper bound of the probability of the region at p_A = 1 - q and p_c = q r."""
    columns, first, n, x = region
    p = 1.0 - q
    spread = _spread(n * p * q, x)
    start = max(first, math.floor(n * p - spread))
    stop = min(first + len(columns) - 1, math.ceil(n * p + spread))
    while start <= stop and columns[start - first] < 0:
        start += 1
    tiny = math.exp(-x)
    total = 2.0 * tiny  # the columns left out on either side
    if start > stop:
        return total
    weight = _mass(start, n, p, q)
    while weight < TINY and start < stop:
        total += TINY
        start += 1
        weight = _mass(start, n, p, q)
    odds = p / q
    odds_b = r / (1.0 - r)
    carried = False
    tail = 0.0
    mass = 0.0
    b = -1
    for a in range(start, stop + 1):
        m = n - a
        largest = columns[a - first]
        if largest >= m:
            tail = 1.0
            carried = False
        elif carried and mass > TINY:
            # one trial fewer, then up to the new b
            mass *= (m + 1.0 - b) / ((m + 1.0) * (1.0 - r))
            tail += r * mass
            while b < largest:
                mass *= (m - b) / (b + 1.0) * odds_b
                b += 1
                tail += mass
        else:
            # Bernstein: far from the mean the tail is known well enough.
            ahead = largest - m * r
            carried = ahead * ahead < _spread(m * r * (1.0 - r), x) ** 2
            if carried:
                b = largest
                tail, mass = _lower_tail(b, m, r)
            else:
                tail = 1.0 if ahead > 0.0 else tiny
        total += weight * tail
        weight *= (n - a) / (a + 1.0) * odds
    return total * (1.0 + 1e-9 + 4e-15 * n)


@njit(cache=True, nogil=True)
def _nudge(x: float) -> float:
    """A relative bound, with room, of the error of `_cdf(x)`, the rounding of x included."""
    return 1e-15 * (4.0 + x * x)


@njit(cache=True, nogil=True)
def _at(region: Region, z_a: float, z_c: float) -> float:
    """An upper bound of the region's probability at p_A = Phi(z_a), p_c = Phi(z_c).

    q and r are moved down by more than their error: the probability falls in both. Of what r is
    moved by, the first part makes up for the smaller q it was divided by; the second alone covers
    its error, since |z_c| >= z_A where p_A + p_c <= 1.
    """
    q = _cdf(-z_a) * (1.0 - _nudge(z_a))
    r = 0.0
    if z_c > -math.inf:
        r = min(_cdf(z_c) / q, 1.0) * (1.0 - _nudge(z_a) - _nudge(z_c))
    return _probability(region, q, r)


@njit(cache=True, nogil=True)
def _rest(z_a: float, t: float) -> float:
    """1 - p_A - p_c on the curve, with its digits near the edge where it is 0."""
    z_c = z_a - t
    width = -z_a - z_c
    middle = 0.5 * (z_c - z_a)
    if width * (1.0 + abs(middle)) > 0.01:
        return _cdf(-z_a) - _cdf(z_c)
    return width * _phi(middle) * (1.0 + (middle * middle - 1.0) * width * width / 24.0)


@njit(cache=True, nogil=True)
def _log_slopes(z_a: float, t: float) -> tuple[float, float, float]:
    """The slopes of log p_A, log p_c and log(1 - p_A - p_c) along the curve; each falls in z_a."""
    density_a = _phi(z_a)
    density_c = _phi(z_a - t)
    return (
        density_a / _cdf(z_a),
        density_c / _cdf(z_a - t),
        -(density_a + density_c) / _rest(z_a, t),
    )


@njit(cache=True, nogil=True)
def _count_bound(n: int, p: float, x: float) -> float:
    """A count that Bin(n, p) exceeds with probability at most exp(-x)."""
    return min(float(n), n * p + _spread(n * p, x))


@njit(cache=True, nogil=True)
def _gap(n: int, t: float, low: float, high: float, x: float) -> float:
    """How far log P can rise inside [low, high] above its larger end value."""
    a_low, c_low, rest_low = _log_slopes(low, t)
    a_high, c_high, rest_high = _log_slopes(high, t)
    bend = (
        _count_bound(n, _cdf(high), x) * (a_low - a_high)
        + _count_bound(n, _cdf(high - t), x) * (c_low - c_high)
        + _count_bound(n, _rest(low, t), x) * (rest_low - rest_high)
    )
    return 0.25 * (high - low) * bend * (1.0 + 1e-6) + 1e-8


@njit(cache=True, nogil=True)
def _excess(region: Region, t: float, low: float, high: float, level: float) -> float:
    """0 where the region has probability <= `level` all along the curve, z_A = low to high.

    Otherwise a probability above level * exp(-TOLERANCE) that was met there. Branch and bound:
    a cell whose bound is too large is halved, its right half waiting on the stack.
    """
    n, x = region[2], region[3]
    allowed = level * math.exp(-TOLERANCE)
    right = np.empty(CELLS_WAITING)
    p_right = np.empty(CELLS_WAITING)
    right[0], p_right[0] = high, _at(region, high, high - t)
    waiting = 1
    a, p_a = low, _at(region, low, low - t)
    while waiting > 0:
        b, p_b = right[waiting - 1], p_right[waiting - 1]
        worst: float = max(p_a, p_b)
        if worst > allowed:
            return worst
        if a - t < -_FAR:
            bound = _at(region, b, -math.inf)
        elif _rest(b, t) < TINY:
            # At the edge the log of what is left bends without limit: the monotone bound.
            bound = _at(region, b, a - t)
        else:
            bound = worst * math.exp(min(_gap(n, t, a, b, x), 100.0)) + 3.0 * math.exp(-x)
        if bound <= level:
            a, p_a = b, p_b
            waiting -= 1
            continue
        middle = 0.5 * (a + b)
        if waiting == CELLS_WAITING or not a < middle < b:
            return bound
        right[waiting], p_right[waiting] = middle, _at(region, middle, middle - t)
        waiting += 1
    return 0.0


@njit(cache=True, nogil=True)
def _divergence(k: int, n: int, p: float, q: float) -> float:
    """Chernoff's exponent n KL(k / n || p)."""
    total = 0.0
    total += _deviance(float(k), n * p) if k > 0 else n * p
    total += _deviance(float(n - k), n * q) if k < n else n * q
    return total


@njit(cache=True, nogil=True)
def _plausible(k: int, n: int, x: float, side: float) -> float:
    """A z just outside {z: n KL(k / n || Phi(z)) <= x}, below (side -1) or above (side 1)."""
    inside = _quantile((k + 0.5) / (n + 1.0))
    outside = inside + side
    while abs(outside) < _FAR and _divergence(k, n, _cdf(outside), _cdf(-outside)) <= x:
        outside += side
    for _ in range(40):
        middle = 0.5 * (inside + outside)
        if _divergence(k, n, _cdf(middle), _cdf(-middle)) <= x:
            inside = middle
        else:
            outside = middle
    return outside


@njit(cache=True, nogil=True)
def _score(region: Region, t: float, low: float, high: float) -> float:
    """Phi^-1 of the largest of a few probabilities along the curve, z_A = low to high."""
    points = 9
    most = 0.0
    for i in range(points):
        z = low + (high - low) * i / (points - 1)
        most = max(most, _at(region, z, z - t))
    return _quantile(min(most, 1.0 - 1e-15))


@njit(cache=True, nogil=True)
def _approximate(
    region: Region, low: float, high: float, goal: float, t: float, scale: float
) -> tuple[float, float]:
    """A t where the score is about `goal`, and the slope of the score there.

    The score is nearly a straight line in t: the secant method from a guess and its scale, kept in
    a bracket.
    """
    below, above = 2.0 * low, math.inf
    slope = 1.0 / scale
    last_t, last_score = t, math.nan
    for _ in range(100):  # pragma: no branch (it never took more than 30)
        score = _score(region, t, low, min(high, 0.5 * t))
        if t != last_t:
            secant = (score - last_score) / (t - last_t)
            slope = min(max(secant, 0.2 / scale), 5.0 / scale)
        if abs(score - goal) < 1e-4 or above - below < 1e-13 * (1.0 + abs(t)):
            break
        last_t, last_score = t, score
        if score > goal:
            above = t
        else:
            below = t
        t += (goal - score) / slope
        if not below < t < above:
            t = 0.5 * (below + above) if above < math.inf else below + scale
    return t, slope


@njit(cache=True, nogil=True)
def _window(n: int, low: float, high: float, x: float) -> tuple[int, int]:
    """Columns outside of which N_A has probability <= exp(-x) a side, for z_A in [low, high]."""
    p_low, p_high = _cdf(low), _cdf(high)
    variance = 0.25 if low < 0.0 < high else max(p_low * _cdf(-low), p_high * _cdf(-high))
    reach = _spread(n * variance, x)
    first = math.floor(n * p_low - reach) - 1
    last = math.ceil(n * p_high + reach) + 1
    return max(first, 0), min(last, n)


@njit(cache=True, nogil=True)
def _invert(k_a: int, k_b: int, n: int, alpha: float, z: float) -> float:
    """A t that is certified: at most the exact lower bound, by little."""
    if k_a == 0:
        return -math.inf
    x_beta = (math.log(2.0 / BETA) - math.log(alpha)) * (1.0 + 1e-9)
    low = _plausible(k_a, n, x_beta, -1.0)
    high = _plausible(k_a, n, x_beta, 1.0) if k_a < n else _FAR
    if low <= -_FAR:
        return -math.inf
    x = -math.log(LEFT_OUT) - math.log(alpha)
    first, last = _window(n, low, high, x)
    rank = _rank(k_a, k_b, n, z)
    guess, scale = 2.0 * low + 2.0, 0.3
    if rank < math.inf:
        guess = max(rank, 2.0 * low + 0.1)
        scale = max(_rank(k_a, k_b, n, 0.0) - _rank(k_a, k_b, n, 1.0), 1e-12)
        rank -= 1e-11 * (1.0 + abs(rank))
    region = (_columns(rank, n, z, first, last), first, n, x)
    # The monotone bound may leave out columns on both sides and before `first`: three tails, of
    # which `_probability` adds two. The third is paid here, and with it the rounding of `level`.
    level = alpha * (1.0 - BETA) * (1.0 - 2.0 * LEFT_OUT)
    goal = _quantile(level * math.exp(-1.5 * TOLERANCE))
    t, slope = _approximate(region, low, high, goal, guess, scale)
    # The rigorous pass; where it meets more than the coarse one saw, a smaller t. No plausible
    # point has t below 2 * low, so that much is certain.
    caution = 1.0
    while t > 2.0 * low:
        met = _excess(region, t, low, min(high, 0.5 * t), level)
        if met == 0.0:
            return t
        t -= (_quantile(min(met, 1.0 - 1e-15)) - goal) / slope * caution
        caution *= 1.2
    return 2.0 * low


@njit(cache=True, nogil=True)
def joint_rows(
    k_a: NDArray[np.int64],
    k_b: NDArray[np.int64],
    n: NDArray[np.int64],
    alpha: NDArray[np.float64],
    z: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Fill `out` with the bound of each row."""
    for i in range(len(out)):
        out[i] = _invert(k_a[i], k_b[i], n[i], alpha[i], z[i])
