"""The seed of a run: a number, a secret one, or one that nobody chooses."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from tcertify._checks import check_whole
from tcertify.runs.settings import MAX_SEED, Settings

if TYPE_CHECKING:
    from tcertify.classifiers import Classifier
    from tcertify.data import Dataset

#: Seeds that have a name.
RANDOM, DERIVED = "random", "derived"


def check_seed(seed: int | str) -> None:
    """Refuse what is neither a seed nor the name of one."""
    if isinstance(seed, str):
        if seed not in (RANDOM, DERIVED):
            raise ValueError(f"`seed` must be a whole number, random or derived, got {seed!r}.")
    else:
        check_whole("seed", seed, minimum=0, maximum=MAX_SEED)


def random_seed() -> int:
    """Return a seed from the system's entropy."""
    return secrets.randbelow(MAX_SEED + 1)


def with_seed(
    settings: Settings,
    seed: int | str,
    classifier: Classifier,
    dataset: Dataset,
    plan: Sequence[int],
    there: Settings | None,
) -> Settings:
    """Return the settings with the seed of the run; `there` are those of the one it resumes.

    A derived seed is 63 bits of the SHA-256 of the model's fingerprint, the data's and the
    settings.
    """
    if seed == RANDOM:
        return replace(settings, seed=random_seed() if there is None else there.seed)
    if seed == DERIVED:
        from tcertify.data.fingerprint import data_fingerprint

        data = data_fingerprint(dataset, sorted(plan))
        known = [classifier.fingerprint(), data, {**asdict(settings), "seed": None}]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).digest()
        return replace(settings, seed=int.from_bytes(digest[:8], "little") & MAX_SEED)
    return replace(settings, seed=int(seed))
