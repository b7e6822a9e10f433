"""The public names and their signatures, held against the list in public_api.txt.

A change of the list is a change that users see. To accept one: python -m tests.test_public_api
"""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

LIST = Path(__file__).parent / "public_api.txt"
PACKAGES = (
    "tcertify",
    "tcertify.bounds",
    "tcertify.classifiers",
    "tcertify.cluster",
    "tcertify.data",
    "tcertify.logs",
    "tcertify.report",
    "tcertify.runs",
    "tcertify.sampling",
    "tcertify.statistics",
    "adre_train",
)


def public_names():
    """One line for each public name: what it is, and its signature."""
    lines = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in dir(module):
            lines.append(f"{package}.{name}{shown(getattr(module, name))}")
    return lines


def shown(value):
    if isinstance(value, ModuleType):
        return ": module"
    if isinstance(value, type) and issubclass(value, BaseException):
        return f": error ({value.__mro__[1].__name__})"
    if callable(value):
        return str(inspect.signature(value)).replace("'", "")
    return f" = {value!r}"


def test_the_public_names_and_signatures_are_those_of_the_list():
    listed = LIST.read_text().splitlines()
    found = public_names()
    gone = [line for line in listed if line not in found]
    new = [line for line in found if line not in listed]
    assert (gone, new) == ([], [])


@pytest.mark.parametrize("package", PACKAGES)
def test_help_and_dir_show_what_the_stub_lists(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(dir(module))
    assert module.__doc__


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_hides_a_public_function(package):
    folder = Path(importlib.import_module(package).__file__).parent
    modules = {path.stem for path in folder.glob("*.py")}
    public = dir(importlib.import_module(package))
    functions = {n for n in public if not isinstance(getattr(sys.modules[package], n), ModuleType)}
    assert modules & functions == set()


def test_every_public_package_is_an_attribute_after_one_import_and_torch_is_not_loaded():
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; import tcertify; "
        "print(*(getattr(tcertify, name.partition('.')[2]).__name__ for name in "
        f"{[p for p in PACKAGES if p.startswith('tcertify.')]})); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [p for p in PACKAGES if p.startswith("tcertify.")]


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    import tcertify

    assert tcertify.__version__ == version("tcertify")


def test_a_users_program_runs_as_type_checkers_read_it(tmp_path):
    from tests.user_script import main

    assert main(tmp_path) > 0.9


if __name__ == "__main__":
    LIST.write_text("\n".join(public_names()) + "\n")
