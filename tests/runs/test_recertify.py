"""Recertification: the same votes under another method or alpha."""

from dataclasses import replace

import numpy as np
import pytest

from tcertify import certify_counts
from tcertify.certificates import METHODS
from tcertify.errors import RunFileError
from tcertify.logs import audit_log, read_log
from tcertify.report import Result, certified_table
from tcertify.runs import (
    certify_dataset,
    export_run,
    predict_dataset,
    read_run,
    read_votes,
    recertify,
    recertify_run,
)
from tcertify.runs.file import RunFile, RunWriter
from tcertify.runs.settings import Settings
from tcertify.statistics import certify_family
from tcertify.statistics.groups import Groups
from tcertify.statistics.stopping import Schedule
from tcertify.statistics.top_k import certify_top_k
from tests.runs.forge import forge_columns, forge_row
from tests.tiny import CLASSES, Network, certify, grey_images, images

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
    with pytest.raises(RunFileError, match=r"a\.run`, image 4: it has votes at"):
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


GROUPS = {"even": [0, 2]}


@pytest.fixture
def full(tmp_path):
    """A run whose classes are often near each other, and one of whose images failed."""
    path = tmp_path / "full.run"
    data = [images()[i] for i in range(12)]
    data[5][0].fill_(float("nan"))
    certify_dataset(Network(), data, sigma=0.5, out=path, n0=20, n=500, seed=3, num_classes=CLASSES)
    return path


def rows_of(path):
    with RunFile(path) as run:
        return [*run.rows()]


def middle(radii):
    """A radius that about half of the certificates reach."""
    return float(np.median(radii[radii > 0]))


def test_reported_images_are_those_that_reach_the_radius_by_themselves_at_alpha(full):
    alone = recertify_run(full)
    radius = middle(alone.radius)
    table = recertify_run(full, reported=radius)
    assert table.kept.tolist() == (alone.radius >= radius).tolist()
    assert 0 < table.kept.sum() < len(table)
    level = 0.001 * table.kept.sum() / len(table)
    assert table.settings.alpha == pytest.approx(level)
    again = recertify_run(full, alpha=table.settings.alpha)
    assert table.radius.tolist() == np.where(table.kept, again.radius, 0).tolist()
    assert (table.predicted[~table.kept] == -1).all()
    assert f"{table.kept.sum()} of the 12 images were kept" in table.claim


def test_what_is_reported_of_an_early_stopped_run_keeps_to_its_looks(tmp_path):
    path = tmp_path / "early.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n0=20, n=500, radii=RADII)
    table = recertify_run(path, reported=0.0)
    share = table.kept.mean()
    assert sum(table.settings.look_levels) <= 0.001 * share
    again = recertify_run(path, alpha=table.settings.alpha)
    assert table.radius.tolist() == np.where(table.kept, again.radius, 0).tolist()


def test_nothing_is_certified_where_no_image_reaches_the_radius(full):
    table = recertify_run(full, reported=100.0)
    assert (table.predicted == -1).all()
    assert not table.kept.any()


def test_a_rule_that_looks_at_other_images_is_refused(full):
    for reported in (-1.0, float("nan"), "the ten largest"):
        with pytest.raises(ValueError, match="`reported` must be one number"):
            recertify_run(full, reported=reported)


def test_groups_are_certified_from_the_sums_of_both_samples(full):
    table = recertify_run(full, groups=GROUPS)
    index = Groups.of(GROUPS, CLASSES).index
    fold = np.eye(index.max() + 1, dtype=int)[index]
    for row, predicted, radius, label in zip(
        rows_of(full), table.predicted, table.radius, table.label, strict=True
    ):
        assert label == index[row.label]
        if row.error is None:
            top = (row.selection[:-1] @ fold).argmax()
            votes, invalid = row.looks[0][:-1] @ fold, row.looks[0][-1]
            expected = certify_counts(votes, top, sigma=0.5, invalid=invalid)
            assert (predicted, radius) == (expected.predicted, expected.radius)
    assert table.settings.num_classes == index.max() + 1
    assert "label 0 is even" in table.claim


