"""Files written aside: whole under their name or not there, and nothing else is touched."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tcertify._files import complete, complete_text

ROOT = Path(__file__).parents[1]


def write(path, content=b"new"):
    with complete(path) as file:
        file.write(content)


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a"
    with complete(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
def test_what_stood_there_before_survives_an_error_and_nothing_is_left_aside(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail():
        with complete(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        fail()
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_text_keeps_its_line_ends_and_an_error_in_it_leaves_the_file_alone(tmp_path):
    path = tmp_path / "a"
    with complete_text(path) as file:
        print("one", file=file)
        file.write("two\r\n")
    assert path.read_bytes() == b"one\ntwo\r\n"
    with pytest.raises(UnicodeEncodeError), complete_text(path) as file:
        file.write("drei \N{LATIN SMALL LETTER U WITH DIAERESIS}")
    assert path.read_bytes() == b"one\ntwo\r\n"


def test_a_link_is_followed_to_the_file_that_it_names_and_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("lay", ["symlink_to", "hardlink_to"])
def test_a_link_laid_aside_touches_nothing(tmp_path, lay):
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    getattr(tmp_path / "a.part", lay)(precious)
    write(tmp_path / "a")
    assert precious.read_bytes() == b"precious"
    assert (tmp_path / "a").read_bytes() == b"new"
    assert not (tmp_path / "a").is_symlink()


def test_what_a_killed_process_left_aside_is_replaced(tmp_path):
    (tmp_path / "a.part").write_bytes(b"half of something")
    write(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_two_writers_of_one_file_never_mix(tmp_path):
    path = tmp_path / "a"
    first = complete(path)
    file = first.__enter__()
    file.write(b"first")
    write(path, b"second")
    with pytest.raises(OSError, match="another process") as caught:
        first.__exit__(None, None, None)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"second"


def test_a_pipe_is_written_in_place(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(30)
    assert got == [b"new"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("stdout", [subprocess.PIPE, "file"])
def test_the_standard_output_can_be_named(tmp_path, stdout):
    code = "from tests.test_files import write; write('/dev/stdout')"
    command = [sys.executable, "-c", code]
    path = tmp_path / "out"
    with path.open("wb") as file:
        out = file if stdout == "file" else stdout
        done = subprocess.run(command, cwd=ROOT, stdout=out, check=True)
    assert (path.read_bytes() if stdout == "file" else done.stdout) == b"new"
    assert Path("/dev/stdout").is_symlink()


def test_a_folder_and_a_missing_folder_are_errors_that_name_the_path(tmp_path):
    for path, kind in ((tmp_path, IsADirectoryError), (tmp_path / "no" / "a", FileNotFoundError)):
        with pytest.raises(kind) as caught:
            write(path)
        assert caught.value.filename == str(path)
    assert [*tmp_path.iterdir()] == []


def test_a_device_is_refused_and_stays(tmp_path):
    device = tmp_path / "full"  # a node of our own: the system's must not be put at risk
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(OSError, match="neither a regular file nor a pipe"):
        write(device)
    assert device.is_char_device()


def test_a_full_disk_is_an_error_that_names_the_path_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    code = f"""
import resource
from tests.test_files import write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    write({str(path)!r}, bytes(100_000))
except OSError as error:
    print(error.filename, error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{path} File too large\n"
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]
