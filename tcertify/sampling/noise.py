"""The noise that is added to images, drawn from (seed, image id, sample id, stream) alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tcertify._checks import check_positive, check_whole
from tcertify_kernels import add_noise

#: Streams of noise that never overlap: choosing the class, certifying it, predicting, and looking
#: at a network while it is trained.
SELECTION, ESTIMATION, PREDICTION, VALIDATION = 0, 1, 2, 3


@dataclass(frozen=True)
class GaussianNoise:
    """Independent normal noise on each element of a float image.

    Parameters
    ----------
    sigma : float
        Standard deviation, in the units of the images.
    seed : int
        From 0 to 2^64 - 1.
    """

    sigma: float
    seed: int = 0

    kind: ClassVar[str] = "gaussian"
    #: Grey levels above 0, of noise on integers.
    levels: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", check_positive("sigma", self.sigma))
        seed = check_whole("seed", self.seed, minimum=0, maximum=2**64 - 1)
        object.__setattr__(self, "seed", seed)

    def add(
        self,
        out: Tensor,
        images: Tensor,
        slot: Tensor,
        image_ids: Tensor,
        samples: Tensor,
        *,
        stream: int,
    ) -> Tensor:
        """Fill and return `out`: its row i is image ``slot[i]`` with sample ``samples[i]`` of the
        noise of ``image_ids[i]``. Everything is on one device, as `add_noise` has it.
        """
        return add_noise(
            out,
            images,
            slot,
            image_ids,
            samples,
            sigma=self.sigma,
            seed=self.seed,
            stream=stream,
        )
