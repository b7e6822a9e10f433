"""Benchmarks. They run from a bare checkout too, on the kernels that lie in it."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

sys.path.insert(0, str(ROOT / "kernels"))


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """Return a parser of a command line that shows the docstring of its module as its help."""
    head, _, rest = (text or "").partition("\n")
    return argparse.ArgumentParser(
        description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