def test_top_k_certifies_the_label(full):
    table = recertify_run(full, top_k=2, alpha=0.01)
    votes, label = read_votes(full)
    expected = certify_top_k(votes, 2, sigma=0.5, alpha=0.01)
    assert table.radius.tolist() == expected.radius.tolist()
    certified = table.predicted >= 0
    assert (table.predicted == table.label)[certified].all()
    assert table.method == "top-2"
    assert "among the 2 most probable classes" in table.claim
    assert label.tolist() == table.label.tolist()


def test_every_question_can_be_asked_of_reported_images(full):
    for question in ({"groups": GROUPS}, {"top_k": 2}):
        alone = recertify_run(full, **question)
        table = recertify_run(full, reported=0.0, **question)
        assert table.kept.tolist() == (alone.radius > 0).tolist()
        again = recertify_run(full, alpha=table.settings.alpha, **question)
        assert table.radius.tolist() == np.where(table.kept, again.radius, 0).tolist()


def test_questions_that_make_no_sense_are_named(full):
    with pytest.raises(ValueError, match="`method` must not be given with `top_k`"):
        recertify_run(full, top_k=2, method="joint")
    with pytest.raises(ValueError, match="`top_k` must be below the number of classes"):
        recertify_run(full, top_k=CLASSES)
    with pytest.raises(ValueError, match="`top_k` must be at least 1"):
        recertify_run(full, top_k=0)
    with pytest.raises(ValueError, match="`groups` must not overlap"):
        recertify_run(full, groups={"a": [0], "b": [0]})
    for other in ({"reported": 0.5}, {"top_k": 2}):
        (name,) = other
        with pytest.raises(ValueError, match=f"`{name}` must not be given with `all_at_once`"):
            recertify_run(full, all_at_once=0.5, **other)
    for radius in (-1.0, float("nan"), "far"):
        with pytest.raises(ValueError, match="`all_at_once` must be"):
            recertify_run(full, all_at_once=radius)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["classes", "groups"])
def test_what_is_certified_all_at_once_is_the_family_of_the_votes(full, method, groups):
    votes, label = read_votes(full, groups)
    made = {"method": method, "alpha": 0.05}
    alone = recertify_run(full, groups=groups, **made).radius
    listed = []
    for radius in (0.0, middle(alone), *np.sort(alone[alone > 0])[:3]):
        table = recertify_run(full, all_at_once=radius, groups=groups, **made)
        family = certify_family(
            votes.counts, votes.top, radius, sigma=0.5, invalid=votes.invalid, **made
        )
        assert table.kept.tolist() == family.tolist()
        assert table.predicted.tolist() == np.where(family, votes.top, -1).tolist()
        assert table.radius.tolist() == np.where(family, radius, 0).tolist()
        assert {*table.p_a_lower, *table.p_b_upper} == {0, 1}
        assert table.label.tolist() == label.tolist()
        assert not table.kept[5]
        assert (table.settings.alpha, table.settings.method) == (0.05, method)
        listed.append(int(family.sum()))
    assert 0 < min(listed) < (alone > 0).sum()


def test_a_family_says_what_it_lists_and_its_tables_nothing_else(full, tmp_path):
    table = recertify_run(full, all_at_once=0.2)
    assert 0 < table.kept.sum() < 12
    assert table.parameters["all_at_once"] == table.all_at_once == 0.2
    assert table.claim == (
        f"{table.kept.sum()} of the 12 images are robust at radius 0.2, all at once: the"
        " probability that any of these statements is wrong is at most 0.001."
    )
    shown = certified_table([Result.of_run(table)])
    assert shown.radii == (0.2,)
    (column,) = shown.columns
    assert column.accuracy[0].value == table.correct.mean()
    assert column.abstained.value == (~table.kept).mean()
    assert column.acr is None
    assert shown.notes()[0] == table.claim
    assert not any("population" in note for note in shown.notes())
    for method in ("joint", "certify"):
        export_run(recertify_run(full, all_at_once=0.2, method=method), tmp_path / "a.tsv")
        log = read_log(tmp_path / "a.tsv")
        assert log.methods == (f"{method}-holm",)
        assert "not by plain CERTIFY" in audit_log(log, sigma=0.5).verdict


