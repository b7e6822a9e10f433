"""The regularised risk of Feng et al. (2020), and the two it was compared with."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tcertify._checks import check_non_negative, check_positive, check_real


def adre_risk(
    logits: Tensor,
    y: Tensor,
    *,
    lam: float,
    per: Literal["mean", "single"] = "mean",
    floor: float = 1e-6,
    label_smoothing: float = 0.0,
) -> Tensor:
    """ADRE's risk, l_per - lam * l_adre, averaged over the batch: low where the smoothed classifier
    puts its mass on the label and little on the strongest other class.

    With ``F_j`` the softmax of ``logits[j]`` and ``G = mean_j F_j`` (eq. 8), l_per is the mean over
    j of ``CE(F_j, y)`` (eq. 7) and l_adre is ``CE(G, c*) = -log G[c*]``, c* the class other than y
    with the largest G (eq. 6). No gradient flows through the choice of c*. The same k noisy copies
    serve both terms. ``lam=0`` with k = 1 is the training of Cohen et al. (2019).

    Parameters
    ----------
    logits : torch.Tensor
        The classifier's outputs, (k, B, C): k noisy copies of B images over C classes.
    y : torch.Tensor
        The labels, (B,) int64 in [0, C).
    lam : float
        The weight of the regulariser, at least 0.
    per : {"mean", "single"}
        "mean" takes l_per over all k copies. "single" takes it at one of them, the first, as in
        the paper's CIFAR-10 table: the copies are exchangeable, so the first is a random one.
    floor : float
        G[c*] counts as no less than this, in [0, 1): below it l_adre is constant and its gradient
        0, so that the risk is bounded below by ``lam * log(floor)``. 0 is the paper's risk, which
        has no lower bound: it falls for ever as the logits grow, and training on easy images can
        collapse (measured in docs/training.md).
    label_smoothing : float
        The mass, in [0, 1), that l_per spreads evenly over all classes.

    Returns
    -------
    torch.Tensor
        A scalar, float64 for float64 logits and float32 for all others.

    Raises
    ------
    ValueError
        If a number is out of range, a shape does not fit, or a label is not in [0, C).

    Notes
    -----
    Everything happens in log space: the risk and its gradient are finite for logits of +-1e4 and
    for bf16 logits. A NaN logit makes the risk NaN.

    References
    ----------
    Feng, Wu, Chen, Zhang, Ning, "Regularized training and tight certification for randomized
    smoothed classifier with provable robustness", AAAI 2020, eq. 6 to 8.

    Examples
    --------
    >>> logits = torch.tensor([[[2.0, 1.0, 0.0]], [[3.0, 1.0, 0.0]]])
    >>> adre_risk(logits, torch.tensor([0]), lam=0.1)
    tensor(0.1169)
    """
    lam = check_non_negative("lam", lam)
    if per not in ("mean", "single"):
        raise ValueError(f"`per` must be 'mean' or 'single', got {per!r}.")
    check_batch(logits, y)
    log_f = _log_softmax(logits)
    l_per = _cross_entropy(log_f if per == "mean" else log_f[:1], y, label_smoothing).mean()
    if lam == 0:
        return l_per
    return l_per + lam * runner_up(_log_mean(log_f), y).clamp(min=_log_floor(floor)).mean()


def radius_risk(
    logits: Tensor,
    y: Tensor,
    *,
    lam: float,
    sigma: float,
    floor: float = 1e-6,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The risk l_per - lam * R with the radius itself as regulariser (eq. 10), averaged over the
    batch. It is unstable, as the paper found: prefer `adre_risk`.

    R is ``sigma / 2 * (Phi^-1(G[y]) - Phi^-1(G[c*]))``, negative where the smoothed classifier
    errs. Its slope is 1 / phi, which explodes as G[y] nears 1 and G[c*] nears 0; that is where the
    instability comes from. Both are kept in [floor, 1 - floor], and no gradient flows beyond.

    The parameters are those of `adre_risk`, with `sigma` > 0 the noise's standard deviation and
    `floor` in (0, 1/2). R is computed in float64.
    """
    lam, sigma = check_non_negative("lam", lam), check_positive("sigma", sigma)
    if not 0 < check_real("floor", floor) < 0.5:
        raise ValueError(f"`floor` must be in (0, 0.5), got {floor}.")
    check_batch(logits, y)
    log_f = _log_softmax(logits)
    log_g = _log_mean(log_f)
    g_y = log_g.gather(1, y[:, None]).squeeze(1)
    quantile_y, quantile_other = (
        torch.special.ndtri(log_p.double().exp().clamp(floor, 1 - floor))
        for log_p in (g_y, runner_up(log_g, y))
    )
    radius = sigma / 2 * (quantile_y - quantile_other)
    l_per = _cross_entropy(log_f, y, label_smoothing)
    risk: Tensor = l_per.mean() - lam * radius.mean().to(l_per.dtype)
    return risk


