"""Fault injection as SQLite is tested: the n-th call that changes a file fails, for every n."""

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What happens to the n-th write, sync, truncation or rename: it fails; it and all after it fail;
#: half of it is written; the process ends before it; the process ends when half is written.
MODES = ("fails", "full", "short", "killed", "torn")

UNDISTURBED, RECOVERED, REFUSED, KILLED = 0, 4, 3, 9


def at_every_call(mode, work, errors, check):
    """Do `work` in processes of their own, with a fault at call 1, 2, ... until none is met.

    `work(n)` may raise one of `errors` and nothing else. `check(n, ended)` is called after each,
    without faults. Returns the number of calls.
    """
    faults = ctypes.CDLL(None)
    for n in itertools.count(1):
        child = os.fork()
        if not child:
            _end(faults, n, mode, work, errors)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (UNDISTURBED, RECOVERED, REFUSED, KILLED), (n, ended)
        check(n, ended)
        if ended == UNDISTURBED:
            return n - 1


def _end(faults, n, mode, work, errors):
    ended = 1
    try:
        faults.faults_arm(ctypes.c_long(n), MODES.index(mode))
        work(n)
        ended = RECOVERED if faults.faults_calls() >= n else UNDISTURBED
    except errors:
        ended = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(ended)


def build(folder):
    """Compile what is loaded before libc."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = folder / "faults.so"
    source = ROOT / "tests" / "faults.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", source, "-o", library, "-ldl"], check=True)
    return library


def run(library, code):
    """Run Python code under faults and return what it prints."""
    path = os.pathsep.join(str(part) for part in (ROOT, ROOT / "kernels"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
