"""The regularised risk of Feng et al. (2020), and those it is compared with."""

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
        If a number is out of range, a shape does not fit, or a label is not in [0, C). On a GPU the
        labels' range is left to torch's own assertion on the device.

    Notes
    -----
    Everything happens in log space: the risk and its gradient are finite for logits of +-1e4, for
    bf16 logits, and where a class other than the label is masked by a logit of -inf. A NaN logit
    makes the risk NaN. No call waits for the device, and ``torch.compile(fullgraph=True)`` takes
    the function whole.

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
    l_per = _cross_entropy(log_f if per == "mean" else log_f[:1], y, label_smoothing)
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
    """The risk l_per - lam * R with the certified radius itself as regulariser (eq. 10), averaged
    over the batch. Training by it collapses, as the paper found: prefer `adre_risk`.

    R is ``sigma / 2 * (Phi^-1(G[a]) - Phi^-1(G[b]))`` for the two classes a and b with the largest
    G. The label has no say in it: where the smoothed classifier errs, R rewards the error.
    `signed_radius_risk` is the same with the label's say.

    The parameters are those of `adre_risk`, with `sigma` > 0 the noise's standard deviation and
    `floor` in (0, 1/2): both G are kept in [floor, 1 - floor], and no gradient flows beyond. R is
    computed in float64.
    """
    log_f, l_per = _performance(logits, y, lam, label_smoothing)
    first, second = _log_mean(log_f).topk(2).values.unbind(1)
    return l_per - lam * _radius(first, second, sigma, floor).to(l_per.dtype)


def signed_radius_risk(
    logits: Tensor,
    y: Tensor,
    *,
    lam: float,
    sigma: float,
    floor: float = 1e-6,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The risk l_per - lam * R with R the radius under the label's sign, averaged over the batch:
    an objective of this package's own, not of the paper.

    R is ``sigma / 2 * (Phi^-1(G[y]) - Phi^-1(G[c*]))``: the radius where the smoothed classifier is
    right, and negative where it errs, so that an error is never rewarded. With `radius_risk`
    (eq. 10) it agrees where the classifier is right.

    The parameters are those of `radius_risk`. `lam` is on another scale than that of `adre_risk`.
    """
    log_f, l_per = _performance(logits, y, lam, label_smoothing)
    log_g = _log_mean(log_f)
    at_label = log_g.gather(1, y[:, None]).squeeze(1)
    return l_per - lam * _radius(at_label, runner_up(log_g, y), sigma, floor).to(l_per.dtype)


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
    l_stability = -(log_clean.exp() * _finite(log_f)).sum(-1).mean()
    return _cross_entropy(log_clean[None], y, 0.0) + lam * l_stability


def check_batch(logits: Tensor, y: Tensor) -> None:
    """Raise unless logits (k, B, C) and labels (B,) fit each other and the classes.

    The labels' values are read on a CPU only: elsewhere that would wait for the device.
    """
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
    if y.device.type != "cpu" or torch.compiler.is_compiling():
        return
    check_labels(y, classes)


def check_labels(y: Tensor, classes: int) -> None:
    """Raise unless all labels are in [0, classes); this waits for the labels' device."""
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
    return _finite(log_f).logsumexp(0) - math.log(len(log_f))


def _finite(log_f: Tensor) -> Tensor:
    """Return log F with the least float for the -inf of a masked class: its gradient would be NaN
    in a sum of exponentials, and its product with a probability of 0 as well.
    """
    return log_f.clamp(min=torch.finfo(log_f.dtype).min)


def _performance(
    logits: Tensor, y: Tensor, lam: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return log F and l_per over all copies."""
    check_non_negative("lam", lam)
    check_batch(logits, y)
    log_f = _log_softmax(logits)
    return log_f, _cross_entropy(log_f, y, label_smoothing)


def _radius(log_p: Tensor, log_q: Tensor, sigma: float, floor: float) -> Tensor:
    """Return the mean of sigma / 2 * (Phi^-1(p) - Phi^-1(q)), both kept in [floor, 1 - floor]."""
    sigma = check_positive("sigma", sigma)
    if not 0 < check_real("floor", floor) < 0.5:
        raise ValueError(f"`floor` must be in (0, 0.5), got {floor}.")
    larger, smaller = (
        torch.special.ndtri(log_probability.double().exp().clamp(floor, 1 - floor))
        for log_probability in (log_p, log_q)
    )
    radius: Tensor = sigma / 2 * (larger - smaller).mean()
    return radius


def _cross_entropy(log_f: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean over copies and images of CE(F_j, y)."""
    if not 0 <= check_real("label_smoothing", label_smoothing) < 1:
        raise ValueError(f"`label_smoothing` must be in [0, 1), got {label_smoothing}.")
    labels = y.expand(len(log_f), -1)[..., None]
    at_label = log_f.gather(2, labels).mean()
    if label_smoothing == 0:  # 0 times the -inf of a masked class would be NaN
        return -at_label
    return -(1 - label_smoothing) * at_label - label_smoothing * log_f.mean()