def stability(clean: Tensor, logits: Tensor, y: Tensor, *, lam: float) -> Tensor:
    """The loss of stability training, CE(F(x), y) + lam * mean_j CE(F(x), F_j), averaged over the
    batch: a classifier that is right without noise and says the same with it.

    `clean` (B, C) are the logits of the images without noise, `logits` (k, B, C) those of k noisy
    copies, `y` (B,) the labels; the gradient flows through all of them. `lam` is at least 0.

    References
    ----------
    Li, Chen, Wang, Carin, "Second-order adversarial attack and certifiable robustness", 2018.
    """
    lam = check_non_negative("lam", lam)
    check_batch(logits, y)
    if clean.shape != logits.shape[1:]:
        raise ValueError(f"`clean` must be {tuple(logits.shape[1:])}, got {tuple(clean.shape)}.")
    log_clean, log_f = _log_softmax(clean), _log_softmax(logits)
    l_stability = -(log_clean.exp() * log_f).sum(-1).mean()
    return _cross_entropy(log_clean[None], y, 0.0).mean() + lam * l_stability


def check_batch(logits: Tensor, y: Tensor) -> None:
    """Raise unless logits (k, B, C) and labels (B,) fit each other and the classes."""
    if logits.ndim != 3 or not logits.is_floating_point():
        kind = f"{tuple(logits.shape)} {logits.dtype}"
        raise ValueError(f"`logits` must be floating point of shape (k, B, C), got {kind}.")
    copies, images, classes = logits.shape
    if copies < 1 or images < 1:
        raise ValueError(f"`logits` must hold a copy of an image, got {tuple(logits.shape)}.")
    if classes < 2:
        raise ValueError(f"`logits` must have at least 2 classes, got {classes}.")
    if y.shape != (images,) or y.dtype != torch.int64:
        kind = f"{tuple(y.shape)} {y.dtype}"
        raise ValueError(f"`y` must be ({images},) torch.int64, got {kind}.")
    low, high = (int(bound) for bound in y.aminmax())
    if low < 0 or high >= classes:
        bad = low if low < 0 else high
        raise ValueError(f"`y` must be in [0, {classes}), got {bad}.")


def log_g(logits: Tensor) -> Tensor:
    """Return log G (eq. 8), (B, C), of logits (k, B, C): the log of the mean softmax."""
    return _log_mean(_log_softmax(logits))


def runner_up(log_g: Tensor, y: Tensor) -> Tensor:
    """Return log G[c*], (B,), of log G (B, C): the largest but for the label's."""
    rivals = log_g.detach().scatter(1, y[:, None], -math.inf)
    return log_g.gather(1, rivals.argmax(1, keepdim=True)).squeeze(1)


def _log_floor(floor: float) -> float:
    if not 0 <= check_real("floor", floor) < 1:
        raise ValueError(f"`floor` must be in [0, 1), got {floor}.")
    return math.log(floor) if floor > 0 else -math.inf


def _log_softmax(logits: Tensor) -> Tensor:
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact.log_softmax(-1)


def _log_mean(log_f: Tensor) -> Tensor:
    return log_f.logsumexp(0) - math.log(len(log_f))


def _cross_entropy(log_f: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean over the copies of CE(F_j, y), (B,)."""
    if not 0 <= check_real("label_smoothing", label_smoothing) < 1:
        raise ValueError(f"`label_smoothing` must be in [0, 1), got {label_smoothing}.")
    mean_log_f = log_f.mean(0)
    at_label = mean_log_f.gather(1, y[:, None]).squeeze(1)
    return -(1 - label_smoothing) * at_label - label_smoothing * mean_log_f.mean(1)
