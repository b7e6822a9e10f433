"""The table of certified accuracies: the only place where one is computed and laid out."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcertify._checks import check_positive
from tcertify.logs.tsv import format_down
from tcertify.report.results import Result
from tcertify.statistics.curves import (
    Estimate,
    average_certified_radius,
    certified_accuracy,
)
from tcertify.statistics.populations import population_sentence, robust_share_lower

#: More rows than anybody reads.
_MOST_RADII = 1000

#: Without a step of their own, tables have no more radii than this.
_FEW_RADII = 16


@dataclass(frozen=True, eq=False)
class Summary:
    """What a table says of one result; every interval is at 95 %.

    Of reported images, or images certified all at once, what one gets depends on the others, so
    that no interval over images holds: both its ends are NaN, and no table shows them.

    Attributes
    ----------
    result : Result
    accuracy : tuple of Estimate or None
        The share of images that are right and certified at each radius of the table, with its
        exact interval over images; None where an early-stopped run did not decide the radius.
    acr : Estimate or None
        The average certified radius with its bootstrap interval; None where some radii alone were
        decided, as in a run that stopped early, and for predictions.
    abstained : Estimate or None
        The share of images without an answer; None for a run that stopped early.
    samples : float or None
        Mean estimation samples per image; None for a log, which does not say it.
    """

    result: Result
    accuracy: tuple[Estimate | None, ...]
    acr: Estimate | None
    abstained: Estimate | None
    samples: float | None


@dataclass(frozen=True, eq=False)
class Table:
    """Certified accuracies of several results at the same radii.

    Attributes
    ----------
    radii : tuple of float
    columns : tuple of Summary
        One for each result, in order.
    """

    radii: tuple[float, ...]
    columns: tuple[Summary, ...]

    def records(self) -> list[dict[str, Any]]:
        """Return the table as one dictionary for each result, ready for JSON."""
        return [_record(column, self.radii) for column in self.columns]

    def to(self, layout: str) -> str:
        """Return the table as text, Markdown, LaTeX (booktabs) or CSV.

        Text has one line per radius and one column per result; Markdown and LaTeX have one line per
        result, with the best of each column in bold; CSV has one line per number. All hold the
        intervals.
        """
        if layout not in _LAYOUTS:
            raise ValueError(f"`layout` must be one of {', '.join(_LAYOUTS)}, got {layout!r}.")
        return _LAYOUTS[layout](self)

    def compact(self, *, gain: bool = False) -> str:
        """Return one line per result, without intervals; `gain` adds the last less the first."""
        return _compact(self, gain)

    def notes(self) -> list[str]:
        """Return what a reader must know of the results besides, one sentence each."""
        return [
            note
            for column in self.columns
            for note in (*_notes(column.result), *self._of_population(column))
        ]

    def _of_population(self, column: Summary) -> list[str]:
        """Return what the certificates say of the population, at two radii at most.

        These are the first of the table and the one nearest to sigma, which no vote has a part in.
        """
        result = column.result
        if result.alpha is None or result.sigma is None or result.predicts or result.reported:
            return []
        sigma, name = result.sigma, f"{result.name}: " if len(self.columns) > 1 else ""
        nearest = min(self.radii, key=lambda radius: abs(radius - sigma))
        return [
            name + sentence
            for radius in dict.fromkeys((self.radii[0], nearest))
            if (sentence := _of_population(column, self.radii.index(radius), radius))
        ]


def certified_table(results: Sequence[Result], radii: Iterable[float] | None = None) -> Table:
    """Tabulate certified accuracy at `radii`, average certified radius, abstention and samples.

    Parameters
    ----------
    results : sequence of Result
        At least one, each with at least one image.
    radii : iterable of float, optional
        By default the radii that early-stopped runs decided and, where there are other results,
        equal steps up to the largest radius.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        No result, a result without an image, or radii that are negative or not finite.
    """
    if not results:
        raise ValueError("`results` must hold at least one run or log.")
    for result in results:
        if not len(result):
            raise ValueError(f"{result.name} holds no image yet.")
    chosen = tuple(_usual_radii(results) if radii is None else map(float, radii))
    return Table(chosen, tuple(_summary(result, chosen) for result in results))


def radii_up_to(largest: float, step: float | None = None) -> list[float]:
    """Return 0, step, 2 step, ... up to the first radius that is at least `largest`.

    Without a step it is 0.25, doubled until there are no more than 16 radii.

    Raises
    ------
    ValueError
        `step` is not positive, or so small that more than 1,000 radii come out.
    """
    if step is None:
        step = 0.25
        while largest / step > _FEW_RADII - 1:
            step *= 2
    count = math.ceil(min(largest / check_positive("step", step), 2.0 * _MOST_RADII)) + 1
    if count > _MOST_RADII:
        raise ValueError(
            f"`step` must leave at most {_MOST_RADII} radii up to {largest:g}, got {step:g}."
        )
    return [step * number for number in range(count)]


def check_radii_known(result: Result) -> None:
    """Refuse a log of a run that stopped early: it does not say which radii were decided."""
    if result.stopped_early and result.radii is None:
        raise ValueError(
            f"{result.name} is the log of a run that stopped early, which does not say at which"
            " `radii`: give them, or the run file."
        )


def _usual_radii(results: Sequence[Result]) -> list[float]:
    for result in results:
        check_radii_known(result)
    decided = {r for result in results for r in result.radii or ()}
    whole = [result for result in results if result.radii is None]
    largest = max((float(result.radius.max()) for result in whole), default=None)
    return sorted(decided.union(radii_up_to(largest) if largest is not None else ()))


def _summary(result: Result, radii: tuple[float, ...]) -> Summary:
    whole = not result.stopped_early
    certifies = whole and result.radii is None
    acr = average_certified_radius(result.radius, result.correct) if certifies else None
    summary = Summary(
        result=result,
        accuracy=_accuracies(result, radii),
        acr=acr,
        abstained=_share(result.predicted < 0) if whole else None,
        samples=None if result.n is None else float(result.n.mean()),
    )
    if not result.reported:
        return summary
    return replace(
        summary,
        accuracy=tuple(map(_value_alone, summary.accuracy)),
        acr=_value_alone(summary.acr),
        abstained=_value_alone(summary.abstained),
    )


def _accuracies(result: Result, radii: tuple[float, ...]) -> tuple[Estimate | None, ...]:
    curve = certified_accuracy(result.radius, result.correct, np.array(radii))
    found = zip(curve.share.tolist(), curve.lower.tolist(), curve.upper.tolist(), strict=True)
    known = [result.radii is None or radius in result.radii for radius in radii]
    return tuple(
        Estimate(*values) if is_known else None
        for values, is_known in zip(found, known, strict=True)
    )


def _share(flags: NDArray[np.bool_]) -> Estimate:
    """Return the share of True, with its exact interval."""
    everywhere: ArrayLike = np.zeros(len(flags))
    curve = certified_accuracy(everywhere, flags, 0.0)
    return Estimate(float(curve.share), float(curve.lower), float(curve.upper))


def _value_alone(estimate: Estimate | None) -> Estimate | None:
    return None if estimate is None else Estimate(estimate.value, math.nan, math.nan)


def _ends(estimate: Estimate) -> tuple[float, float] | tuple[None, None]:
    """Return the interval, where there is one."""
    if math.isnan(estimate.lower):
        return None, None
    return estimate.lower, estimate.upper


def _record(column: Summary, radii: tuple[float, ...]) -> dict[str, Any]:
    result = column.result
    return {
        "name": result.name,
        "method": result.method,
        "alpha": result.alpha,
        "sigma": result.sigma,
        "images": len(result),
        "failed": result.failed,
        "missing": result.missing,
        "shard_of": result.shard_of,
        "stopped_early": result.stopped_early,
        "claim": result.claim,
        "certified_accuracy": [
            {"radius": radius, **(_numbers(estimate) or {"value": None})}
            for radius, estimate in zip(radii, column.accuracy, strict=True)
        ],
        "acr": _numbers(column.acr),
        "abstained": _numbers(column.abstained),
        "mean_samples": column.samples,
    }


def _numbers(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    lower, upper = _ends(estimate)
    return {"value": estimate.value, "lower": lower, "upper": upper}


# --- how cells are written ------------------------------------------------------------------


def _value(estimate: Estimate | None, decimals: int, *, down: bool = False) -> str:
    """Return an estimate's value; a radius is never shown above itself."""
    if estimate is None:
        return "-"
    if down:
        return format_down(estimate.value, decimals)
    return f"{estimate.value:.{decimals}f}"


