"""Benchmarks. They run from a bare checkout too, on the kernels that lie in it."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

sys.path.insert(0, str(ROOT / "kernels"))
