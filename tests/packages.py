"""Each extra from the wheel, in an environment of its own, for each Python: make packages.

No part of the suite, for it downloads. It needs uv (``pip install uv``), which also brings the
Pythons that are not there. Arguments are versions; without one: 3.11, 3.12 and 3.13.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
NOBODY = 65534
#: What the work on the project needs, not its use.
OF_THE_PROJECT = {"docs", "lint", "test"}


def build(folder, source=ROOT):
    """Build wheel and sdist of a source tree; return their paths."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def extras():
    """The extras that users install; "" is none of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return ["", *(name for name in project["optional-dependencies"] if name not in OF_THE_PROJECT)]


def uv(*arguments):
    return subprocess.run(["uv", "--quiet", *arguments], capture_output=True, text=True)


def installed(version, wheel, extra, folder):
    """Return an environment with the wheel and one extra."""
    environment = folder / f"{version}-{extra or 'none'}"
    made = uv("venv", "--python", version, str(environment))
    if made.returncode == 0:
        made = uv(
            *("pip", "install", "--python", str(environment / "bin" / "python")),
            *("--constraint", str(ROOT / "constraints.txt")),
            f"{wheel}[{extra}]" if extra else str(wheel),
        )
    if made.returncode:
        raise RuntimeError(made.stderr.strip())
    return environment


def as_a_stranger(environment, *command):
    """Run a command as somebody who may write in the working directory alone."""
    root = os.geteuid() == 0
    if not root:
        subprocess.run(["chmod", "-R", "a-w", str(environment)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        done = subprocess.run(
            [environment / "bin" / command[0], *command[1:]],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "CUPY_CACHE_DIR": folder},
            user=NOBODY if root else None,
            group=NOBODY if root else None,
            extra_groups=[] if root else None,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def check(version, wheel, extra, folder):
    """Raise unless the wheel with an extra works; return what was seen."""
    environment = installed(version, wheel, extra, folder)
    if not extra:
        return as_a_stranger(environment, "tcertify", "--version").strip()
    if extra == "demo":
        short = ("--N", "1000", "--max", "20", "--epochs", "3")
        return the_line(as_a_stranger(environment, "tcertify", "demo", *short), "joint")
    found = as_a_stranger(environment, "tcertify", "doctor")
    return the_line(found, "ok  " + ("cuda kernels" if extra.startswith("cuda") else f"[{extra}]"))


def the_line(text, start):
    """The line that begins so, or an error that shows all."""
    found = [" ".join(line.split()) for line in text.splitlines() if line.startswith(start)]
    if not found:
        raise RuntimeError(f"no line {start!r} in\n{text}")
    return found[0]


def main(versions):
    """Try all; return 1 where one failed."""
    failed = False
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        folder = Path(made)
        wheel, _ = build(folder)
        for version in versions:
            if (
                uv("python", "find", version).returncode
                and uv("python", "install", version).returncode
            ):
                print(f"{version}: not tried, for it is not here and uv cannot bring it")
                continue
            for extra in extras():
                try:
                    seen = check(version, wheel, extra, folder)
                except RuntimeError as error:
                    failed, seen = True, f"FAILED: {error}"
                print(f"{version}  {extra or '(no extra)':<12}{seen}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or PYTHONS))
