"""Run the CPU benchmarks of the kernels and keep their figures: ``python -m benchmarks.cpu``.

Writes benchmarks/results/cpu.json: for each benchmark the shortest and the median time in seconds,
and the machine, the versions and the commit they were measured on.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import parser_of

RECORD = Path(__file__).parent / "results" / "cpu.json"
FILES = ("test_noise.py", "test_counting.py", "test_end_to_end.py")
PACKAGES = ("torch", "numba", "numpy")


def main() -> None:
    """Run and record."""
    parser_of(__doc__).parse_args()
    files = [str(Path(__file__).parent / name) for name in FILES]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.json"
        options = ["--benchmark-enable", f"--benchmark-json={path}", "--benchmark-max-time=1"]
        subprocess.run([sys.executable, "-m", "pytest", "-q", *files, *options], check=True)
        found = json.loads(path.read_text())
    record = {
        "command": "python -m benchmarks.cpu",
        "commit": found["commit_info"]["id"],
        "changed": found["commit_info"]["dirty"],
        "date": found["datetime"],
        "cpu": found["machine_info"]["cpu"]["brand_raw"],
        "cores": found["machine_info"]["cpu"]["count"],
        "python": found["machine_info"]["python_version"],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "benchmarks": [
            {
                "name": run["name"],
                "seconds": run["stats"]["min"],
                "median_seconds": run["stats"]["median"],
                "rounds": run["stats"]["rounds"],
                **run["extra_info"],
            }
            for run in found["benchmarks"]
        ],
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
