"""The command on this machine: doctor."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

import click

from tcertify.cli.command import Command
from tcertify.cli.output import emit, json_option

#: What each extra brings, by the module that shows that it is there.
_EXTRAS = {
    "plots": ("matplotlib", "pictures"),
    "demo": ("sklearn", "the digits and the demo"),
    "train": ("PIL", "training on images, ImageNet and folders of images"),
    "report": ("bokeh", "pages of a run"),
    "onnx": ("onnxruntime", "ONNX files as MODEL"),
    "parquet": ("pyarrow", "export to Parquet"),
    "ray": ("ray", "runs on a cluster"),
    "tensorboard": ("tensorboard", "the metrics of training in TensorBoard"),
}

_MARKS = {"works": "ok", "absent": "--", "broken": "!!"}


@dataclass(frozen=True)
class Finding:
    """What was found of one thing; `state` is "works", "absent" (and not needed) or "broken"."""

    thing: str
    state: str
    found: str
    mend: str = ""


@click.command(cls=Command, examples=["tcertify doctor"])
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Say what works on this machine, and mend the rest.

    Versions, devices, the compiler of the CUDA kernels, extras and caches, each with the line that
    mends it. Ends with status 1 when
    something is broken; what is merely not installed does not count.
    """
    findings = [*_findings()]
    emit(
        {"findings": [asdict(finding) for finding in findings]},
        "\n".join(map(_line, findings)),
        as_json=as_json,
    )
    context.exit(int(any(finding.state == "broken" for finding in findings)))


def _line(finding: Finding) -> str:
    mend = f"\n{'':20}-> {finding.mend}" if finding.mend else ""
    return f"{_MARKS[finding.state]}  {finding.thing:<14}  {finding.found}{mend}"


def _findings() -> Iterator[Finding]:
    yield Finding("python", "works", f"{platform.python_version()} on {platform.machine()}")
    for package in ("tcertify", "torch", "numpy", "scipy", "numba"):
        yield _package(package)
    for check in (_cpu, _gpu, _cuda_kernels):
        yield _survived(check)
    for extra, (module, purpose) in _EXTRAS.items():
        yield _extra(extra, module, purpose)
    yield _cache()


def _package(package: str) -> Finding:
    try:
        return Finding(package, "works", version(package))
    except PackageNotFoundError:
        return Finding(package, "broken", "not installed", "pip install tcertify")


def _survived(check: Callable[[], Finding]) -> Finding:
    """Return what a check finds; what it raises is a finding as well."""
    try:
        return check()
    except Exception as error:  # a broken library raises anything
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(check.__name__.strip("_"), "broken", text[:200], "see docs/kernels.md")


def _cpu() -> Finding:
    """Count one vote by the compiled kernels."""
    import torch

    _count("cpu")
    threads = torch.get_num_threads()
    return Finding("cpu", "works", f"kernels count; {threads} threads for torch")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = (
            f"no device is visible to torch, which is built for CUDA {built}"
            if built
            else "this torch is built for CPUs alone"
        )
        return Finding("gpu", "absent", reason)
    names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return Finding(
        "gpu", "works", f"{', '.join(names)}; torch is built for CUDA {torch.version.cuda}"
    )


def _cuda_kernels() -> Finding:
    """Compile a kernel and, where there is a device, run it."""
    import torch

    from tcertify_kernels.compiling import compile_counting

    needed = torch.cuda.is_available()
    extra = f"cuda{(torch.version.cuda or '13').partition('.')[0]}"
    try:
        compiler = compile_counting()
        if needed:
            _count("cuda")
    except Exception as error:  # a missing NVRTC raises its finder's own class
        missing = find_spec("cupy") is None
        found = "CuPy is not installed" if missing else " ".join(str(error).split())[:200]
        mend = f"for a GPU: {_line_of(extra)}"
        if isinstance(error, OSError) and error.filename:
            mend = "set CUPY_CACHE_DIR to a folder that is writable"
        return Finding("cuda kernels", "broken" if needed else "absent", found, mend)
    ran = "and count on the device" if needed else "for no device"
    return Finding("cuda kernels", "works", f"NVRTC {compiler} compiles them, {ran}")


def _count(device: str) -> None:
    """Raise unless the kernels of a device count three votes rightly."""
    import torch

    from tcertify_kernels import count_votes

    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, float("nan")]], device=device)
    slot = torch.zeros(3, dtype=torch.int32, device=device)
    counts = torch.zeros(1, 3, dtype=torch.int64, device=device)
    found = count_votes(counts, logits, slot).tolist()
    if found != [[1, 1, 1]]:
        raise ValueError(f"The kernels counted {found} for [[1, 1, 1]].")


def _extra(extra: str, module: str, purpose: str) -> Finding:
    thing = f"[{extra}]"
    if find_spec(module) is None:
        mend = f"for {purpose}: {_line_of(extra)}"
        return Finding(thing, "absent", f"{module} is not installed", mend)
    return Finding(thing, "works", f"{module}, for {purpose}")


def _line_of(extra: str) -> str:
    """Return the line that installs an extra, from what the installed package says of it."""
    of = [line.partition(";") for line in requires("tcertify") or ()]
    needed = [name.strip() for name, _, when in of if f"'{extra}'" in when.replace('"', "'")]
    return " ".join(["pip install", *(f'"{name}"' for name in needed)])


def _cache() -> Finding:
    """Say where compiled code is kept, or that it is not."""
    import tcertify_kernels

    package = Path(tcertify_kernels.__file__).parent / "__pycache__"
    given = os.environ.get("NUMBA_CACHE_DIR")
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    places = [Path(given)] if given else [package, own]
    for place in places:
        if _is_writable(place):
            return Finding("cache", "works", f"compiled code is kept in {place}")
    return Finding(
        "cache",
        "absent",
        "no place to keep compiled code: each start compiles it again",
        "set NUMBA_CACHE_DIR to a folder that is writable",
    )


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, which numba makes where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
