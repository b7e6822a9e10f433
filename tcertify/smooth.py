"""The smoothed classifier: certificates and predictions for single images."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tcertify._checks import check_alpha, check_whole
from tcertify.bounds import clopper_pearson_lower
from tcertify.certificates import ABSTAIN, GRID, METHODS, certify_counts, predict_counts
from tcertify.radius import largest_integer_change

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tcertify.classifiers.classifier import Classifier
    from tcertify.classifiers.execution import BaseClassifier, Execution
    from tcertify.sampling import Noise, Sampler


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
        Estimation votes lost to NaN logits; part of `n`, given to no class. Under integer noise
        also draws that tie, so that one is enough to abstain.
    n0, n : int
        Selection and estimation samples.
    alpha, sigma, method, seed
        As given.
    image_id : int
        The image id that, with `seed`, determines the noise.
    noise : str
        ``"integer"`` or ``"gaussian"``. Under integer noise the guarantee holds as executed.
    levels : int or None
        Grey levels above 0, under integer noise.
    squared_levels : int or None
        The certificate in integers: it covers every image whose pixels differ by grey levels with
        this sum of squares, or less. None under Gaussian noise, and where it abstains.
    n_tau : float or None
        Under Gaussian noise, which is not drawn exactly, the certificate is wrong with probability
        at most ``charged_alpha * exp(n_tau)`` (docs/guarantees.md); None under integer noise.
    charged_alpha : float
        What `counts` were certified at: `alpha`, or where `charge_noise` was asked for under
        Gaussian noise so much less that ``charged_alpha * exp(n_tau)`` is at most `alpha`.
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
    noise: str
    levels: int | None
    squared_levels: int | None
    n_tau: float | None
    charged_alpha: float


class SmoothedClassifier:
    """A base classifier under Gaussian noise: it answers the class that wins most votes.

    The same call gives the same counts: the noise depends on `seed`, on the image and on the
    sample's number, and on nothing else. So whoever chose the classifier or the image could know
    it: where they are not trusted, give a `seed` that they cannot have known.

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
    noise : {"auto", "integer", "gaussian"}
        Integer noise certifies images of whole grey levels as executed, float rounding included.
        "auto" takes it for each image all of whose pixels are k / `levels`, where sigma is at least
        0.3 levels, and Gaussian noise for every other; the certificate says which.
    levels : int, optional
        Grey levels above 0; 255, for images of 8 bits, without it.
    charge_noise : bool
        Certify and predict under Gaussian noise at so small a level that failure as drawn has
        probability at most alpha. Nothing is charged under integer noise.
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
        noise: str = "auto",
        levels: int | None = None,
        charge_noise: bool = False,
        seed: int = 0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        execution: Execution | None = None,
        allow: Iterable[str] = (),
    ) -> None:
        from tcertify.classifiers import Classifier  # these load torch
        from tcertify.sampling.defects import check_codes
        from tcertify.sampling.noise import check_charge, choose_noise

        self._allow = frozenset(allow)
        check_codes(self._allow)
        self._looked = False
        self._drawn = 0
        self._classifier = Classifier.of(
            base_classifier, num_classes, device=device, execution=execution
        )
        self._noise_of = partial(choose_noise, noise, sigma, seed, levels=levels)
        self._noise_of()  # which checks them all
        check_charge(charge_noise, noise)
        self._charge_noise = charge_noise
        self._limit(batch_size)

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
            x is a batch, not floating-point, not finite, or not of whole grey levels where integer
            noise was asked for; arguments out of range; logits whose shape is not
            (B, num_classes).
        VoidCertificateError
            A defect that `allow` does not hold.
        """
        from tcertify.sampling import ESTIMATION, SELECTION
        from tcertify.sampling.noise import MOST_OWED, owed

        n0, n = check_whole("n0", n0), check_whole("n", n)
        alpha = check_alpha("alpha", alpha)
        self._classifier.check_images(x)
        if not 1 <= x.ndim <= 3:
            raise ValueError(f"`x` must be one image (C, H, W), got shape {tuple(x.shape)}.")
        sampler = self._sampler_of(x)
        noise = sampler.noise
        level = self._level(noise, n, x, alpha)
        self._look(x[None], sampler)
        image_id = _image_id(x) if image_id is None else image_id
        selection = sampler.count(x[None], [image_id], 0, n0, SELECTION)[0]
        top = int(selection[:-1].argmax())
        votes = sampler.count(x[None], [image_id], 0, n, ESTIMATION)[0]
        counts, invalid = votes[:-1], int(votes[-1])
        result = certify_counts(
            counts,
            top,
            sigma=noise.sigma,
            alpha=level,
            method=method,
            grid=grid,
            invalid=invalid,
        ).only(noise.levels is None or not invalid)  # whose vote a tie is, nobody knows
        n_tau = noise.n_tau(n, x.numel(), level)
        if n_tau is not None and n_tau > MOST_OWED and not self._charge_noise:
            warnings.warn(owed(n_tau), stacklevel=2)
        radius = float(result.radius)
        return Certificate(
            predicted=int(result.predicted),
            radius=radius,
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
            noise=noise.kind,
            levels=noise.levels,
            squared_levels=_squared_levels(radius, noise.levels),
            n_tau=n_tau,
            charged_alpha=level,
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

        self._classifier.check_images(x)
        alpha, n = check_alpha("alpha", alpha), check_whole("n", n)
        predicted = np.full(len(x), ABSTAIN)
        of: dict[Sampler, list[int]] = {}
        for place, image in enumerate(x):
            of.setdefault(self._sampler_of(image), []).append(place)
        for sampler, places in of.items():
            images = x[places]
            level = self._level(sampler.noise, n, images[0], alpha)
            self._look(images, sampler)
            ids = [_image_id(image) for image in images]
            votes = sampler.count(images, ids, 0, n, PREDICTION)
            sure = (votes[:, -1] == 0) | (sampler.noise.levels is None)
            predicted[places] = np.where(sure, predict_counts(votes[:, :-1], level), ABSTAIN)
        return predicted

    def _level(self, noise: Noise, n: int, x: Tensor, alpha: float) -> float:
        """Return the level at which votes on an image support alpha."""
        return noise.charged_alpha(n, x.numel(), alpha) if self._charge_noise else alpha

    def _sampler_of(self, x: Tensor) -> Sampler:
        """Return the sampler of the noise that suits an image."""
        from tcertify.sampling import Sampler

        noise = self._noise_of(images=[x])
        if noise not in self._samplers:
            self._samplers[noise] = Sampler(self._classifier, noise, batch_size=self._batch_size)
        return self._samplers[noise]

    def _look(self, images: Tensor, sampler: Sampler) -> None:
        """Raise if certificates would be void: the range of all images, the rest on a first one."""
        from tcertify.sampling.defects import find_defects, outside_range, settle

        defects = outside_range(images)
        if not self._looked:
            defects += find_defects(sampler, images[:1])
        for text in settle(defects, self._allow):
            warnings.warn(text, stacklevel=3)
        self._looked = True

    def _draw(self, x: Tensor, n: int) -> NDArray[np.int64]:
        """Return the votes (C,) of `n` noisy copies of one image, fresh at each call."""
        from tcertify.sampling import DRAWN

        self._classifier.check_images(x)
        n, sampler = check_whole("n", n), self._sampler_of(x)
        self._look(x[None], sampler)
        first, self._drawn = self._drawn, self._drawn + n
        return sampler.count(x[None], [_image_id(x)], first, first + n, DRAWN)[0, :-1]

    def _limit(self, batch_size: int | None) -> None:
        """Go on with at most `batch_size` rows per forward pass."""
        self._batch_size = None if batch_size is None else check_whole("batch_size", batch_size)
        self._samplers: dict[Noise, Sampler] = {}


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
    noise, levels, charge_noise, device, execution, allow
        As in `SmoothedClassifier`.

    Notes
    -----
    Subclasses that bring a `certify` or `predict` of their own may call ``_sample_noise(x, num,
    batch_size)``, which returns votes (C,) that are fresh at each call, and
    ``_lower_confidence_bound(NA, N, alpha)``, Clopper and Pearson's. Neither is what `certify` and
    `predict` of this class call, so that a subclass which replaces one must replace those as well.
    """

    #: Returned for a class by both methods when they abstain.
    ABSTAIN = ABSTAIN

    def __init__(
        self,
        base_classifier: BaseClassifier | Classifier,
        num_classes: int,
        sigma: float,
        *,
        noise: str = "auto",
        levels: int | None = None,
        charge_noise: bool = False,
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
            noise=noise,
            levels=levels,
            charge_noise=charge_noise,
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
        x : float tensor (C, H, W), (1, C, H, W) or (H, W)
            One image, on the classifier's device; (H, W) has one channel.
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
        certificate = self._within(batch_size).certify(_one(x), n0, n, alpha, self.method)
        return certificate.predicted, certificate.radius

    def predict(self, x: Tensor, n: int, alpha: float, batch_size: int) -> int:
        """Predict one image: a class other than the most probable one is returned with
        probability at most `alpha`.

        Parameters
        ----------
        x : float tensor (C, H, W), (1, C, H, W) or (H, W)
            As in `certify`.
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
        return int(self._within(batch_size).predict(_one(x)[None], n, alpha)[0])

    def __init_subclass__(cls) -> None:
        needed = {"_sample_noise": ("certify", "predict"), "_lower_confidence_bound": ("certify",)}
        for helper, methods in needed.items():
            kept = [name for name in methods if getattr(cls, name) is getattr(Smooth, name)]
            if getattr(cls, helper) is not getattr(Smooth, helper) and kept:
                raise TypeError(
                    f"{cls.__name__} replaces `{helper}`, which `{kept[0]}` of Smooth does not"
                    " call: replace that as well."
                )

    def _sample_noise(self, x: Tensor, num: int, batch_size: int) -> NDArray[np.int64]:
        return self._within(batch_size)._draw(_one(x), num)

    def _lower_confidence_bound(self, NA: int, N: int, alpha: float) -> float:
        return float(clopper_pearson_lower(NA, N, alpha))

    def _within(self, batch_size: int) -> SmoothedClassifier:
        """Return the smoothed classifier; what it keeps goes when the limit is another one."""
        if batch_size != self._batch_size:
            self._smoothed._limit(batch_size)
            self._batch_size = batch_size
        return self._smoothed


def _one(x: Tensor) -> Tensor:
    """Return one image as (C, H, W), out of a batch of one or with its only channel."""
    if not hasattr(x, "ndim"):
        return x  # to be refused
    if x.ndim == 4 and len(x) == 1:
        return x[0]
    return x[None] if x.ndim == 2 else x


def _squared_levels(radius: float, levels: int | None) -> int | None:
    if levels is None or radius == 0:
        return None
    return int(largest_integer_change(radius, levels))


def _image_id(x: Tensor) -> int:
    """Return 32 bits of a hash of the pixels: different images draw different noise."""
    pixels = x.detach().float().cpu().contiguous().numpy()
    return int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=4).digest(), "little")
