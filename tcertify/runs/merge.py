"""Merging: the shards of a run become the run that a single process would have made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tcertify.errors import RunFileError
from tcertify.runs.file import RunCopy, RunFile, differences, whole_copy
from tcertify.runs.lock import check_unlocked
from tcertify.runs.provenance import check_same_probe
from tcertify.runs.row import Record, Row
from tcertify.runs.settings import Settings
from tcertify.runs.shards import describe_part, part_of, shard_of
from tcertify.runs.table import RunTable, read_run

#: Of what is missing, a sentence names this many commands, and images of each.
_NAMED = 10

#: Characters that the record of the parts may take; beyond, only their number is kept.
_MOST_RECORD = 2**18


@dataclass(frozen=True)
class _Part:
    """One of the files: its head, but for what all have in common."""

    path: Path
    settings: Settings
    parameters: dict[str, Any]
    environment: dict[str, Any]
    plan: list[int]
    whole: list[int]

    @property
    def is_shard(self) -> bool:
        return len(self.plan) < len(self.whole)


def merge_runs(runs: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> RunTable:
    """Join the shards of a run into one run file, whose rows are those of a single process.

    Memory does not grow with the rows. Runs of different images, made one by one with equal
    settings, can be joined as well. Of an image that stands in several files, the first row is
    kept; they must be equal in all but their time. Warnings are kept.

    Parameters
    ----------
    runs : paths
        At least two run files, none of them being written.
    out : path
        The run file to make, which must not exist. It appears under its name only when it holds
        every image of the run.

    Returns
    -------
    RunTable

    Raises
    ------
    ValueError
        Fewer than two files.
    RunFileError
        A file is no run file, damaged, or being written; files differ in settings, model, data or
        versions, or belong to different runs; an image has different rows; images are missing, with
        the command that makes them; or `out` exists or cannot be written. Nothing is written then.
    """
    given = [runs] if isinstance(runs, (str, os.PathLike)) else runs
    paths, target = [Path(path) for path in given], Path(out)
    if len(paths) < 2:
        raise ValueError(f"`runs` must be at least two run files to merge, got {len(paths)}.")
    if os.path.lexists(target):
        raise RunFileError(f"`{target}` exists, and merging replaces nothing: choose another name.")
    parts = _parts(paths)
    whole = _whole(parts)
    with whole_copy(target, parts[0].parameters, _made_where(parts), whole) as copy:
        for number, part in enumerate(parts):
            _copy_rows(copy, part, parts[:number])
        absent = np.setdiff1d(whole, copy.images()).tolist()
        if absent:
            raise RunFileError(_missing(parts, whole, absent))
    return read_run(target)


def _parts(paths: Sequence[Path]) -> list[_Part]:
    """Read the heads of the files; raise unless all were made in the same way."""
    parts: list[_Part] = []
    for path in paths:
        check_unlocked(path)
        with RunFile(path) as run:
            run.check_structure()
            part = _Part(path, run.settings, run.parameters, run.environment, run.plan, run.whole)
        if parts:
            part = _like(parts[0], part)
        parts.append(part)
    return parts


def _like(first: _Part, part: _Part) -> _Part:
    """Return a part that was made as the first was, without a copy of what they share."""
    if (first.is_shard or part.is_shard) and part.whole != first.whole:
        raise RunFileError(
            f"`{part.path}` holds {describe_part(part.plan, part.whole)} and `{first.path}`"
            f" {describe_part(first.plan, first.whole)}, which are not the same images."
        )
    found = [
        f"{name} is {there} in `{first.path}` and {here} in `{part.path}`"
        for name, there, here in differences(first.parameters, part.parameters)
    ]
    if found:
        raise RunFileError(f"Cannot merge what was made otherwise: {'; '.join(found)}.")
    check_same_probe(
        first.path, part.path, first.parameters, part.parameters, first.settings.num_classes
    )
    whole = first.whole if part.whole == first.whole else part.whole
    return replace(part, settings=first.settings, parameters=first.parameters, whole=whole)


def _whole(parts: Sequence[_Part]) -> list[int]:
    """Return the images of the run that the parts make up, in its order."""
    if any(part.is_shard for part in parts):
        return parts[0].whole
    return [*dict.fromkeys(image for part in parts for image in part.plan)]


def _made_where(parts: Sequence[_Part]) -> dict[str, Any]:
    """Return the facts that all parts share, and what differs, part by part."""
    first = parts[0].environment
    shared = {
        name: value
        for name, value in first.items()
        if all(name in part.environment and part.environment[name] == value for part in parts)
    }
    own: Any = [
        {"file": part.path.name}
        | {name: value for name, value in part.environment.items() if name not in shared}
        for part in parts
    ]
    return {**shared, "merged": own if len(json.dumps(own)) <= _MOST_RECORD else len(own)}


def _copy_rows(copy: RunCopy, part: _Part, before: Sequence[_Part]) -> None:
    """Add the rows of a part; raise where it is damaged or contradicts one before."""
    planned = {*part.plan}
    with RunFile(part.path) as run:
        for record in run.records():
            if record.image_id not in planned:
                raise RunFileError(
                    f"`{part.path}` is damaged: image {record.image_id} is not in its plan."
                )
            there = copy.add(record)
            if there is not None:
                _check_same(there, record, part, before)
        if run.damage:
            raise RunFileError(
                f"`{part.path}` is damaged: {run.damage[0]} A resume of it makes such rows again."
            )
        for text in run.warnings:
            copy.warn(text)


def _check_same(there: Record, here: Record, part: _Part, before: Sequence[_Part]) -> None:
    if there._replace(seconds=here.seconds) == here or _same_votes(there, here, part.settings):
        return
    differing = [
        name
        for name in Record._fields
        if name != "seconds" and getattr(there, name) != getattr(here, name)
    ]
    owner = next((other.path for other in before if here.image_id in other.plan), part.path)
    raise RunFileError(
        f"`{owner}` and `{part.path}` hold different rows for image {here.image_id}: they differ in"
        f" {', '.join(differing)}."
    )


def _same_votes(there: Record, here: Record, settings: Settings) -> bool:
    """Whether rows are the same though their votes were packed by another version of zlib."""
    try:
        first, second = (Row.from_record(record, settings) for record in (there, here))
    except ValueError:
        return False
    return replace(first, seconds=0.0) == replace(second, seconds=0.0)


def _missing(parts: Sequence[_Part], whole: list[int], absent: list[int]) -> str:
    """Return which images are missing, and the commands that make them."""
    made = [*_commands(parts, whole, absent)]
    said = [f"{command} makes {_counted(images)}" for command, images in made[:_NAMED]]
    if len(made) > _NAMED:
        said.append(f"and {len(made) - _NAMED} more commands the rest")
    known = {image for _, images in made for image in images}
    rest = [image for image in absent if image not in known]
    if rest:
        said.append(f"no file plans {_counted(rest)}")
    return (
        f"{len(absent)} of {len(whole)} images are missing, so that nothing was written:"
        f" {'; '.join(said)}."
    )


def _commands(
    parts: Sequence[_Part], whole: list[int], absent: list[int]
) -> Iterator[tuple[str, list[int]]]:
    """Yield commands with the missing images that each makes."""
    left = {*absent}
    settings = parts[0].settings
    start = f"tcertify {'predict' if settings.predicts else 'certify'} ..."
    parameters = f"--seed {settings.seed}"
    shards = [shard_of(part.plan, whole) if part.is_shard else None for part in parts]
    for part, shard in zip(parts, shards, strict=True):
        images = [image for image in part.plan if image in left]
        left.difference_update(images)
        if images:
            option = f" --shard {shard[0]}/{shard[1]}" if shard else ""
            log = str(part.path).removesuffix(".run")
            yield f"`{start} {log} {parameters}{option} --resume`", images
    most = max((shard[1] for shard in shards if shard), default=0)
    for number in range(1, most + 1 if left else 1):
        images = [image for image in part_of(whole, (number, most)) if image in left]
        if images:
            yield f"`{start} {parameters} --shard {number}/{most}`", images


def _counted(images: list[int]) -> str:
    """Return how many images these are, and the first of them."""
    shown = ", ".join(map(str, images[:_NAMED])) + (", ..." if len(images) > _NAMED else "")
    return f"{len(images)} (image{'s' if len(images) > 1 else ''} {shown})"
