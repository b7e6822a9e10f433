"""Export: every format reads back, and no printed radius is above the certificate's."""

import csv
import json

import numpy as np
import pytest

from tcertify.logs.tsv import read_log
from tcertify.runs.engine import certify_dataset
from tcertify.runs.export import export_run
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
    assert log.idx.tolist() == table.idx.tolist()
    assert log.predict.tolist() == table.predicted.tolist()
    assert (log.radius <= table.radius).all()
    assert (table.radius - log.radius < 1e-10).all()
    assert (log.predict[5], log.radius[5], log.correct[5]) == (-1, 0, 0)


def test_csv_holds_every_column_exactly(table, tmp_path):
    export_run(table, tmp_path / "a.csv", "csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [int(row["idx"]) for row in rows] == table.idx.tolist()
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


@pytest.mark.parametrize("format", ["tsv", "csv"])
def test_a_full_disk_is_an_error_and_leaves_no_part_of_a_file(table, tmp_path, format):
    with pytest.raises(OSError, match="No space left"):
        export_run(table, "/dev/full", format)
    with pytest.raises(OSError, match="No such file"):
        export_run(table, tmp_path / "missing" / "a", format)
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"):
        export_run(table, tmp_path / "a", format)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
