"""Results to stdout, messages and progress to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

#: Where no terminal shows a bar, a line of progress comes this often.
_SECONDS = 60.0

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
)
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but results and errors.")


def emit(data: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a result, as text or as one JSON object."""
    click.echo(json.dumps(data, indent=2, allow_nan=False) if as_json else text)


def tell(message: str, *, quiet: bool = False) -> None:
    """Print a message beside the result."""
    if not quiet:
        click.echo(message, err=True)


@contextmanager
def progress(
    images: int, *, quiet: bool = False, lines: bool = True
) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what `certify_dataset` calls back, which shows images done, rate and time left: as a
    bar on a terminal, and elsewhere as one line a minute, unless a cluster tells those `lines`.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=images, unit="image", leave=False) as bar:

            def show(done: int, planned: int) -> None:
                bar.update(done - bar.n)

            yield show
    else:
        yield _Lines() if lines else None


class _Lines:
    """One line a minute."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, planned: int) -> None:
        now = time.monotonic()
        if self._first is None:  # a resumed run begins with what it had
            self._first = done
        if now - self._said < _SECONDS or done == self._first:
            return
        self._said = now
        left = (now - self._started) / (done - self._first) * (planned - done)
        click.echo(f"{done} of {planned} images, about {left / 60:.0f} minutes left", err=True)
