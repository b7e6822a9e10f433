"""The table: what the rows say, as arrays."""

import json

import numpy as np
import pytest

from tcertify.errors import RunFileError
from tcertify.runs import certify_dataset, predict_dataset, read_run
from tcertify.runs.file import RunFile
from tests.runs.forge import forge_columns
from tests.tiny import CLASSES, Network, certify, images

RADII = (0.0, 0.25, 0.5)


@pytest.fixture(params=[None, RADII], ids=["full", "early"])
def run(request, tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(
        Network(), images(), sigma=0.5, out=path, n0=20, n=500, radii=request.param, seed=3
    )
    return path


def test_the_table_of_a_run_is_what_its_rows_say(run):
    table = read_run(run)
    with RunFile(run) as file:
        rows = [*file.rows()]
        assert table.settings == file.settings
    assert len(table) == len(rows) == 12
    for i, row in enumerate(rows):
        for name in ("image_id", "label", "predicted", "radius", "p_a_lower", "p_b_upper", "n"):
            assert getattr(table, name)[i] == getattr(row, name)
        assert table.invalid[i] == row.invalid
    assert json.dumps(table.parameters)


def test_correct_is_a_prediction_that_equals_the_label(tmp_path):
    data = [images()[i] for i in range(12)]
    data[0][0].fill_(float("nan"))
    table = certify(tmp_path / "a.run", data=data, num_classes=CLASSES)
    assert table.correct.tolist() == (table.predicted == table.label).tolist()
    assert 0 < table.correct.sum() < 12
    assert not table.correct[0]


def test_an_image_that_failed_is_not_correct_whatever_its_row_says(run):
    forge_columns(run, 4, error="broken", label=1, predicted=1)
    table = read_run(run)
    assert (table.failed[4], table.correct[4]) == (True, False)
    assert table.errors == {4: "broken"}


def test_a_table_knows_whether_its_run_stopped_early(tmp_path):
    assert not certify(tmp_path / "a.run").stopped_early
    assert certify(tmp_path / "b.run", radii=[0.25]).stopped_early
    predicted = predict_dataset(Network(), images(), sigma=0.5, out=tmp_path / "c.run", n=100)
    assert not predicted.stopped_early


def test_what_is_damaged_is_missing_from_the_table(run):
    forge_columns(run, 4, seconds=-1.0)
    table = read_run(run)
    assert 4 not in table.image_id
    assert (table.missing, len(table.damage)) == (1, 1)
    assert np.isfinite(table.seconds).all()


def test_what_is_no_run_file_is_an_error(tmp_path):
    (tmp_path / "a.run").write_bytes(b"idx\tlabel\n")
    with pytest.raises(RunFileError, match="is not a run file"):
        read_run(tmp_path / "a.run")


def test_a_notebook_shows_the_settings_and_the_first_images(run):
    shown = read_run(run)._repr_html_()
    assert "joint, alpha = 0.001, sigma = 0.5, 12 images" in shown
    assert shown.count("<tr>") == 11
    assert "and 2 more images" in shown
    assert "shard" not in shown


def test_a_notebook_shows_that_a_run_is_a_shard(tmp_path):
    table = certify(tmp_path / "a.run", shard=(1, 2))
    assert (table.part, table.shard_of) == ("shard: 6 of 12 images", 12)
    assert "0 still to do (shard: 6 of 12 images)" in table._repr_html_()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_has_every_column(run, library, monkeypatch):
    pytest.importorskip(library)
    monkeypatch.setattr("tcertify.runs.table.find_spec", lambda name: name == library)
    table = read_run(run)
    frame = table.to_frame()
    assert type(frame).__module__.startswith(library)
    assert frame["radius"].to_numpy().tolist() == table.radius.tolist()
    assert "image_id" in frame.columns


def test_a_frame_without_a_library_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr("tcertify.runs.table.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        read_run(run).to_frame()
