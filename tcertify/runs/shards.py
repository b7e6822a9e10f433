"""Shards: one run, made in parts by processes that need not know of each other.

A run of M images has the shards 1/N to N/N: shard I/N is every N-th image from the I-th on.
Everything that rows depend on is decided by the whole run, so that a shard's rows are the run's.
"""

from __future__ import annotations

from typing import Any, TypeVar

from tcertify._checks import check_whole
from tcertify.runs.seeds import RANDOM

Images = TypeVar("Images", list[int], range)


def check_shard(shard: Any, images: int, seed: int | str, *, resumed: bool) -> tuple[int, int]:
    """Return a shard as (I, N); it must be one of a run of so many images, and have its seed."""
    try:
        number, parts = shard
        check_whole("shard", number)
        check_whole("shard", parts, minimum=number)
    except (TypeError, ValueError):
        raise ValueError(
            f"`shard` must be two whole numbers, I of N with I from 1 to N, got {_shown(shard)}."
        ) from None
    if parts > images:
        raise ValueError(
            f"`shard` must have at most as many parts as images, got {number}/{parts} for {images}."
        )
    if seed == RANDOM and not resumed and parts > 1:
        raise ValueError(
            "`seed` must not be random for a `shard`, since all shards of a run need the same: give"
            " a number to each, or derived, which they work out alike."
        )
    return int(number), int(parts)


def part_of(whole: Images, shard: tuple[int, int] | None) -> Images:
    """Return the images of a shard, in the order of the whole run."""
    if shard is None:
        return whole
    number, parts = shard
    return whole[number - 1 :: parts]


def shard_of(plan: list[int], whole: list[int]) -> tuple[int, int] | None:
    """Return (I, N) with which `part_of` gives this plan; the least N, or None without one."""
    if not plan or plan[0] not in whole:
        return None
    first, images = whole.index(plan[0]), len(whole)
    parts = max(first + 1, images - first)
    if len(plan) > 1:
        parts = whole.index(plan[1]) - first if plan[1] in whole else 0
    found = first + 1, parts
    return found if parts > first and part_of(whole, found) == plan else None


def describe_part(plan: list[int], whole: list[int]) -> str:
    """Return what part of a run a plan is, in words."""
    if len(plan) == len(whole):
        return f"a run of {len(whole)} images"
    found = shard_of(plan, whole)
    part = f"{len(plan)} images" if found is None else f"shard {found[0]}/{found[1]}"
    return f"{part} of a run of {len(whole)} images"


def _shown(shard: Any) -> str:
    """Return a shard as the command line writes it, where it is two numbers."""
    if isinstance(shard, tuple) and [*map(type, shard)] == [int, int]:
        return f"{shard[0]}/{shard[1]}"
    return repr(shard)
