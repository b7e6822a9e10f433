"""Results and messages: where they go, and how progress shows without a terminal."""

import json

import pytest

from tcertify.cli import output


def test_a_result_is_text_or_one_json_object(capsys):
    output.emit({"a": 1}, "a is 1", as_json=False)
    output.emit({"a": "\udcff"}, "", as_json=True)
    text, *rest = capsys.readouterr().out.splitlines()
    assert text == "a is 1"
    assert json.loads("".join(rest)) == {"a": "\udcff"}


def test_nan_is_no_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        output.emit({"a": float("nan")}, "", as_json=True)


def test_messages_go_to_stderr_unless_quiet(capsys):
    output.tell("wrote it")
    output.tell("wrote more", quiet=True)
    assert capsys.readouterr() == ("", "wrote it\n")


def test_without_a_terminal_progress_is_a_line_a_minute(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    with output.progress(100) as on_progress:
        for done in range(10, 51, 10):
            on_progress(done, 100)
            now[0] += 40
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "30 of 100 images, about 5 minutes left",
        "50 of 100 images, about 3 minutes left",
    ]


def test_quiet_shows_no_progress():
    with output.progress(100, quiet=True) as on_progress:
        assert on_progress is None


def test_on_a_terminal_progress_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with output.progress(100) as on_progress:
        on_progress(40, 100)
    assert "100" in capsys.readouterr().err
