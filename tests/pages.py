"""The pages of docs/ and the README, followed literally: commands, programs, and what they print.

Every page starts in an empty folder with the files of ``tcertify demo``. A ``console`` block holds
commands behind ``$`` and what they print; numbers may differ, since training rounds otherwise on
another machine. A ``python`` block runs, or is a file where its first line says ``# NAME.py``.
After a change of what is printed: python -m tests.pages docs/PAGE.md ...
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from sybil import Sybil
from sybil.parsers.myst import CodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
#: The demo in a few seconds.
SHORT = "tcertify demo --N 1000 --epochs 8"
#: What it printed.
DEMO = []
NUMBER = re.compile(r"[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?")
CONSOLE = re.compile(r"(?<=```console\n).*?(?=^```)", re.MULTILINE | re.DOTALL)


def commands(block):
    """The commands of a block, each with the lines that it prints."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def printed(command):
    """What a command prints, run within this process."""
    program, *arguments = shlex.split(command)
    text = io.StringIO()
    if program == "python":
        with contextlib.redirect_stdout(text):
            runpy.run_path(arguments[0])
        return text.getvalue()
    assert program == "tcertify", f"only tcertify and python are run, not {program}"
    from tcertify.cli.main import main

    result = CliRunner().invoke(main, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def masked(lines):
    """Lines without their numbers, each once: a column may be wider, a table one row longer."""
    marked = [NUMBER.sub("#", line).replace("*", "") for line in lines]
    return [*dict.fromkeys(" ".join(re.sub(r"#(, #)+", "#", line).split()) for line in marked)]


def follow(example):
    """Run a block of commands; raise where one prints something else than the page says."""
    for command, expected in commands(example.parsed):
        found = (DEMO.pop() if command == "tcertify demo" else printed(command)).splitlines()
        assert masked(found) == masked(expected), f"{command} prints\n" + "\n".join(found)


def run(example):
    """Run a program, or write it where it is a file."""
    named = re.match(r"# (\w+\.py)\n", example.parsed)
    if named:
        Path(named[1]).write_text(example.parsed)
        return
    if Path(example.path).name == "README.md" and "base_classifier" not in example.namespace:
        what_the_readme_has(example.namespace)
    code = compile(example.parsed, f"{example.path}:{example.line}", "exec")
    exec(code, example.namespace)


@contextlib.contextmanager
def at_home(folder):
    """Work in a folder; forget afterwards which modules were imported from it."""
    before, modules = Path.cwd(), {*sys.modules}
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        for name in {*sys.modules} - modules:
            if getattr(sys.modules[name], "__file__", None) == str(Path(folder) / f"{name}.py"):
                del sys.modules[name]


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory):
    """The files of the demo, made once."""
    folder = tmp_path_factory.mktemp("pages")
    with at_home(folder):
        DEMO.append(printed(SHORT))
    return folder


@pytest.fixture(scope="module")
def page(demo_files, tmp_path_factory):
    """The folder in which one page is followed."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(demo_files, folder, dirs_exist_ok=True)
    with at_home(folder):
        yield folder


def what_the_readme_has(namespace):
    """Give the programs of the README the network and the images that they speak of."""
    from sklearn.linear_model import LogisticRegression

    from tcertify import classifiers, data

    train, test = data.load("digits", "train"), data.load("digits")
    network = classifiers.load("demo/digits.safetensors")
    estimator = LogisticRegression(max_iter=1000).fit(train.images.flatten(1), train.labels)
    few = data.TensorDataset("digits/few", 10, test.images[:2], test.labels[:2])
    namespace |= {"base_classifier": network, "f": network, "estimator": estimator}
    namespace |= {"x": test[0][0], "data": few}


collect = Sybil(
    [CodeBlockParser("console", follow), CodeBlockParser("python", run), SkipParser()],
    path=str(ROOT),
    patterns=["docs/*.md", "README.md"],
    excludes=[
        "docs/training.md",  # its programs are those of tests/adre_train/test_snippets.py,
        "docs/run-file.md",  # and its program that of tests/runs/test_format.py
    ],
    fixtures=["page"],
).pytest()


def rewritten(text, demo):
    """The text of a page, with what its commands print now; `demo` is what the demo printed."""

    def again(block):
        lines = []
        for command, _ in commands(block[0]):
            found = demo if command == "tcertify demo" else printed(command)
            lines += [f"$ {command}", *found.splitlines()]
        return "".join(f"{line.rstrip()}\n" for line in lines)

    files = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", text, re.DOTALL)
    for content, name in files:
        Path(name).write_text(content)
    return CONSOLE.sub(again, text)


if __name__ == "__main__":
    pages = [Path(argument).resolve() for argument in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as made, at_home(made):
        demo = printed("tcertify demo")
        for path in pages:
            with tempfile.TemporaryDirectory() as folder:
                shutil.copytree(made, folder, dirs_exist_ok=True)
                with at_home(folder):
                    path.write_text(rewritten(path.read_text(), demo))
