"""Export: every format reads back, and no printed radius is above the certificate's."""

import csv
import json
import os
import stat
import threading
from dataclasses import replace

import numpy as np
import pytest

from tcertify.logs.tsv import read_log
from tcertify.runs import certify_dataset, export_run, recertify_run
from tests.tiny import CLASSES, Network, images


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    data = [images()[i] for i in range(12)]
    data[5][0].fill_(float("nan"))
    path = tmp_path_factory.mktemp("run") / "a.run"
    return certify_dataset(
        Network(), data, sigma=0.5, out=path, n=1000, num_classes=CLASSES, method="t-certify"
    )


def test_the_log_reads_back_with_radii_rounded_down(table, tmp_path):
    export_run(table, tmp_path / "a.tsv")
    log = read_log(tmp_path / "a.tsv")
    assert log.idx.tolist() == table.image_id.tolist()
    assert log.predict.tolist() == table.predicted.tolist()
    assert (log.radius <= table.radius).all()
    assert (table.radius - log.radius < 1e-10).all()
    assert (log.predict[5], log.radius[5], log.correct[5]) == (-1, 0, 0)


def test_csv_holds_every_column_exactly(table, tmp_path):
    export_run(table, tmp_path / "a.csv", "csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [int(row["image_id"]) for row in rows] == table.image_id.tolist()
    for name in ("radius", "p_a_lower", "p_b_upper", "seconds"):
        assert [float(row[name]) for row in rows] == getattr(table, name).tolist()
    assert rows[5]["failed"] == "True"


def test_parquet_holds_every_column_exactly_and_the_parameters(table, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export_run(table, tmp_path / "a.parquet", "parquet")
    read = parquet.read_table(tmp_path / "a.parquet")
    for name in read.column_names:
        np.testing.assert_array_equal(read[name].to_numpy(), getattr(table, name))
    assert json.loads(read.schema.metadata[b"tcertify"]) == table.parameters


def test_an_unknown_format_is_an_error(table, tmp_path):
    with pytest.raises(ValueError, match="`format` must be one of tsv, csv, parquet"):
        export_run(table, tmp_path / "a.json", "json")


@pytest.mark.parametrize("format", ["tsv", "csv", "parquet"])
def test_a_file_that_cannot_be_written_is_an_error_and_leaves_no_part_of_it(
    table, tmp_path, format
):
    with pytest.raises(OSError, match="No such file"):
        export_run(table, tmp_path / "missing" / "a", format)
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        export_run(table, tmp_path / "a", format)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("format", ["tsv", "csv", "parquet"])
def test_a_device_is_refused_by_every_format_and_stays(table, tmp_path, format):
    device = tmp_path / "full"  # a node of our own: the system's must not be put at risk
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(OSError, match="neither a regular file nor a pipe"):
        export_run(table, device, format)
    assert device.is_char_device()


@pytest.mark.parametrize("format", ["tsv", "csv", "parquet"])
def test_every_format_goes_through_a_pipe(table, tmp_path, format):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    export_run(table, pipe, format)
    reader.join(30)
    export_run(table, tmp_path / "file", format)
    assert got == [(tmp_path / "file").read_bytes()]


def test_columns_say_what_the_radius_implies_in_other_norms(table, tmp_path):
    export_run(table, tmp_path / "a.csv", "csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    size = images()[0][0].numel()
    assert table.parameters["shape"] == [*images()[0][0].shape]
    for row, radius in zip(rows, table.radius.tolist(), strict=True):
        assert float(row["l1_radius"]) == radius
        assert radius - 1e-9 <= float(row["linf_radius"]) * size**0.5 <= radius


def test_a_radius_in_linf_needs_a_shape(table, tmp_path):
    for shape in (None, [], "2", [2, -1], [2.5], [True], [2] * 100, [2**60]):
        unknown = replace(table, parameters={**table.parameters, "shape": shape})
        assert unknown.linf_radius is None
    export_run(unknown, tmp_path / "a.csv", "csv")
    assert "linf_radius" not in (tmp_path / "a.csv").read_text().splitlines()[0]


def test_the_log_of_a_top_k_table_names_its_method(table, tmp_path):
    export_run(recertify_run(table.path, top_k=2), tmp_path / "a.tsv")
    assert set(read_log(tmp_path / "a.tsv").methods) == {"top-2"}
