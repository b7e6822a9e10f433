"""Training that makes smoothed classifiers certify well: the ADRE risk and its adversary."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adre_train.attack import pgd as pgd
    from adre_train.attack import smooth_adv as smooth_adv
    from adre_train.risk import adre_risk as adre_risk
    from adre_train.risk import radius_risk as radius_risk
    from adre_train.risk import stability as stability

_HOME = {
    "adre_risk": "risk",
    "radius_risk": "risk",
    "stability": "risk",
    "smooth_adv": "attack",
    "pgd": "attack",
}


def __getattr__(name: str) -> Any:
    # At first use, not at import: these load torch, and the demo's command need not.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