def _interval(estimate: Estimate | None, decimals: int) -> str:
    """Return an interval, widened to the decimals shown."""
    lower, upper = (None, None) if estimate is None else _ends(estimate)
    if lower is None or upper is None:
        return ""
    widened = format_down(-upper, decimals).removeprefix("-")
    return f"[{format_down(lower, decimals)}, {widened}]"


def _rows(table: Table) -> list[tuple[str, list[Estimate | None], bool]]:
    """Return (name, one estimate per result, whether it is a radius) for each quantity."""
    only_predicts = all(column.result.predicts for column in table.columns)
    rows: list[tuple[str, list[Estimate | None], bool]] = [
        (
            "accuracy" if only_predicts else f"radius {radius:g}",
            [column.accuracy[place] for column in table.columns],
            False,
        )
        for place, radius in enumerate(table.radii)
    ]
    rows.append(("ACR", [column.acr for column in table.columns], True))
    rows.append(("abstained", [column.abstained for column in table.columns], False))
    return [row for row in rows if any(estimate is not None for estimate in row[1])]


def _of_population(column: Summary, place: int, radius: float) -> str | None:
    """Return the sentence at one radius of the table, where it says anything."""
    accuracy, result = column.accuracy[place], column.result
    if accuracy is None or result.alpha is None:
        return None
    hits, images, alpha = round(accuracy.value * len(result)), len(result), result.alpha
    if not robust_share_lower(hits, images, alpha=alpha) > 0:
        return None
    return population_sentence(radius, hits, images, alpha=alpha, top_k=result.top_k or 1)


