"""Recertification: the same votes under another method or alpha."""

from dataclasses import replace

import numpy as np
import pytest

from tcertify import certify_counts
from tcertify.errors import RunFileError
from tcertify.runs import certify_dataset, predict_dataset, read_run, recertify, recertify_run
from tcertify.runs.file import RunFile, RunWriter
from tcertify.runs.settings import Settings
from tcertify.statistics.stopping import Schedule
from tests.runs.forge import forge_columns, forge_row
from tests.tiny import CLASSES, Network, certify, images

RADII = (0.0, 0.25, 0.5)


@pytest.fixture(params=[None, RADII], ids=["full", "early"])
def run(request, tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(
        Network(), images(), sigma=0.5, out=path, n0=20, n=500, radii=request.param, seed=3
    )
    return path


@pytest.mark.parametrize("method", ["certify", "t-certify", "joint"])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_recertifying_gives_what_the_method_gives_for_the_same_votes(tmp_path, method, alpha):
    path = tmp_path / "a.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n=500, method="certify")
    with RunFile(path) as run:
        rows = [*run.rows()]
    votes = np.array([row.looks[0] for row in rows])
    tops = [row.selection[:-1].argmax() for row in rows]
    expected = certify_counts(
        votes[:, :-1], tops, sigma=0.5, alpha=alpha, method=method, invalid=votes[:, -1]
    )
    table = recertify_run(path, method=method, alpha=alpha)
    assert table.predicted.tolist() == expected.predicted.tolist()
    assert table.radius.tolist() == expected.radius.tolist()
    assert (table.parameters["method"], table.parameters["alpha"]) == (method, alpha)
    assert table.n.tolist() == [500] * 12


def test_recertifying_an_early_stopped_run_keeps_to_its_schedule(tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n=500, radii=RADII)
    schedule = Schedule.geometric(500, 0.001, first=100)
    table = recertify_run(path, method="certify", alpha=0.002)
    with RunFile(path) as run:
        for row, radius in zip(run.rows(), table.radius, strict=True):
            looks = row.looks
            top = row.selection[:-1].argmax()
            best = max(
                certify_counts(votes[:-1], top, sigma=0.5, alpha=2 * level, method="certify").radius
                for votes, level in zip(looks, schedule.levels, strict=False)
            )
            assert radius == pytest.approx(float(best), rel=1e-12)


def test_recertifying_refuses_what_is_no_method(run):
    with pytest.raises(ValueError, match="`method` must be one of"):
        recertify_run(run, method="predict")
    with pytest.raises(ValueError, match="`alpha` must be in"):
        recertify_run(run, alpha=2)


def test_a_table_under_its_own_method_and_alpha_is_no_worse(run):
    assert (recertify_run(run).radius >= read_run(run).radius * (1 - 1e-12)).all()


def test_settings_and_parameters_of_the_new_table_agree(run):
    table = recertify_run(run, alpha=0.002)
    assert Settings.from_parameters(table.parameters) == table.settings
    assert sum(table.settings.look_levels) <= 0.002
    assert table.stopped_early == read_run(run).stopped_early


def test_predictions_have_no_radius_to_recertify(tmp_path):
    predict_dataset(Network(), images(), sigma=0.5, out=tmp_path / "a.run", n=300)
    with pytest.raises(RunFileError, match="predictions, which have no radius"):
        recertify_run(tmp_path / "a.run")


def test_images_that_failed_stay_failed(tmp_path):
    path = tmp_path / "a.run"
    data = [images()[i] for i in range(3)]
    data[1][0].fill_(float("nan"))
    certify_dataset(Network(), data, sigma=0.5, out=path, n=100, num_classes=CLASSES)
    table = recertify_run(path, method="certify")
    assert (table.predicted[1], table.radius[1]) == (-1, 0)


def test_votes_that_cannot_be_used_are_named(run):
    forge_row(run, 4, lambda row: replace(row, look=99))
    with pytest.raises(RunFileError, match="Image 4: it has votes at"):
        recertify_run(run)
    forge_columns(run, 4, looks=b"x")
    with pytest.raises(RunFileError, match="The row of image 4 holds no votes"):
        recertify_run(run)


def test_a_row_that_is_written_meanwhile_does_not_disturb(tmp_path, monkeypatch):
    whole = tmp_path / "whole.run"
    certify(whole, data=images(3))
    with RunFile(whole) as run:
        rows, parameters = [*run.rows()], run.parameters
    path, table_of = tmp_path / "a.run", recertify.table_of
    with RunWriter(path, parameters, {}, [0, 1, 2]) as writer:
        writer.add(rows[:2])
        writer.commit()

        def while_written(run):
            table = table_of(run)
            writer.add(rows[2:])
            writer.commit()
            return table

        monkeypatch.setattr(recertify, "table_of", while_written)
        assert len(recertify_run(path, method="joint")) == 2
    assert len(read_run(path)) == 3
