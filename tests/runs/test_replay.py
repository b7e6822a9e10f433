"""Replay: votes that were never cast are found, and honest ones are not accused."""

from dataclasses import replace

import numpy as np
import pytest

from tcertify.errors import RunFileError
from tcertify.runs import certify_dataset, predict_dataset, verify_run
from tcertify.runs.file import RunFile
from tests.runs.forge import forge_columns, forge_parameters, forge_row
from tests.runs.test_verify import moved_votes
from tests.tiny import CLASSES, Network, images

RADII = (0.0, 0.25, 0.5)


@pytest.fixture(params=[None, RADII], ids=["full", "early"])
def run(request, tmp_path):
    path = tmp_path / "a.run"
    certify_dataset(
        Network(), images(), sigma=0.5, out=path, n0=20, n=500, radii=request.param, seed=3
    )
    return path


def replayed(run, **options):
    return verify_run(run, **{"replay": 12, "model": Network(), "dataset": images()} | options)


def nothing_claimed(row, looks):
    """A row that its votes support, whatever they are."""
    return replace(row, looks=looks, radius=0.0, predicted=-1, p_a_lower=0.0, p_b_upper=1.0)


def test_a_replay_casts_the_same_votes(run):
    report = replayed(run, replay=4, seed=0)
    assert (report.findings, report.moved) == ((), 0)
    assert len(report.replayed) == 4
    assert replayed(run, replay=99).replayed == tuple(range(12))


def test_predictions_are_replayed_too(tmp_path):
    predict_dataset(Network(), images(), sigma=0.5, out=tmp_path / "a.run", n=300)
    assert (replayed(tmp_path / "a.run").findings, replayed(tmp_path / "a.run").moved) == ((), 0)


def test_a_replay_finds_votes_that_were_never_cast(run):
    forge_row(run, 4, lambda row: nothing_claimed(row, moved_votes(row)))
    assert verify_run(run).findings == ()
    assert replayed(run).findings == ("Image 4: 1 votes come out otherwise when replayed.",)


def test_votes_of_an_early_look_are_replayed_too(run):
    def early(row):
        looks = row.looks.copy()
        growing = np.diff(looks, axis=0).sum(0).argmax() if len(looks) > 1 else row.top
        looks[0, growing] += 1
        looks[0, (growing + 1) % CLASSES] -= 1
        return nothing_claimed(row, looks)

    forge_row(run, 0, early)
    assert replayed(run).findings == ("Image 0: 1 votes come out otherwise when replayed.",)


def test_a_replay_compares_labels(run):
    forge_columns(run, 4, label=2)
    assert verify_run(run).findings == ()
    assert replayed(run).findings == ("Image 4: label 2, but the data set says 1.",)


def test_an_image_that_cannot_be_loaded_any_more_is_reported(run):
    class Torn(list):
        num_classes = CLASSES
        fingerprint = images().fingerprint

        def __getitem__(self, at):
            return (None, 0) if at == 4 else super().__getitem__(at)

    report = replayed(run, dataset=Torn(images()[i] for i in range(12)))
    assert len(report.findings) == 1
    assert report.findings[0].startswith("Image 4: it was certified, but now TypeError")


def elsewhere(run):
    """Make the run one of another kind of device."""
    forge_parameters(run, device="cuda, NVIDIA H200")


def test_a_replay_on_another_kind_of_device_allows_a_few_votes_to_move(run):
    elsewhere(run)
    forge_row(run, 4, lambda row: nothing_claimed(row, moved_votes(row)))
    report = replayed(run)
    assert (report.findings, report.moved) == ((), 1)


def test_a_certificate_that_the_votes_cast_elsewhere_do_not_support_is_reported(tmp_path):
    """Two votes more than were cast, of 500, and the certificate that they would give."""
    run = tmp_path / "a.run"
    certify_dataset(Network(), images(), sigma=0.5, out=run, n0=20, n=500, method="certify")
    elsewhere(run)

    def improved(row):
        looks = row.looks.copy()
        looks[:, row.top] += 2
        rivals = [c for c in range(CLASSES) if c != row.top]
        looks[:, max(rivals, key=lambda c: looks[0, c])] -= 2
        with RunFile(run) as file:
            better = replace(row, looks=looks)
            found = file.settings.certificates(better.votes(), np.array([0]))[0]
        return replace(
            better,
            radius=float(found["radius"]),
            p_a_lower=float(found["p_a"]),
            p_b_upper=float(found["p_b"]),
        )

    forge_row(run, 4, improved)
    assert verify_run(run).findings == ()
    report = replayed(run)
    assert report.moved == 2
    assert "but the votes cast again support only" in report.findings[0]


def test_many_votes_that_move_elsewhere_are_reported(run):
    elsewhere(run)

    def emptied(row):
        looks = row.looks * 0
        looks[:, -1] = row.looks.sum(1)
        return nothing_claimed(row, looks)

    forge_row(run, 4, emptied)
    (finding,) = replayed(run).findings
    assert finding.endswith("votes come out otherwise when replayed.")


def test_a_replay_with_another_model_or_data_set_is_refused(run):
    model = Network()
    model.linear.bias.data += 1
    with pytest.raises(RunFileError, match="made with another model"):
        replayed(run, model=model)
    with pytest.raises(RunFileError, match="made from other data"):
        replayed(run, dataset=images(13))
    with pytest.raises(ValueError, match="needs the model and the data set"):
        verify_run(run, replay=1)
