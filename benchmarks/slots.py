"""Count what the noise kernels issue per element, and say how long they should take on a GPU.

``python -m benchmarks.slots`` compiles them for sm_90 by NVRTC, disassembles them by nvdisasm
(``pip install nvidia-cuda-nvdisasm``), writes benchmarks/results/slots.json and prints a table. It
needs no GPU: what it says is a prediction, which a measurement is held against.

Counted is the loop of whole, aligned groups along the path that nearly all groups take: rare
branches are those that skip a loop. A multiprocessor issues four warp instructions per cycle, and
its integer pipes take half as many: these and memory are the limits.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import parser_of
from benchmarks.registers import compile_kernels, nvrtc_version

RECORD = Path(__file__).parent / "results" / "slots.json"
STEMS = ("noise", "integer_noise")
SHAPES = ((1000, 3, 32, 32), (256, 3, 224, 224))


class Device(NamedTuple):
    """What a prediction needs: multiprocessors, clocks in GHz, and bytes per second of a fill."""

    multiprocessors: int
    clocks: tuple[float, float]
    bandwidth: float


#: Fill bandwidths are estimates until the suite has measured them: 90 % of the data sheet.
DEVICES = {
    "H100": Device(132, (1.755, 1.98), 3.0e12),
    "H200": Device(132, (1.755, 1.98), 4.3e12),
}
#: The shares of its cycles and of its bandwidth that a device reaches in such loops: estimates.
ISSUED, MOVED = 0.85, 0.93

#: Instructions by the pipe that executes them; a warp takes one of ALU's for two cycles.
_FMA = ("FFMA", "FMUL", "FADD", "IMAD")
_ALU = (
    *("IADD3", "LOP3", "SHF", "ISETP", "FSETP", "SEL", "FSEL", "FMNMX", "LEA", "PRMT", "VIADD"),
    *("IMNMX", "VIMNMX", "PLOP3", "F2FP", "I2FP", "IABS", "VIADDMNMX", "MOV"),
)


def disassembled(stem: str) -> str:
    """The machine code of ``<stem>.cu`` for sm_90, as text."""
    module, _ = compile_kernels(stem, "-arch=sm_90")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(module + b"\0")  # CuPy takes the last byte for the end of a string
        command = [_nvdisasm(), "-c", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _nvdisasm() -> str:
    places = find_spec("nvidia")
    for folder in (places.submodule_search_locations or []) if places else []:
        for path in Path(folder).glob("*/bin/nvdisasm"):
            return str(path)
    found = shutil.which("nvdisasm")
    if found is None:
        raise SystemExit("nvdisasm is not there: `pip install nvidia-cuda-nvdisasm`.")
    return found


def kernels_of(text: str) -> dict[str, str]:
    """The body of each kernel by its name."""
    parts = re.split(r"^\.text\.(\w+):\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def hot_path(body: str) -> list[str]:
    """The instructions of one turn of the last loop that stores 16 bytes: of the smallest such
    loop, without what lies behind branches that skip a loop.
    """
    code, places = _listing(body)
    jumps = {i: _target(line, places) for i, line in enumerate(code)}
    loops = [(to, i) for i, to in jumps.items() if to is not None and to <= i]
    stores = [i for i, line in enumerate(code) if re.search(r"STG\.E(\.\w+)*\.128", line)]
    around = [loop for loop in loops if loop[0] <= stores[-1] <= loop[1]]
    first, last = min(around, key=lambda loop: loop[1] - loop[0])
    inner = [loop for loop in loops if first < loop[0] and loop[1] < last]
    path, i = [], first
    while i <= last:
        path.append(code[i])
        to = jumps[i]
        skips = to is not None and any(i < begin and end < to for begin, end in inner)
        i = to if to is not None and skips else i + 1
    return path


def _listing(body: str) -> tuple[list[str], dict[str, int]]:
    """Instructions, and the place of each label among them."""
    code: list[str] = []
    places: dict[str, int] = {}
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            places[label[1]] = len(code)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.append(instruction[1])
    return code, places


def _target(line: str, places: dict[str, int]) -> int | None:
    jump = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
    return places.get(jump[1]) if jump else None


def counted(body: str, width: int) -> dict[str, float]:
    """Per element of `width` bytes: issue slots, and cycles of the two pipes on a quarter of a
    multiprocessor.
    """
    path = hot_path(body)
    elements = sum(".128" in line and "STG" in line for line in path) * 16 // width
    names = Counter(re.sub(r"^@!?U?P\w+\s+", "", line).split(".")[0].split()[0] for line in path)
    return {
        "slots": len(path) / elements,
        "alu_cycles": 2 * sum(names[name] for name in _ALU) / elements,
        "fma_instructions": sum(names[name] for name in _FMA) / elements,
    }


def expected(cycles: float, shape: tuple[int, ...], width: int, device: Device) -> dict[str, Any]:
    """Microseconds of one launch whose quarter of a multiprocessor takes so many cycles for
    each element of a warp: of memory alone, of the cycles alone at both clocks, and expected.
    """
    elements = math.prod(shape)
    memory = 1e6 * elements * width / device.bandwidth
    per_cycle = 32 * 4 * device.multiprocessors
    issue = [1e-3 * elements * cycles / (per_cycle * clock) for clock in device.clocks]
    slow, fast = (max(memory / MOVED, floor / ISSUED) for floor in issue)
    return {
        "memory": round(memory, 1),
        "cycles": [round(floor, 1) for floor in reversed(issue)],
        "expected": [round(fast, 1), round(slow, 1)],
    }


def predictions() -> dict[str, Any]:
    """Counts and microseconds of each kernel that has 16-byte stores."""
    table = {}
    for stem in STEMS:
        for name, body in sorted(kernels_of(disassembled(stem)).items()):
            if "channels_last" in name:
                continue
            width = 4 if "float32" in name else 2
            counts = counted(body, width)
            table[name] = {
                **{key: round(value, 1) for key, value in counts.items()},
                "microseconds": {
                    f"{device}, {'x'.join(map(str, shape))}": expected(
                        max(counts["slots"], counts["alu_cycles"]), shape, width, DEVICES[device]
                    )
                    for device in DEVICES
                    for shape in SHAPES
                },
            }
    return table


def main() -> None:
    """Count, write and print."""
    parser_of(__doc__).parse_args()
    record = {
        "command": "python -m benchmarks.slots",
        "nvrtc": nvrtc_version(),
        "architecture": "sm_90",
        "kernels": predictions(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    for name, found in record["kernels"].items():
        print(f"{name:32}{found['slots']:6} slots", end="")
        print(f"{found['alu_cycles']:6} ALU {found['fma_instructions']:6} FMA", end="")
        for place, microseconds in found["microseconds"].items():
            low, high = microseconds["expected"]
            print(f"  {place}: {low} to {high} us", end="")
        print()


if __name__ == "__main__":
    main()