def _samples(table: Table) -> list[str] | None:
    if all(column.samples is None for column in table.columns):
        return None
    return ["-" if c.samples is None else f"{c.samples:.0f}" for c in table.columns]


def _text(table: Table) -> str:
    cells = [
        [f"{_value(one, 4, down=down)} {_interval(one, 4)}".rstrip() for one in estimates]
        for _, estimates, down in _rows(table)
    ]
    names = [name for name, _, _ in _rows(table)]
    samples = _samples(table)
    if samples is not None:
        names.append("mean samples")
        cells.append(samples)
    header = [column.result.name for column in table.columns]
    return "\n".join(
        _aligned([["", *header], *([n, *c] for n, c in zip(names, cells, strict=True))])
    )


def _aligned(rows: list[list[str]], gap: int = 2) -> list[str]:
    """Return lines whose cells stand below each other, the first to the left."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        (
            f"{row[0]:<{widths[0]}}"
            + "".join(
                f"{'':{gap}}{cell:<{width}}"
                for cell, width in zip(row[1:], widths[1:], strict=True)
            )
        ).rstrip()
        for row in rows
    ]


def _compact(table: Table, gain: bool) -> str:
    width = max(10, 2 + max(len(column.result.name) for column in table.columns))
    rows = _rows(table)
    header = [name.replace("radius ", "r=").replace("abstained", "abstain") for name, _, _ in rows]
    lines = [" " * width + "".join(f"{name:>9}" for name in header)]
    for place, column in enumerate(table.columns):
        cells = [_value(estimates[place], 3, down=down) for _, estimates, down in rows]
        lines.append(f"{column.result.name:<{width}}" + "".join(f"{cell:>9}" for cell in cells))
    if gain:
        cells = [_difference(estimates[0], estimates[-1]) for _, estimates, _ in rows]
        lines.append(f"{'gain':<{width}}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def _difference(before: Estimate | None, after: Estimate | None) -> str:
    return "-" if before is None or after is None else f"{after.value - before.value:+.3f}"


def _best(estimates: list[Estimate | None]) -> float | None:
    """Return the largest value, where values differ."""
    values = {estimate.value for estimate in estimates if estimate is not None}
    return max(values) if len(values) > 1 else None


def _by_result(table: Table, bold: str, interval: str) -> tuple[list[str], list[list[str]]]:
    """Return header and one row of cells for each result; templates mark the best, the interval."""
    header = ["run", *(name.replace("radius ", "r = ") for name, _, _ in _rows(table))]
    body = [[column.result.name] for column in table.columns]
    for name, estimates, down in _rows(table):
        best = None if name == "abstained" else _best(estimates)
        for cells, one in zip(body, estimates, strict=True):
            value = _value(one, 3, down=down)
            shown = bold.format(value) if one is not None and one.value == best else value
            ends = _interval(one, 3)
            cells.append(shown + (interval.format(ends) if ends else ""))
    samples = _samples(table)
    if samples is not None:
        header.append("mean samples")
        for cells, text in zip(body, samples, strict=True):
            cells.append(text)
    return header, body


def _markdown(table: Table) -> str:
    header, body = _by_result(table, "**{}**", " {}")
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )


def _latex(table: Table) -> str:
    header, body = _by_result(table, r"\textbf{{{}}}", r" {{\scriptsize {}}}")
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(f"${name}$" if name.startswith("r = ") else name for name in header) + r" \\",
        r"\midrule",
        *(" & ".join([_escaped(row[0]), *row[1:]]) + r" \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    r"""Return text with what LaTeX reads as commands written out.

    >>> _escaped("a_1 & b%")
    'a\\_1 \\& b\\%'
    """
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(named.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "quantity", "radius", "value", "lower", "upper"])
    for column in table.columns:
        name = column.result.name
        for radius, one in zip(table.radii, column.accuracy, strict=True):
            if one is not None:
                writer.writerow([name, "certified accuracy", radius, one.value, *_ends(one)])
        for quantity, estimate in (("ACR", column.acr), ("abstained", column.abstained)):
            if estimate is not None:
                writer.writerow([name, quantity, "", estimate.value, *_ends(estimate)])
        if column.samples is not None:
            writer.writerow([name, "mean samples", "", column.samples, "", ""])
    return out.getvalue().removesuffix("\n")


_LAYOUTS: dict[str, Callable[[Table], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}


def _notes(result: Result) -> list[str]:
    notes = [result.claim] if result.claim else []
    if result.stopped_early and result.reported:
        notes.append(
            f"{result.name} stopped early, where its own alpha had decided: at the smaller alpha of"
            " the reported images its accuracies may lie below those of the full run."
        )
    elif result.stopped_early:
        notes.append(
            f"{result.name} stopped early: only its accuracies at the radii that it decided are"
            " those of the full run, so that no ACR and no abstention is shown."
        )
    if result.failed:
        notes.append(f"{result.name}: {result.failed} images failed and count as wrong.")
    if result.shard_of is not None:
        notes.append(
            f"{result.name} is not the whole run: merge it with the other shards before you report"
            " it."
        )
    if result.missing:
        notes.append(f"{result.name} is not complete: {result.missing} images are still to do.")
    return notes
