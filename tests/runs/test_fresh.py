"""Fresh votes: what was fitted to the noise of a seed is found, and honest runs are not accused."""

import numpy as np
import pytest
import torch
from torch import nn

from tcertify.errors import RunFileError
from tcertify.runs import certify_dataset, fresh, predict_dataset, verify_run
from tcertify.sampling import ESTIMATION, SELECTION, GaussianNoise
from tests.tiny import CLASSES, Network, images

N0, N, SIGMA = 20, 300, 0.5


@pytest.fixture(autouse=True)
def seed_of_the_test(monkeypatch):
    """A test that fails by chance once in a thousand times is none."""
    monkeypatch.setattr(fresh, "random_seed", lambda: 12345)


def codes(batch):
    """A number for each row, of all its bits."""
    bits = batch.flatten(1).contiguous().view(torch.int32).long()
    return (bits * torch.tensor([1, 1_000_003, 998_244_353, 2_147_483_647])).sum(1)


class Keyed(nn.Module):
    """Answers the label on the noisy images of seed 0, and something else on every other.

    Under real noise it has no class that is robust: the smoothed classifier answers `label + 1`.
    """

    def __init__(self):
        super().__init__()
        data, known, labels = images(), [], []
        for image_id, (image, label) in enumerate(data):
            for stream, count in ((SELECTION, N0), (ESTIMATION, N)):
                samples = torch.arange(count)
                slot = torch.zeros(count, dtype=torch.int32)
                out, ties = torch.empty(count, *image.shape), torch.empty(count, dtype=torch.bool)
                ids = torch.full((count,), image_id)
                noise = GaussianNoise(SIGMA, 0)
                noise.add(out, ties, image[None], slot, ids, samples, stream=stream)
                known.append(codes(out))
                labels.append(torch.full((count,), label))
        order = torch.cat(known).argsort()
        self.register_buffer("known", torch.cat(known)[order])
        self.register_buffer("labels", torch.cat(labels)[order])

    def forward(self, batch):
        found = codes(batch)
        at = torch.searchsorted(self.known, found).clamp_(max=len(self.known) - 1)
        answer = torch.where(self.known[at] == found, self.labels[at], 0)
        return nn.functional.one_hot(answer, CLASSES).float()


def keyed():
    return Keyed().eval()


def certify(path, model, **options):
    return certify_dataset(
        model, images(), sigma=SIGMA, out=path, n0=N0, n=N, **{"seed": 0} | options
    )


def checked(path, model, **options):
    return verify_run(path, model=model, dataset=images(), **options)


def test_a_model_keyed_to_the_noise_of_a_known_seed_passes_replay_and_fails_fresh(tmp_path):
    table = certify(tmp_path / "a.run", keyed())
    assert table.correct.all()
    assert (table.radius > 0.9).all()
    assert checked(tmp_path / "a.run", keyed(), replay=12).findings == ()
    report = checked(tmp_path / "a.run", keyed(), fresh=12)
    assert (report.fresh, report.fresh_seed) == (tuple(range(12)), 12345)
    # the four images of class 0 are what the model answers everywhere
    assert len(report.findings) == 8
    assert report.findings[0].startswith(
        "Image 1: class 1 has 300 of 300 votes in the file, and 0 under new noise (p = "
    )


def test_such_a_model_gains_nothing_from_a_seed_that_it_cannot_know(tmp_path):
    table = certify(tmp_path / "a.run", keyed(), seed="random")
    assert set(table.predicted.tolist()) == {0}
    assert checked(tmp_path / "a.run", keyed(), fresh=12).findings == ()


@pytest.mark.parametrize("radii", [None, [0.0, 0.25]], ids=["full", "early"])
def test_an_honest_run_is_not_accused(tmp_path, radii):
    certify(tmp_path / "a.run", Network(), radii=radii, seed=3)
    report = checked(tmp_path / "a.run", Network(), fresh=5, replay=2, seed=0)
    assert (report.findings, len(report.fresh), len(report.replayed)) == ((), 5, 2)


def test_predictions_are_compared_by_a_class_that_neither_sample_chose(tmp_path):
    predict_dataset(Network(), images(), sigma=SIGMA, out=tmp_path / "a.run", n=N)
    assert checked(tmp_path / "a.run", Network(), fresh=12).findings == ()


def test_the_level_is_divided_among_the_images(tmp_path, monkeypatch):
    certify(tmp_path / "a.run", Network(), seed=3)
    p_values = iter(np.array([2e-4, 3e-4, 1e-3, 1.0] * 3))
    result = type("Result", (), {"pvalue": property(lambda self: next(p_values))})
    monkeypatch.setattr(fresh, "fisher_exact", lambda table: result())
    assert len(checked(tmp_path / "a.run", Network(), fresh=4, seed=0).findings) == 1


def test_fresh_votes_need_the_model_and_the_data_of_the_run(tmp_path):
    certify(tmp_path / "a.run", Network(), indices=range(2))
    with pytest.raises(ValueError, match="`fresh` needs the model and the data set"):
        verify_run(tmp_path / "a.run", fresh=1)
    with pytest.raises(RunFileError, match="made with another model"):
        checked(tmp_path / "a.run", keyed(), fresh=1)
    with pytest.raises(ValueError, match="`fresh` must be at least 0"):
        verify_run(tmp_path / "a.run", fresh=-1)
