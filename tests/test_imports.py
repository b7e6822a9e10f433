"""Importing tcertify is light, and what is missing is named with the line that installs it."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adre_train.cli import main as train
from tcertify import runs, statistics
from tcertify.classifiers import from_jax
from tcertify.cli.failures import explain
from tcertify.cli.main import main
from tests import tiny

PROBE = "import sys, {module}; print(*(m for m in {heavy} if m in sys.modules))"
HEAVY = ("torch", "numba", "cupy", "matplotlib", "sklearn", "pandas")


@pytest.mark.parametrize(
    "module", ["tcertify", "tcertify.bounds", "tcertify.cli.main", "tcertify_kernels"]
)
def test_importing_loads_nothing_heavy(module):
    code = PROBE.format(module=module, heavy=HEAVY)
    path = f"import sys; sys.path[:0] = {sys.path!r}; "
    done = subprocess.run(
        [sys.executable, "-c", path + code], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []


#: What is missing, and a door that needs it.
DOORS = [
    ("sklearn", "tcertify demo"),
    ("matplotlib", "tcertify demo"),
    ("sklearn", "tcertify certify digits net.onnx 0.5 out.tsv"),
    ("sklearn", "adre-train digits"),
    ("onnxruntime", "tcertify certify images.npz net.onnx 0.5 out.tsv"),
    ("timm", "tcertify certify images.npz timm:resnet18 0.5 out.tsv"),
    ("PIL", "tcertify certify folder net.onnx 0.5 out.tsv"),
    ("PIL", "adre-train imagenet --data folder"),
    ("torchvision", "tcertify certify torchvision:MNIST net.onnx 0.5 out.tsv --data folder"),
    ("matplotlib", "tcertify plot a.run -o a.png"),
    ("matplotlib", "tcertify recertify a.run --alpha-curve a.png"),
    ("bokeh", "tcertify report a.run -o a.html"),
    ("PIL", "tcertify report a.run -o a.html --dataset tests.tiny:images"),
    ("ray", "tcertify certify tests.tiny:images tests.tiny:Network 0.5 ray.tsv --ray"),
    ("tensorboard", "adre-train digits --tensorboard"),
    ("pyarrow", "tcertify export a.run --format parquet --out a.parquet"),
]
CALLS = [
    ("jax", lambda: from_jax(abs, 2)),
    ("statsmodels", lambda: statistics.sison_glaz_intervals([5, 1], 0.05)),
    ("pandas polars", lambda: runs.read_run("a.run").to_frame()),
]


def block(monkeypatch, modules):
    """Make modules, with all that lies below them, such as cannot be imported."""
    for module in modules.split():
        below = [name for name in sys.modules if name.startswith(f"{module}.")]
        for name in [module, *below]:
            monkeypatch.setitem(sys.modules, name, None)
        for name in [name for name in sys.modules if name.startswith(f"torch.utils.{module}")]:
            monkeypatch.delitem(sys.modules, name)  # torch's own door to it, opened before


def is_true(line):
    """Whether a pip line names packages that the project knows, each by its name there."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    known = [*project["dependencies"], *(needed for extra in extras for needed in extra)]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in known}
    return {*line.split()} <= names | {"jax", "pandas", "timm", "torchvision"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    (folder / "folder/train/0").mkdir(parents=True)
    (folder / "folder/test/0").mkdir(parents=True)
    np.savez(folder / "images.npz", x=np.zeros((2, 1, 2, 2), np.float32), y=np.array([0, 1]))
    tiny.certify(folder / "a.run", tiny.Network(), tiny.images())
    return folder


@pytest.mark.parametrize(("missing", "door"), DOORS)
def test_a_door_names_the_line_that_opens_it(files, monkeypatch, missing, door):
    monkeypatch.chdir(files)
    block(monkeypatch, missing)
    program, *arguments = shlex.split(door)
    result = CliRunner().invoke({"tcertify": main, "adre-train": train}[program], arguments)
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert is_true(re.fullmatch(r"Error: .*pip install ([\w -]+)\.", said)[1]), said


@pytest.mark.parametrize(("missing", "call"), CALLS)
def test_a_function_names_the_line_that_it_needs(files, monkeypatch, missing, call):
    monkeypatch.chdir(files)
    block(monkeypatch, missing)
    with pytest.raises(ModuleNotFoundError) as error:
        call()
    assert is_true(re.fullmatch(r".*: pip install ([\w -]+)\.", str(error.value))[1])


@pytest.mark.parametrize(("missing", "line"), [("numba", "numba"), ("flint", "python-flint")])
def test_what_every_installation_holds_is_named_where_it_is_missing(missing, line):
    error = ModuleNotFoundError(f"No module named {missing!r}", name=missing)
    assert explain(error, {}) == f"{missing} is not installed: pip install {line}."
    assert is_true(line)
