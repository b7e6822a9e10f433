"""Recertification: what else the votes that a run keeps may say, without a new sample."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcertify._checks import check_alpha, check_choice, check_non_negative
from tcertify.certificates import METHODS
from tcertify.errors import RunFileError
from tcertify.runs.file import RunFile
from tcertify.runs.row import Row
from tcertify.runs.settings import CERTIFICATE, NOTHING, Settings
from tcertify.runs.table import RunTable, table_of
from tcertify.statistics.families import step_down
from tcertify.statistics.groups import Groups
from tcertify.statistics.reported import check_target, keeps, reported_level
from tcertify.statistics.top_k import certify_top_k, check_k
from tcertify.votes import Votes

#: Rows that are certified together.
_ROWS = 256


def recertify_run(
    path: str | os.PathLike[str],
    *,
    method: str | None = None,
    alpha: float | None = None,
    reported: float | None = None,
    all_at_once: float | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    top_k: int | None = None,
) -> RunTable:
    """Return the table of a run for another question, from the votes that it keeps.

    Each certificate is wrong with probability at most `alpha` if all arguments were chosen without
    a look at the votes. No new sample is drawn, and a run that charges for its noise still does. A
    run that stopped early, or was topped up, keeps its looks; their levels are scaled to `alpha`,
    or with a reserve to the share of it that they have, and the best look counts. Images that
    stopped early did so where the run's own method and alpha had decided them, so that another
    choice certifies at most that far.

    Parameters
    ----------
    path : path
        A run of certificates.
    method, alpha : optional
        As for `certify_counts`; those of the run without them.
    reported : float, optional
        Keep the R of M images whose own certificate reaches this radius, and certify these at
        ``alpha R / M``: of the certificates that are kept, a share of at most `alpha` is wrong in
        expectation. The others abstain. Which are kept is read from the certificates that the run
        holds, where `method` and `alpha` are its own. See `certify_reported`.
    all_at_once : float, optional
        List the images that are robust at this radius, at 0 those whose class is the answer at all:
        the probability that any of these statements is wrong is at most `alpha`. The listed ones
        have this radius and no bounds, the others abstain. See `certify_family`.
    groups : mapping from names to classes, optional
        Certify the group instead of the class; see `Groups`. Labels and predictions of the table
        are then numbers of groups.
    top_k : int, optional
        Certify that the label stays among so many most probable classes; see `certify_top_k`.

    Returns
    -------
    RunTable
        Its ``claim`` says in words what it holds.

    Raises
    ------
    RunFileError, ValueError
        The file is no run of certificates, a row's votes cannot be read, arguments are out of
        range, `top_k` together with a `method`, `all_at_once` together with `reported` or `top_k`,
        `reported` or `all_at_once` for a run that is not complete, `reported` for one that was
        topped up, since the votes of other images may be why, or `all_at_once`, `groups` or `top_k`
        for a run that stopped early: an image's samples ended where its own class was decided at
        its own alpha, not its group, nor at the smaller level of a family.
    """
    radius = None if reported is None else check_target(reported, "reported")
    if all_at_once is not None:
        all_at_once = check_non_negative("all_at_once", all_at_once)
        for name, value in (("reported", reported), ("top_k", top_k)):
            if value is not None:
                raise ValueError(f"`{name}` must not be given with `all_at_once`, got {value!r}.")
    with RunFile(path) as run:
        question = _Question.of(run, method, alpha, groups, top_k, all_at_once)
        table = table_of(run)
        if radius is not None and run.settings.topped_up:
            raise ValueError(
                f"`reported` needs a run that was not topped up: `{run.path}` was, and the votes of"
                " other images may be why an image has more samples."
            )
        for name, value in (("reported", radius), ("all_at_once", all_at_once)):
            if value is not None and table.missing:
                raise ValueError(
                    f"`{name}` needs all images of the run: `{run.path}` has {table.missing} still"
                    " to do, and where it ended may depend on what it had found."
                )
        kept, claim = None, question.claim()
        every = np.ones(len(table), dtype=bool)
        if all_at_once is not None:
            best = _at_once(run, question, len(table), all_at_once)
            kept = best["predicted"] >= 0
            claim.append(_family_claim(kept, all_at_once, question.after.alpha))
        elif radius is None or not question.is_the_run_s:
            best = _answered(run, question, every)
        if radius is not None:
            # an image's own certificate, as it stands in the run where that asks the same
            radii = table.radius if question.is_the_run_s else best["radius"]
            kept, level = _kept(radii, radius, question.after.alpha)
            asked, question = question.after, question.at(level)
            claim.append(_reported_claim(kept, radius, asked.spent, question.after.spent))
            best = _answered(run, question, kept)
    after = question.after
    return replace(
        table,
        label=table.label if question.groups is None else question.groups.index[table.label],
        predicted=best["predicted"].copy(),
        radius=best["radius"].copy(),
        p_a_lower=best["p_a"].copy(),
        p_b_upper=best["p_b"].copy(),
        squared_levels=after.squared_levels(
            # a class that is the answer at all is that at the image itself, which radius 0 denies
            np.where(best["predicted"] >= 0, np.maximum(best["radius"], np.nextafter(0, 1)), 0)
        ),
        settings=after,
        parameters={
            **table.parameters,
            **json.loads(json.dumps(asdict(after))),
            **question.asked(reported),
        },
        claim=" ".join(claim),
        top_k=top_k,
        all_at_once=all_at_once,
        kept=kept,
    )


def read_votes(
    path: str | os.PathLike[str], groups: Mapping[str, Sequence[int]] | None = None
) -> tuple[Votes, NDArray[np.int64]]:
    """Return the estimation votes of a run and the label of each image, shape (M,).

    What the functions of `tcertify.statistics` take. The votes of an image that failed are all
    invalid, which certifies nothing, and so are those of an image with a tie of integer noise.

    Parameters
    ----------
    path : path
        A run of certificates that did not stop early and was not topped up. Of a run with a
        reserve these are the votes for ``alpha * (1 - reserve)``, as long as it may be topped up.
    groups : mapping from names to classes, optional
        As for `recertify_run`.

    Raises
    ------
    RunFileError, ValueError
        As for `recertify_run`, or a run that stopped early or was topped up.
    """
    with RunFile(path) as run:
        question = _Question.of(run, None, None, groups)
        if run.settings.radii is not None:
            raise ValueError(f"`{path}` stopped early: its images have votes of different number.")
        if run.settings.topped_up:
            raise ValueError(
                f"`{path}` was topped up: its votes are not of a number that was fixed beforehand."
            )
        rows = [row for batch in _batches(run) for row in batch]
    nothing = np.zeros(run.settings.num_classes + 1, np.int64)
    nothing[-1] = run.settings.n
    ties = run.settings.levels is not None
    columns = np.array(
        [
            nothing if row.error is not None or (ties and row.invalid) else row.looks[0]
            for row in rows
        ]
    )
    labels = np.array([row.label for row in rows], dtype=np.int64)
    votes = Votes.from_columns(
        columns.reshape(-1, len(nothing)), np.array([max(row.top, 0) for row in rows], np.int64)
    )
    if question.groups is None:
        return votes, labels
    top = np.array([question.top(row) for row in rows], dtype=np.int64)
    summed = question.groups.votes(votes.counts)
    return Votes(summed, top, votes.invalid), question.groups.index[labels]


@dataclass(frozen=True)
class _Question:
    """What is asked of the votes of a run; `after` are the settings of the answer, and `order` is
    the level as at which the joint method ranks outcomes, where it is not that of `after`.
    """

    before: Settings
    after: Settings
    groups: Groups | None
    top_k: int | None
    all_at_once: float | None
    order: float | None = None

    @classmethod
    def of(
        cls,
        run: RunFile,
        method: str | None,
        alpha: float | None,
        groups: Mapping[str, Sequence[int]] | None,
        top_k: int | None = None,
        all_at_once: float | None = None,
    ) -> _Question:
        before = run.settings
        if before.predicts:
            raise RunFileError(f"`{run.path}` holds predictions, which have no radius.")
        asked = {"all_at_once": all_at_once, "groups": groups, "top_k": top_k}
        for name, value in asked.items():
            if value is not None and before.radii is not None:
                raise ValueError(
                    f"`{name}` needs a run that did not stop early: the images of `{run.path}` were"
                    " sampled until the class of each was decided."
                )
        if top_k is not None and method is not None:
            raise ValueError(f"`method` must not be given with `top_k`, got {method!r}.")
        named = None if groups is None else Groups.of(groups, before.num_classes)
        classes = before.num_classes if named is None else len(named)
        if top_k is not None:
            check_k(top_k, classes, "top_k")
        method = before.method if method is None else check_choice("method", method, METHODS)
        after = replace(before, method=method, num_classes=classes)
        alpha = before.alpha if alpha is None else check_alpha("alpha", alpha)
        return cls(before, after, named, top_k, all_at_once).at(alpha)

    def at(self, alpha: float) -> _Question:
        """The same question at another alpha."""
        before = self.before
        levels = before.look_levels
        if alpha != before.alpha:
            spent = before.charged(alpha) * (before.spent / before.alpha)
            levels = before.schedule.scaled(spent).levels
        return replace(self, after=replace(self.after, alpha=alpha, look_levels=levels))

    @property
    def is_the_run_s(self) -> bool:
        """Whether the run itself answers: its own method and alpha, classes and not groups."""
        return self.after == self.before and self.groups is None and self.top_k is None

    def asked(self, reported: float | None) -> dict[str, Any]:
        """What was asked for besides the settings, as it stands among the parameters."""
        names = None if self.groups is None else [*self.groups.names]
        index = None if self.groups is None else self.groups.index.tolist()
        given = {
            "reported": reported,
            "all_at_once": self.all_at_once,
            "top_k": self.top_k,
            "group_names": names,
            "group_of_class": index,
        }
        return {name: value for name, value in given.items() if value is not None}

    def claim(self) -> list[str]:
        """Return what the certificates say, where it is not what certificates usually say."""
        said = [self.after.claim] if self.after.claim else []
        if self.groups is not None:
            names = ", ".join(
                f"{number} is {name}" for number, name in enumerate(self.groups.names)
            )
            said.append(
                "Certified are groups of classes, which must have been fixed before the votes were"
                f" seen: label {names}."
            )
        if self.top_k is not None:
            said.append(
                f"Certified is that the label stays among the {self.top_k} most probable classes,"
                f" each wrongly with probability at most {self.after.alpha:g}."
            )
        return said

    def top(self, row: Row) -> int:
        """The class to certify: the selected one, or the label, which no vote has a part in."""
        if self.top_k is not None:
            return row.label if self.groups is None else int(self.groups.index[row.label])
        if self.groups is None:
            return row.top
        return int(self.groups.votes(row.selection[:-1]).argmax())

    def certificates(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Return for each row the certificate of the look that gives the largest radius."""
        found = np.full(len(rows), np.array(NOTHING, CERTIFICATE))
        whole = [place for place, row in enumerate(rows) if row.error is None]
        if not whole:
            return found
        looks = [len(rows[place].looks) for place in whole]
        votes = Votes.from_columns(
            np.concatenate([rows[place].looks for place in whole]),
            np.repeat([self.top(rows[place]) for place in whole], looks),
        )
        if self.groups is not None:
            votes = replace(votes, counts=self.groups.votes(votes.counts))
        every = self._certificates(votes, np.concatenate([np.arange(k) for k in looks]))
        for place, part in zip(whole, np.split(every, np.cumsum(looks)[:-1]), strict=True):
            found[place] = part[part["radius"].argmax()]
        return found

    def _certificates(self, votes: Votes, look: NDArray[np.int64]) -> NDArray[Any]:
        if self.top_k is None:
            return self.after.certificates(votes, look, self.order)
        return self.after.at_looks(votes, look, partial(certify_top_k, k=self.top_k))


