"""Confidence bounds, each on the safe side of the exact real number. One bound a file."""

from .joint import joint_lower as joint_lower
