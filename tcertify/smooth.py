"""The smoothed classifier: certificates and predictions for single images."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tcertify._checks import check_alpha, check_whole
from tcertify.certificates import ABSTAIN, GRID, METHODS, certify_counts, predict_counts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tcertify.classifiers.classifier import Classifier
    from tcertify.classifiers.execution import BaseClassifier, Execution


@dataclass(frozen=True, eq=False)
class Certificate:
    """What one image was certified for, with everything needed to recompute it.

    With probability at least ``1 - alpha`` over the noise, no perturbation of l2 norm below
    ``radius`` changes the smoothed classifier's answer ``predicted``.

    Attributes
    ----------
    predicted : int
        The certified class, or `ABSTAIN` (-1).
    radius : float
        l2 radius in the units of the image, rounded down; 0 if it abstains.
    p_a_lower, p_b_upper : float
        As in `Certificates`.
    top : int
        The class that the selection sample chose; equal to `predicted` unless it abstains.
    counts : int64 array (C,)
        Votes of the estimation sample.
    invalid : int
        Estimation votes lost to NaN logits; part of `n`, given to no class.
    n0, n : int
        Selection and estimation samples.
    alpha, sigma, method, seed
        As given.
    image_id : int
        The image id that, with `seed`, determines the noise.
    """

    predicted: int
    radius: float
    p_a_lower: float
    p_b_upper: float
    top: int
    counts: NDArray[np.int64]
    invalid: int
    n0: int
    n: int
    alpha: float
    sigma: float
    method: str
    seed: int
    image_id: int


class SmoothedClassifier:
    """A base classifier under Gaussian noise: it answers the class that wins most votes.

    The same call gives the same counts: the noise depends on `seed`, on the image and on the
    sample's number, and on nothing else.

    Several threads may share one: they take turns. Its buffers, and a GPU's graphs, are kept from
    one image to the next and freed with it.

    Parameters
    ----------
    base_classifier : torch module or callable
        From a batch (B, ...) to logits (B, C). It runs in eval mode without autograd; each
        submodule's mode is restored afterwards.
    num_classes : int
        C, at least 2.
    sigma : float
        Standard deviation of the noise, in the units of the images.
    seed : int
        From 0 to 2^64 - 1.
    batch_size : int, optional
        Noisy copies per forward pass at most; fewer where that suits the device and the network
        better. It is halved each time memory runs out; the noise stays the same.
    device : torch device or str, optional
        Where a plain function runs; the CPU without it. A module runs where its parameters are.
    execution : Execution, optional
        Precision, layout and compilation; without it, the classifier's own precision.
    allow : iterable of {"random", "rows", "state", "range"}
        Defects that make certificates void, accepted knowingly. The range of each image is looked
        at, and the others are looked for on the first one, as docs/guarantees.md tells; what makes
        nothing void is a warning.
    """

    def __init__(
        self,
        base_classifier: BaseClassifier | Classifier,
        num_classes: int,
        sigma: float,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        execution: Execution | None = None,
        allow: Iterable[str] = (),
    ) -> None:
        from tcertify.classifiers import Classifier  # these load torch
        from tcertify.sampling import GaussianNoise, Sampler
        from tcertify.sampling.defects import check_codes

        self._allow = frozenset(allow)
        check_codes(self._allow)
        self._looked = False
        self._sampler = Sampler(
            Classifier.of(base_classifier, num_classes, device=device, execution=execution),
            GaussianNoise(sigma, seed),
            batch_size=batch_size,
        )

    def certify(
        self,
        x: Tensor,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        method: str = "joint",
        *,
        grid: tuple[float, ...] = GRID,
        image_id: int | None = None,
    ) -> Certificate:
        """Certify one image: the certificate is wrong with probability at most `alpha`.

        The class is chosen by `n0` votes and certified by `n` fresh ones.

        Parameters
        ----------
        x : float tensor, one image, such as (C, H, W)
            On the classifier's device.
        n0, n : int
            Selection and estimation samples, at least 1.
        alpha : float
            One-sided failure probability in (0, 1).
        method, grid
            As in `certify_counts`.
        image_id : int, optional
            Image id below 2^32 that the noise is drawn from, such as the index in a data set;
            without it, 32 bits of a hash of the pixels.

        Raises
        ------
        ValueError
            x is a batch, not floating-point or not finite; arguments out of range; logits whose
            shape is not (B, num_classes).
        VoidCertificateError
            A defect that `allow` does not hold.
        """
        from tcertify.sampling import ESTIMATION, SELECTION

        n0, n = check_whole("n0", n0), check_whole("n", n)
        alpha = check_alpha("alpha", alpha)
        sampler, noise = self._sampler, self._sampler.noise
        sampler.classifier.check_images(x)
        if not 1 <= x.ndim <= 3:
            raise ValueError(f"`x` must be one image (C, H, W), got shape {tuple(x.shape)}.")
        self._look(x[None])
        image_id = _image_id(x) if image_id is None else image_id
        selection = sampler.count(x[None], [image_id], 0, n0, SELECTION)[0]
        top = int(selection[:-1].argmax())
        votes = sampler.count(x[None], [image_id], 0, n, ESTIMATION)[0]
        counts, invalid = votes[:-1], int(votes[-1])
        result = certify_counts(
            counts,
            top,
            sigma=noise.sigma,
            alpha=alpha,
            method=method,
            grid=grid,
            invalid=invalid,
        )
        return Certificate(
            predicted=int(result.predicted),
            radius=float(result.radius),
            p_a_lower=float(result.p_a_lower),
            p_b_upper=float(result.p_b_upper),
            top=top,
            counts=counts,
            invalid=invalid,
            n0=n0,
            n=n,
            alpha=alpha,
            sigma=noise.sigma,
            method=method,
            seed=noise.seed,
            image_id=image_id,
        )

    def predict(self, x: Tensor, n: int = 1000, alpha: float = 0.001) -> NDArray[np.int64]:
        """Predict a batch: a class other than the most probable one is returned with probability
        at most `alpha`, per image.

        It abstains unless the two-sided binomial test of the two largest counts rejects at
        `alpha` (Hung and Fithian 2019; PREDICT of Cohen et al. 2019).

        Parameters
        ----------
        x : float tensor (S, ...), a batch of images
            On the classifier's device.
        n : int
            Samples per image.
        alpha : float
            Failure probability in (0, 1).

        Returns
        -------
        int64 array (S,)
            Classes; `ABSTAIN` (-1) where the vote is too close.
        """
        from tcertify.sampling import PREDICTION

        self._sampler.classifier.check_images(x)
        check_alpha("alpha", alpha)
        self._look(x)
        ids = [_image_id(image) for image in x]
        votes = self._sampler.count(x, ids, 0, check_whole("n", n), PREDICTION)
        return predict_counts(votes[:, :-1], alpha)

    def _look(self, images: Tensor) -> None:
        """Raise if certificates would be void: the range of all images, the rest on a first one."""
        from tcertify.sampling.defects import find_defects, outside_range, settle

        if len(images) == 0:
            return
        defects = outside_range(images)
        if not self._looked:
            defects += find_defects(self._sampler, images[:1])
        for text in settle(defects, self._allow):
            warnings.warn(text, stacklevel=3)
        self._looked = True

    def _limit(self, batch_size: int) -> None:
        """Go on with at most `batch_size` rows per forward pass."""
        from tcertify.sampling import Sampler

        here = self._sampler
        self._sampler = Sampler(here.classifier, here.noise, batch_size=batch_size)


class Smooth:
    """The smoothed classifier as the field's code calls it: ``from tcertify import Smooth``.

    Parameters
    ----------
    base_classifier : torch module or callable
        From a batch (B, C, H, W) to logits (B, num_classes).
    num_classes : int
    sigma : float
        Standard deviation of the noise, in the units of the images.
    seed : int
        From 0 to 2^64 - 1; the same call gives the same answer.
    method : {"joint", "t-certify", "certify"}
        As in `certify_counts`; "certify" is the one of Cohen et al. (2019).
    device, execution, allow
        As in `SmoothedClassifier`.
    """

    #: Returned for a class by both methods when they abstain.
    ABSTAIN = ABSTAIN

    def __init__(
        self,
        base_classifier: BaseClassifier | Classifier,
        num_classes: int,
        sigma: float,
        *,
        seed: int = 0,
        method: str = "joint",
        device: torch.device | str | None = None,
        execution: Execution | None = None,
        allow: Iterable[str] = (),
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
        self.base_classifier = base_classifier
        self.num_classes = num_classes
        self.sigma = sigma
        self.seed = seed
        self.method = method
        self._batch_size: int | None = None
        self._smoothed = SmoothedClassifier(
            base_classifier,
            num_classes,
            sigma,
            seed=seed,
            device=device,
            execution=execution,
            allow=allow,
        )

    def certify(
        self, x: Tensor, n0: int, n: int, alpha: float, batch_size: int
    ) -> tuple[int, float]:
        """Certify one image: with probability at least ``1 - alpha`` no perturbation of l2 norm
        below the radius changes the class.

        Parameters
        ----------
        x : float tensor (C, H, W)
            One image, on the classifier's device.
        n0, n : int
            Selection and estimation samples.
        alpha : float
            One-sided failure probability in (0, 1).
        batch_size : int
            Noisy copies per forward pass at most; fewer where that suits the device better. The
            noise does not depend on it.

        Returns
        -------
        (int, float)
            The class and its l2 radius; ``(-1, 0.0)`` where it abstains.
        """
        certificate = self._within(batch_size).certify(x, n0, n, alpha, self.method)
        return certificate.predicted, certificate.radius

    def predict(self, x: Tensor, n: int, alpha: float, batch_size: int) -> int:
        """Predict one image: a class other than the most probable one is returned with
        probability at most `alpha`.

        Parameters
        ----------
        x : float tensor (C, H, W)
            One image, on the classifier's device.
        n : int
            Samples.
        alpha : float
            Failure probability in (0, 1).
        batch_size : int
            As in `certify`.

        Returns
        -------
        int
            The class; -1 where the vote is too close.
        """
        return int(self._within(batch_size).predict(x[None], n, alpha)[0])

    def _within(self, batch_size: int) -> SmoothedClassifier:
        """Return the smoothed classifier; what it keeps goes when the limit is another one."""
        if batch_size != self._batch_size:
            self._smoothed._limit(batch_size)
            self._batch_size = batch_size
        return self._smoothed


def _image_id(x: Tensor) -> int:
    """Return 32 bits of a hash of the pixels: different images draw different noise."""
    pixels = x.detach().float().cpu().contiguous().numpy()
    return int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=4).digest(), "little")