@pytest.mark.parametrize("data", [images, grey_images])
def test_at_radius_0_the_class_is_the_answer_or_not_listed(tmp_path, data):
    path = tmp_path / "a.run"
    certify(path, data=data(), n=60, method="joint", seed=3)
    table = recertify_run(path, all_at_once=0)
    certified = recertify_run(path).predicted >= 0
    assert 0 < table.kept.sum() < certified.sum()
    assert (table.predicted >= 0).tolist() == table.kept.tolist()
    assert not table.radius.any()
    # the image itself is certified, and no other
    itself = 0 if table.settings.levels else -1
    assert table.squared_levels.tolist() == np.where(table.kept, itself, -1).tolist()
    assert table.claim.startswith(f"The class is the answer on {table.kept.sum()} of the 12 images")
    shown = certified_table([Result.of_run(table)])
    assert shown.columns[0].accuracy[0].value == table.correct.mean() > 0


@pytest.mark.parametrize("question", [{"all_at_once": 0.1}, {"groups": GROUPS}, {"top_k": 2}])
def test_a_run_that_stopped_early_decided_its_own_classes_only(tmp_path, question):
    path = tmp_path / "early.run"
    certify_dataset(Network(), images(), sigma=0.5, out=path, n0=20, n=500, radii=RADII)
    with pytest.raises(ValueError, match="needs a run that did not stop early"):
        recertify_run(path, **question)
    with pytest.raises(ValueError, match="stopped early: its images have votes of different"):
        read_votes(path)


def test_votes_certify_what_the_run_does_and_failed_images_nothing(full):
    votes, label = read_votes(full)
    table = recertify_run(full)
    assert certify_votes_of(votes).tolist() == table.radius.tolist()
    assert table.failed[5]
    assert votes.invalid[5] == votes.n[5] == 500
    assert label.tolist() == table.label.tolist()


def test_votes_of_groups_are_those_that_groups_are_certified_from(full):
    votes, label = read_votes(full, GROUPS)
    table = recertify_run(full, groups=GROUPS)
    assert certify_votes_of(votes).tolist() == table.radius.tolist()
    assert label.tolist() == table.label.tolist()


def certify_votes_of(votes):
    return certify_counts(votes.counts, votes.top, sigma=0.5, invalid=votes.invalid).radius


@pytest.mark.parametrize("question", ["reported", "all_at_once"])
def test_what_depends_on_all_images_needs_all_images_of_the_run(tmp_path, question):
    whole, part = tmp_path / "whole.run", tmp_path / "part.run"
    certify(whole)
    with RunFile(whole) as run:
        rows, parameters = [*run.rows()], run.parameters
    with RunWriter(part, parameters, {}, range(12)) as writer:
        writer.add(rows[:3])
    with pytest.raises(ValueError, match=rf"`{question}` needs all images.*9 still to do"):
        recertify_run(part, **{question: 0.25})


def test_parameters_of_the_table_say_what_was_asked(tmp_path):
    certify(tmp_path / "a.run")
    table = recertify_run(tmp_path / "a.run", reported=0.25, top_k=1, groups={"both": [0, 2]})
    asked = {
        "reported": 0.25,
        "top_k": 1,
        "group_names": ["both", "1"],
        "group_of_class": [0, 1, 0],
    }
    assert {name: table.parameters[name] for name in asked} == asked
