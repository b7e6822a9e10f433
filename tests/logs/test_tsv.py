import os
import re
import stat
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcertify.logs.tsv import COLUMNS, LogError, format_down, read_log, write_log

HEADER = "\t".join(COLUMNS)
ROW = "7\t3\t3\t0.5401\t1\t0:00:25.5"


def published_logs():
    """The logs of other projects, where they stand beside the checkout."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "logs").is_dir():
            return sorted((parent / "shared" / "logs").glob("*.tsv"))
    return []


def write(path, *lines, end="\n"):
    path.write_bytes("\n".join(lines).encode() + end.encode())
    return path


def test_a_row_is_read_by_its_column_names_whatever_their_order(tmp_path):
    log = read_log(
        write(
            tmp_path / "log",
            "radius\tidx\textra\ttime\tpredict\tlabel\tcorrect",
            "0.2500\t12\tx\t1 day, 2:00:01\t5\t4\t0",
            "0.0000\t13\tx\t3.5\t-1\t4\t0",
            "1.5000\t11\tx\t0:00:00.25\t4\t4\t1",
        )
    )
    assert log.idx.tolist() == [12, 13, 11]
    assert log.label.tolist() == [4, 4, 4]
    assert log.predict.tolist() == [5, -1, 4]
    assert log.radius.tolist() == [0.25, 0.0, 1.5]
    assert log.correct.tolist() == [False, False, True]
    assert log.seconds.tolist() == [93601.0, 3.5, 0.25]


@pytest.mark.parametrize(
    ("radii", "steps"),
    [
        (["0.0000", "0.5401", "3.8115"], [1e-4, 1e-4, 1e-4]),
        (["1.2", "1.36", "0.0802", "0.0", "2.97e-05"], [1e-2, 1e-2, 1e-4, 0, 1e-7]),
        (["0.1234567890123456", "1.5"], [1e-16, 1e-15]),
        (["0.00", "0.00"], [1e-2, 1e-2]),
    ],
)
def test_the_printed_precision_is_inferred_from_the_whole_column(tmp_path, radii, steps):
    rows = [f"{i}\t0\t0\t{radius}\t1\t0:00:01" for i, radius in enumerate(radii)]
    log = read_log(write(tmp_path / "log", HEADER, *rows))
    np.testing.assert_allclose(log.radius_step, steps, rtol=1e-12)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("7\t3\t3\t0.5\t1", "expected 6 fields, got 5"),
        ("7 3 3 0.5 1 0:00:01", "expected 6 fields, got 1"),
        ("seven\t3\t3\t0.5\t1\t0:00:01", "`idx` must be a whole number, got 'seven'"),
        ("7\t3.0\t3\t0.5\t1\t0:00:01", "`label` must be a whole number, got '3.0'"),
        ("7\t3\t-2\t0.5\t0\t0:00:01", "`predict` must be a whole number, got '-2'"),
        ("1_0\t3\t3\t0.5\t1\t0:00:01", "`idx` must be a whole number, got '1_0'"),
        ("9007199254740993\t3\t3\t0.5\t1\t0:00:01", "`idx` must be at most 9007199254740992"),
        ("7\t3\t3\t-0.5\t1\t0:00:01", "`radius` must be non-negative, got '-0.5'"),
        ("7\t3\t3\tnan\t1\t0:00:01", "`radius` must be a finite number, got 'nan'"),
        ("7\t3\t3\tNaN\t1\t0:00:01", "`radius` must be a finite number, got 'NaN'"),
        ("7\t3\t3\tinf\t1\t0:00:01", "`radius` must be a finite number, got 'inf'"),
        ("7\t3\t3\t1e999\t1\t0:00:01", "`radius` must be a finite number, got '1e999'"),
        ("7\t3\t3\t\t1\t0:00:01", "`radius` must be a finite number, got ''"),
        ("7\t3\t-1\t0.5\t0\t0:00:01", "`predict` abstains (-1) beside a radius of 0.5"),
        ("7\t3\t3\t0.5\t0\t0:00:01", "`correct` is 0 but predict 3, label 3"),
        ("7\t3\t3\t0.5\t2\t0:00:01", "`correct` is 2 but predict 3, label 3"),
        ("7\t3\t3\t0.5\t1\tsoon", "`time` must be h:mm:ss or seconds, got 'soon'"),
        ("7\t3\t3\t0.5\t1\t-1", "`time` must be h:mm:ss or seconds, got '-1'"),
        ("7\t3\t3\t0.5\t1\t0:00:01\r", "holds a carriage return that line 1 does not end with"),
        ("7\t3\t3\t0.\x005\t1\t0:00:01", "holds a NUL byte (UTF-16 or a damaged file)"),
        ("7\t3\t3\t0.5\t1\t" + "0" * 5000, "is longer than 4096 bytes"),
        ("\u0667\t3\t3\t0.5\t1\t0:00:01", "`idx` must be a whole number, got '\\\\xd9\\\\xa7'"),
        ("6\t3\t3\t0.5\t1\t0:00:01", "index 6 stands in line 2 already"),
        ("", "expected 6 fields, got 1"),
    ],
)
def test_a_bad_row_is_an_error_with_its_line_number(tmp_path, row, reason):
    path = write(tmp_path / "log", HEADER, ROW.replace("7", "6", 1), row, ROW.replace("7", "8", 1))
    with pytest.raises(LogError, match=re.escape(f"{path}, line 3: {reason}")):
        read_log(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("idx\tlabel\tpredict\tcorrect", "the header lacks radius, time (tab-separated)"),
        (HEADER.replace("\t", " "), "the header lacks idx, label, predict, radius, correct, time"),
        (HEADER + "\tidx", "the header names idx twice"),
        ("\ufeff" + HEADER, "starts with a byte order mark"),
    ],
)
def test_a_bad_header_is_an_error_in_line_1(tmp_path, header, reason):
    path = write(tmp_path / "log", header, ROW)
    with pytest.raises(LogError, match=re.escape(f"{path}, line 1: {reason}")):
        read_log(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_wide_encodings_are_named_in_line_1(tmp_path, encoding):
    path = tmp_path / "log"
    path.write_bytes(f"{HEADER}\n{ROW}\n".encode(encoding))
    with pytest.raises(LogError, match=r"line 1: (starts with a byte order mark|holds a NUL)"):
        read_log(path)


def test_a_log_cut_at_any_byte_is_whole_rows_or_an_error_with_the_line(tmp_path):
    text = f"{HEADER}\n{ROW}\n{ROW.replace('7', '8', 1)}\n".encode()
    path = tmp_path / "log"
    for cut in range(len(text)):
        path.write_bytes(text[:cut])
        whole = text[:cut].count(b"\n") - 1
        if whole >= 1 and text[:cut].endswith(b"\n"):
            assert len(read_log(path).idx) == whole
        else:
            with pytest.raises(LogError, match=rf"line {max(whole + 2, 1)}: "):
                read_log(path)


def test_the_first_repeated_index_in_file_order_is_named(tmp_path):
    rows = [ROW.replace("7", str(idx), 1) for idx in (5, 9, 9, 5)]
    with pytest.raises(LogError, match="line 4: index 9 stands in line 3 already"):
        read_log(write(tmp_path / "log", HEADER, *rows))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_as_a_log_error(tmp_path_factory, junk):
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(f"{HEADER}\n{ROW}\n".encode() + junk)
    try:
        outcome = f", line {1 + len(read_log(path).idx)}: read"
    except LogError as error:
        outcome = str(error)
    assert re.search(r", line ([2-9]|\d\d+): ", outcome)


@given(st.floats(0, 1e6), st.integers(1, 17))
@example(0.29999999999999998, 1)
@example(1 - 2**-53, 10)
@example(2.675, 2)
def test_a_printed_number_is_never_above_the_exact_one_and_less_than_a_step_below(value, decimals):
    gap = Fraction(value) - Fraction(format_down(value, decimals))
    assert 0 <= gap < Fraction(1, 10**decimals)


def test_a_written_log_reads_back_with_radii_rounded_down(tmp_path):
    rng = np.random.default_rng(0)
    radius = np.concatenate([[0.0, 0.0], rng.exponential(size=200)])
    predict = np.concatenate([[-1, 3], rng.integers(0, 10, 200)])
    label = np.concatenate([[3, 3], rng.integers(0, 10, 200)])
    write_log(
        tmp_path / "log",
        idx=np.arange(202),
        label=label,
        predict=predict,
        radius=radius,
        seconds=np.linspace(0, 1e5, 202),
        decimals=4,
    )
    log = read_log(tmp_path / "log")
    assert (log.radius <= radius).all()
    assert (log.radius > radius - 1e-4).all()
    assert log.predict.tolist() == predict.tolist()
    assert log.correct.tolist() == (predict == label).tolist()
    np.testing.assert_allclose(log.seconds, np.linspace(0, 1e5, 202), atol=1e-6)
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


def test_windows_line_ends_are_read_and_noted(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(f"{HEADER}\r\n{ROW}\r\n{ROW.replace('7', '8', 1)}\r\n".encode())
    log = read_log(path)
    assert log.idx.tolist() == [7, 8]
    assert log.notes == (f"{path}: lines end as on Windows (CRLF).",)
    assert read_log(write(path, HEADER, ROW)).notes == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{HEADER}\r\n{ROW}\n", "line 2: ends otherwise than line 1, which has CRLF"),
        (f"{HEADER}\r\n{ROW}\r", "line 2: is torn"),
        (f"{HEADER}\r\n{ROW}\r\r\n", "line 2: holds a carriage return that line 1"),
        (f"{HEADER}\r\n{ROW}\r\n{ROW}", "line 3: is torn"),
    ],
)
def test_line_ends_that_differ_are_named(tmp_path, text, reason):
    path = tmp_path / "log"
    path.write_bytes(text.encode())
    with pytest.raises(LogError, match=reason):
        read_log(path)


@pytest.mark.parametrize("method", ["joint", "certify-early", "t-certify"])
def test_a_log_of_another_method_than_certify_says_so_in_a_seventh_column(tmp_path, method):
    path = tmp_path / "log"
    write_log(path, **GOOD, method=method)
    assert path.read_text().splitlines()[0] == "\t".join([*COLUMNS, "method"])
    assert read_log(path).methods == (method,)
    write_log(path, **GOOD)
    assert path.read_text().splitlines()[0] == HEADER
    assert read_log(path).methods == ()


def test_a_column_called_method_may_hold_anything(tmp_path):
    rows = [f"{i}\t3\t3\t0.5\t1\t0:00:01\tno{i} \xff" for i in range(20)]
    path = tmp_path / "log"
    path.write_bytes("\n".join([f"{HEADER}\tmethod", *rows, ""]).encode("latin-1"))
    methods = read_log(path).methods
    assert len(methods) == 8
    assert methods[0] == r"no0 \\xff"


GOOD = {"idx": [0], "label": [1], "predict": [1], "radius": [0.5], "seconds": [1.0]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"radius": [np.nan]}, "`radius` must be at least 0 and finite, got nan."),
        ({"radius": [-0.1]}, "`radius` must be at least 0 and finite, got -0.1."),
        ({"seconds": [np.inf]}, "`seconds` must be at least 0 and finite, got inf."),
        ({"predict": [-2]}, "`predict` must be at least -1, got -2."),
        ({"predict": [-1]}, "`radius` must be 0 for an abstention, got 0.5."),
        ({"label": [1, 1]}, "The columns must be 1-d and equally long, got shapes (1,), (2,)"),
        ({"decimals": 0}, "`decimals` must be at least 1, got 0."),
        ({"method": "two\twords"}, "`method` must be lower-case letters, digits and hyphens"),
    ],
)
def test_what_the_reader_would_refuse_is_not_written(tmp_path, change, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        write_log(tmp_path / "log", **(GOOD | change))
    assert not list(tmp_path.iterdir())


def test_a_device_is_refused_and_left_as_it_is(tmp_path):
    device = tmp_path / "full"
    os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 7))
    with pytest.raises(OSError, match=r"neither a regular file nor a pipe: .*full'"):
        write_log(device, **GOOD)
    assert device.is_char_device()


def test_a_failed_write_leaves_the_log_that_stood_there(tmp_path, monkeypatch):
    path = tmp_path / "log"
    write_log(path, **GOOD)
    before = path.read_bytes()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_log(path, **GOOD)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not published_logs(), reason="the published logs are not beside the checkout")
def test_published_logs_are_read_whole():
    logs = {path.name: read_log(path) for path in published_logs()}
    assert {name: len(log.idx) for name, log in logs.items()} == {
        "gaussian_imagenet_resnet50_sigma_0.50.tsv": 427,
        "macer_cifar10_resnet110_sigma_0.50.tsv": 10_000,
        "smoothadv_cifar10_resnet110_sigma_1.00.tsv": 500,
    }
    assert set(logs["smoothadv_cifar10_resnet110_sigma_1.00.tsv"].radius_step) == {1e-4}


def test_an_error_of_reading_names_the_file():
    with pytest.raises(OSError, match="/proc/self/mem"):
        read_log("/proc/self/mem")