def _answered(run: RunFile, question: _Question, wanted: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the certificates of the images that are wanted; the others abstain."""
    found = np.full(len(wanted), np.array(NOTHING, CERTIFICATE))
    done = 0
    for rows in _batches(run):
        places = [place for place in range(len(rows)) if wanted[done + place]]
        found[done + np.array(places, int)] = question.certificates([rows[p] for p in places])
        done += len(rows)
    if done < len(wanted):
        raise RunFileError(f"`{run.path}` is damaged: {run.damage[-1]}")
    return found


def _at_once(run: RunFile, question: _Question, images: int, radius: float) -> NDArray[Any]:
    """Return what Holm's test certifies at a radius, all at once.

    A level of the test is charged for the noise as that of any certificate is, and so is the one
    that ranks outcomes.
    """
    alpha = question.after.alpha
    question = replace(question, order=question.before.charged(alpha / max(1, images)))

    def at(level: float, wanted: NDArray[np.bool_]) -> NDArray[Any]:
        return _answered(run, question.at(level), wanted)

    alone = at(alpha, np.ones(images, dtype=bool))
    kept = step_down(
        keeps(alone["radius"], radius),
        alpha,
        lambda wanted, level: keeps(at(level, wanted)["radius"], radius),
    )
    found = np.full(images, np.array(NOTHING, CERTIFICATE))
    found["predicted"][kept], found["radius"][kept] = alone["predicted"][kept], radius
    return found


def _batches(run: RunFile) -> Iterator[tuple[Row, ...]]:
    every = run.rows()
    while rows := tuple(islice(every, _ROWS)):
        for row in rows:
            try:
                row.check(run.settings)
            except ValueError as error:
                raise RunFileError(f"`{run.path}`, image {row.image_id}: {error}") from None
        yield rows


def _kept(
    radii: NDArray[np.float64], radius: float, alpha: float
) -> tuple[NDArray[np.bool_], float]:
    if not len(radii):
        raise ValueError("`reported` needs a run with at least one image.")
    kept = keeps(radii, radius)
    return kept, reported_level(int(kept.sum()), len(kept), alpha)


def _reported_claim(kept: NDArray[np.bool_], radius: float, alpha: float, level: float) -> str:
    reaches = f"reaches radius {radius:g}" if radius else "certifies a radius"
    return (
        f"{int(kept.sum())} of the {len(kept)} images were kept because their certificate at"
        f" {alpha:g} {reaches}; they are certified at {level:g}, the others abstain: of the"
        f" certificates of the kept images, a share of at most {alpha:g} is wrong in expectation."
    )


def _family_claim(kept: NDArray[np.bool_], radius: float, alpha: float) -> str:
    number, exact = int(kept.sum()), repr(radius).removesuffix(".0")
    listed = (
        f"{number} of the {len(kept)} images are robust at radius {exact}"
        if radius
        else f"The class is the answer on {number} of the {len(kept)} images"
    )
    return (
        f"{listed}, all at once: the probability that any of these statements is wrong is at most"
        f" {alpha:g}."
    )
