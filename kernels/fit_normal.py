"""Fit the polynomials of the bit-exact Box-Muller transform, and print them with their errors.

Run as ``python kernels/fit_normal.py``. Minimax by Lawson's weights in float64, then the
coefficients are rounded to float32 one by one, lowest degree first, refitting the rest each time.
It ends with what they do to the density of a pair of normals, proved by interval arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flint import acb, arb, ctx, fmpq, fmpq_poly
from numpy.typing import NDArray

Array = NDArray[np.float64]


def minimax(powers: Array, target: Array) -> Array:
    """The coefficients c that make max |powers @ c - target| smallest."""
    weight = np.ones(len(target))
    for _ in range(300):
        root = np.sqrt(weight)
        fit = np.linalg.lstsq(powers * root[:, None], target * root, rcond=None)[0]
        error = np.abs(powers @ fit - target)
        if error.max() == 0:
            break
        weight = weight * (error / error.max()) + 1e-12
        weight /= weight.sum()
    return fit


def rounded_minimax(powers: Array, target: Array) -> tuple[list[float], float]:
    """Float32 coefficients of the minimax fit, and their largest error."""
    rounded: list[float] = []
    rest = target
    for column in range(powers.shape[1]):
        lowest = float(np.float32(minimax(powers[:, column:], rest)[0]))
        rounded.append(lowest)
        rest = rest - lowest * powers[:, column]
    return rounded, float(np.abs(rest).max())


def nodes(low: float, high: float, count: int = 4001) -> Array:
    """Chebyshev nodes of an interval; their number is odd and the middle one is left out."""
    angle = np.pi * (2 * np.arange(count) + 1) / (2 * count)
    points = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
    return np.delete(points, count // 2)


def fit_log() -> tuple[list[float], float]:
    """Q in -2 log(1 + t) = -2 t + t^2 Q(t) on [-1/3, 1/3]; relative error of the logarithm."""
    t = nodes(-1 / 3, 1 / 3)
    size = 2 * np.log1p(t)
    powers = np.vander(t, 9, increasing=True) * (t * t / size)[:, None]
    return rounded_minimax(powers, (2 * t - 2 * np.log1p(t)) / size)


def fit_sin() -> tuple[list[float], float]:
    """P in sin(x) = x + x^3 P(x^2) on [-pi/4, pi/4]; relative error."""
    x = nodes(-np.pi / 4, np.pi / 4)
    powers = np.vander(x * x, 3, increasing=True) * (x**3 / np.sin(x))[:, None]
    return rounded_minimax(powers, 1 - x / np.sin(x))


def fit_cos() -> tuple[list[float], float]:
    """P in cos(x) = 1 + x^2 P(x^2) on [-pi/4, pi/4]; relative error."""
    x = nodes(-np.pi / 4, np.pi / 4)
    powers = np.vander(x * x, 4, increasing=True) * (x**2 / np.cos(x))[:, None]
    return rounded_minimax(powers, 1 - 1 / np.cos(x))


def bend(
    log: list[float], sin: list[float], cos: list[float], log_two: float, eighth: float
) -> tuple[float, float]:
    """Bounds of the root mean square and of the size of h, the log of the density of a pair of
    normals, as drawn, over the Gaussian's; proved with Arb.

    The transform is taken in real arithmetic, of a real uniform u >= 2^-65 and a real angle, with
    these coefficients: ``-2 log u`` is ``-2 t + t^2 Q(t) + e log_two`` for u = 2^e (1 + t), and the
    angle x lies within `eighth` of 0. Where two pieces do not meet, by less than 2e-8, R^2 is taken
    with a ramp and the angle with a factor that make them meet. h is the sum of

        delta / 2 - log(1 - D),          delta the error of -2 log u, D = (1 + t) delta' / 2,
        log(phi / x at x = eighth) - log(1 + W),    1 + W = C S' - S C', phi = atan(S / C),
        (C^2 + S^2 - 1) R^2 / 2.
    """
    ctx.prec = 128
    third, side = fmpq(1, 3), _rational(eighth)
    q = fmpq_poly([0, -2]) + fmpq_poly([0, 0, 1]) * fmpq_poly([*map(_rational, log)])
    y = fmpq_poly([0, 0, 1])
    s = fmpq_poly([0, 1]) + fmpq_poly([0, 0, 0, 1]) * fmpq_poly([*map(_rational, sin)])(y)
    c = 1 + y * fmpq_poly([*map(_rational, cos)])(y)
    step = arb(_rational(log_two)) + 2 * arb(2).log()  # what one e more adds to delta
    ends = [arb(q(t)) + 2 * (1 + arb(t)).log() for t in (third, -third)]
    jump = ends[0] - ends[1] - step
    slope = (q.derivative() * fmpq_poly([1, 1]) + 2) * fmpq(1, 2)
    excess, turn = c * c + s * s - 1, c * s.derivative() - s * c.derivative() - 1
    scale = ((arb(s(side)) / arb(c(side))).atan() / arb(side)).log()

    def radial(t: acb, e: int) -> tuple[acb, acb]:
        """The first part of h, and R^2 / 2."""
        log_u = (1 + t).log() + arb(2).log() * e
        delta = _value(q, t) + 2 * (1 + t).log() + step * e - jump * fmpq(3, 2) * t
        ramped = _value(slope, t) - jump * fmpq(3, 4) * (1 + t)
        return delta / 2 - (1 - ramped).log(), delta / 2 - log_u

    def over_radius(f: Callable[[acb, acb], acb]) -> arb:
        total = acb(0)
        for e in range(0, -66, -1):
            top = acb(0 if e == 0 else third)
            part = acb.integral(lambda t, _, e=e: f(*radial(t, e)), acb(-third), top)
            total += part * arb(2) ** e
        return total.real

    def over_angle(f: Callable[[acb, acb], acb]) -> arb:
        def at(x: acb, _: bool) -> acb:
            return f(scale - (1 + _value(turn, x)).log(), _value(excess, x))

        return (acb.integral(at, acb(-side), acb(side)) / (2 * acb(side))).real

    square = (
        over_radius(lambda h, _: h * h)
        + over_angle(lambda h, _: h * h)
        + 2 * over_radius(lambda h, _: h) * over_angle(lambda h, _: h)
        + 2 * over_radius(lambda h, r: h * r) * over_angle(lambda _, m: m)
        + 2 * over_radius(lambda _, r: r) * over_angle(lambda h, m: h * m)
        + over_radius(lambda _, r: r * r) * over_angle(lambda _, m: m * m)
    )
    most_slope = _most(slope, third) + abs(jump)
    delta = most_slope * 2 / (1 - arb(third)) * arb(third) + abs(jump) / 2 + abs(step) * 66
    largest = (
        delta / 2
        - (1 - most_slope).log()
        + abs(scale)
        - (1 - _most(turn, side)).log()
        + _most(excess, side) * (66 * arb(2).log() + delta)
    )
    return float(square.sqrt().upper()), float(largest.upper())


def _rational(x: float) -> fmpq:
    return fmpq(*float(x).as_integer_ratio())


def _value(polynomial: fmpq_poly, x: acb) -> acb:
    value = acb(0)
    for coefficient in reversed(polynomial.coeffs()):
        value = value * x + acb(coefficient)
    return value


def _most(polynomial: fmpq_poly, side: fmpq, parts: int = 64) -> arb:
    """The largest size of a polynomial within `side` of 0: Taylor's terms, piece by piece."""
    most = arb(0)
    for i in range(parts):
        middle, half = side * fmpq(2 * i + 1 - parts, parts), arb(side / parts)
        terms = polynomial(fmpq_poly([middle, 1])).coeffs()
        most = most.max(sum((abs(arb(a)) * half**j for j, a in enumerate(terms)), arb(0)))
    return most


if __name__ == "__main__":
    fits = []
    for name, (coefficients, error) in {
        "LOG": fit_log(),
        "SIN": fit_sin(),
        "COS": fit_cos(),
    }.items():
        fits.append(coefficients)
        print(f"{name} relative error {error:.2e} = 2^{np.log2(error):.1f}")
        for coefficient in coefficients:
            print(f"    {coefficient!r}  {coefficient.hex()}")
    log_two, eighth = float(np.float32(-2 * np.log(2))), float(np.float32(np.pi / 4))
    mean, largest = bend(*fits, log_two, eighth)
    print(
        f"density of a pair: log of the ratio {mean:.3e} in root mean square, at most {largest:.2e}"
    )
