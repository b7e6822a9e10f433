"""Compile every kernel for every architecture and say what it needs, without a GPU.

``python -m benchmarks.registers`` writes benchmarks/results/registers.json.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from benchmarks import parser_of
from tcertify_kernels._cuda import source

STEMS = ("noise", "integer_noise", "counting")
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
#: What CuPy hands to NVRTC when it compiles one of our kernels.
OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")
RECORD = Path(__file__).parent / "results" / "registers.json"

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def nvrtc_version() -> str:
    """The version of the NVRTC that compiles."""
    from cupy_backends.cuda.libs import nvrtc

    return ".".join(map(str, nvrtc.getVersion()))


def compile_kernels(stem: str, *options: str, method: str = "cubin") -> tuple[bytes, str]:
    """The compiled module and the compiler's log."""
    from cupy.cuda import compiler

    program = compiler._NVRTCProgram(source(stem), f"{stem}.cu", method=method)
    log = io.StringIO()
    module, _ = program.compile((*OPTIONS, *options), log)
    return module, log.getvalue()


def resources(architecture: int) -> dict[str, dict[str, int]]:
    """For each kernel its registers, the bytes of its stack and the bytes it spills."""
    options = f"-arch=sm_{architecture}", "--ptxas-options=-v"
    logs = "".join(compile_kernels(stem, *options)[1] for stem in STEMS)
    return {
        match["name"]: {
            "registers": int(match["registers"]),
            "stack": int(match["stack"]),
            "spilled": int(match["stores"]) + int(match["loads"]),
        }
        for match in sorted(_KERNEL.finditer(logs), key=lambda match: match["name"])
    }


def main() -> None:
    """Write the record."""
    parser_of(__doc__).parse_args()
    record = {
        "command": "python -m benchmarks.registers",
        "nvrtc": nvrtc_version(),
        "options": OPTIONS,
        "kernels": {f"sm_{target}": resources(target) for target in ARCHITECTURES},
    }
    text = json.dumps(record, indent=1)
    one_line = re.sub(r"(?<=[{,])\n {4,}| ?\n {3}(?=\})", " ", text)  # a kernel takes one
    RECORD.write_text(one_line + "\n")


if __name__ == "__main__":
    main()
