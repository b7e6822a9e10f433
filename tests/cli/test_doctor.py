"""doctor: what works, what is absent, and the line that mends it."""

import json

import pytest
from click.testing import CliRunner

from tcertify.cli import doctor
from tcertify.cli.main import main


def found(monkeypatch=None):
    result = CliRunner().invoke(main, ["doctor", "--json"])
    findings = json.loads(result.stdout)["findings"]
    return result.exit_code, {finding["thing"]: finding for finding in findings}


def test_this_machine_counts_votes():
    status, things = found()
    assert things["cpu"]["state"] == "works"
    assert things["torch"]["state"] == "works"
    assert status == int(any(thing["state"] == "broken" for thing in things.values()))
    text = CliRunner().invoke(main, ["doctor"]).stdout
    assert all(name in text for name in things)


def test_a_missing_compiler_is_named_with_the_line_that_brings_it(monkeypatch):
    class DynamicLibNotFoundError(Exception):
        """What the finder of NVRTC raises: a class of its own."""

    def missing():
        raise DynamicLibNotFoundError("no nvrtc")

    monkeypatch.setattr("tcertify_kernels.compiling.compile_counting", missing)
    _, things = found()
    assert things["cuda kernels"]["state"] in ("absent", "broken")
    assert things["cuda kernels"]["mend"].startswith("for a GPU: pip install")


def test_a_folder_that_cupy_cannot_write_is_mended_by_a_variable(monkeypatch):
    def unwritable():
        raise PermissionError(13, "Permission denied", "/nowhere")

    monkeypatch.setattr("tcertify_kernels.compiling.compile_counting", unwritable)
    assert found()[1]["cuda kernels"]["mend"].startswith("set CUPY_CACHE_DIR")


@pytest.mark.parametrize(
    ("built", "said"),
    [
        ("13.0", "no device is visible to torch, which is built for CUDA 13.0"),
        (None, "this torch is built for CPUs alone"),
    ],
)
def test_without_a_device_it_says_what_torch_is_built_for(monkeypatch, built, said):
    """A driver may be older than torch, which then sees no device."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", built)
    assert found()[1]["gpu"]["found"] == said


def test_kernels_that_count_wrongly_are_broken(monkeypatch):
    monkeypatch.setattr("tcertify_kernels.count_votes", lambda counts, logits, slot: counts)
    status, things = found()
    assert status == 1
    assert things["cpu"]["state"] == "broken"
    assert "[[0, 0, 0]]" in things["cpu"]["found"]


def test_an_extra_that_is_not_installed_comes_with_its_line(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda module: None)
    _, things = found()
    assert things["[plots]"]["state"] == "absent"
    assert things["[plots]"]["mend"].endswith('pip install "matplotlib>=3.8"')
    assert things["[report]"]["mend"].endswith('pip install "bokeh>=3.4" "pillow>=10"')
    assert '"scikit-learn>=1.4"' in things["[demo]"]["mend"]


@pytest.mark.parametrize(("folder", "state"), [("", "works"), ("/proc/nowhere", "absent")])
def test_the_cache_is_writable_or_the_mend_is_said(monkeypatch, tmp_path, folder, state):
    monkeypatch.setenv("NUMBA_CACHE_DIR", folder or str(tmp_path / "new"))
    assert doctor._cache().state == state
