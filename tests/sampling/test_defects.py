"""find_defects and recheck: what makes a certificate void is found, whatever the images are."""

import pytest
import torch
from torch import nn

from tcertify.classifiers import Classifier, Execution
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler
from tcertify.sampling.defects import find_defects, outside_range, recheck, remarks

CLASSES = 5
IMAGES = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
MASKS = (0.0, -1e4, -1e9, -torch.inf)


class Net(nn.Module):
    """Hidden features, something that happens to them, logits, and a class that is masked."""

    def __init__(self, middle, mask=0.0, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.middle, self.head = nn.Linear(16, 8), middle, nn.Linear(8, CLASSES)
        self.mask, self.scale = mask, scale

    def forward(self, batch):
        logits = self.scale * self.head(self.middle(self.hidden(batch.flatten(1)).relu()))
        logits[:, 2] += self.mask
        return logits


class BatchStatistics(nn.Module):
    """Normalises by the batch, whatever its mode."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


class Dice(nn.Module):
    """Dropout that ignores its mode."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.3, training=True)


def sampler(model, sigma=0.25, batch_size=None, **options):
    classifier = Classifier(model, CLASSES, **options)
    return Sampler(classifier, GaussianNoise(sigma), batch_size=batch_size)


def codes(defects):
    return {defect.code for defect in defects} - {None}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("middle", "code"), [(BatchStatistics, "rows"), (Dice, "random")])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_no_mask_and_no_first_image_hides_a_defect(middle, code, mask, scale):
    at_work = sampler(Net(middle(), mask, scale), sigma=0.05)
    for image in IMAGES:
        assert code in codes(find_defects(at_work, image[None]))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fixed_function_of_one_input_passes(mask, dtype):
    network = Net(nn.BatchNorm1d(8), mask).eval()
    for batch_size in (None, 1, 7):
        at_work = sampler(network, batch_size=batch_size, execution=Execution(dtype=dtype))
        for images in (IMAGES[:1], IMAGES[3:6]):
            assert codes(find_defects(at_work, images)) == set()


def test_the_real_size_of_a_batch_is_looked_at():
    class Crowded(Net):
        def forward(self, batch):
            out = super().forward(batch)
            return out - out.mean(0) if len(batch) > 128 else out

    assert codes(find_defects(sampler(Crowded(nn.ReLU())), IMAGES[:1])) == {"rows"}


def test_buffers_that_change_behind_a_plain_function_are_found():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, momentum=0.1), nn.Linear(16, CLASSES))

    def function(batch):
        with torch.no_grad():
            network[1].running_mean += 1e-9
        return network.eval()(batch)

    assert codes(find_defects(sampler(function), IMAGES[:1])) == {"state"}


def test_an_attribute_that_changes_is_told_and_voids_nothing():
    class Counting(Net):
        calls = 0

        def forward(self, batch):
            self.calls += 1
            return super().forward(batch)

    found = find_defects(sampler(Counting(nn.ReLU()).eval()), IMAGES[:1])
    assert [defect.reason for defect in found] == [
        "The classifier changes attributes of its own as it runs."
    ]
    assert codes(found) == set()


def test_equal_logits_a_changed_input_and_global_dice_are_told():
    def function(batch):
        batch.mul_(2)
        torch.rand(1)
        return torch.zeros(len(batch), CLASSES)

    reasons = " ".join(defect.reason for defect in find_defects(sampler(function), IMAGES[:1]))
    assert "input in place" in reasons
    assert "all equal" in reasons
    assert "global random generator" in reasons


@pytest.mark.parametrize(("middle", "code"), [(BatchStatistics, "rows"), (Dice, "random")])
def test_a_recheck_during_a_run_finds_what_appeared_since(middle, code):
    network = Net(nn.Identity(), -1e9)
    at_work = sampler(network)
    at_work.count(IMAGES, range(12), 0, 10, ESTIMATION)
    assert recheck(at_work, IMAGES, range(12), 5, ESTIMATION) == []
    network.middle = middle()
    assert code in codes(recheck(at_work, IMAGES, range(12), 5, ESTIMATION))


def test_ties_and_last_bits_are_no_defect():
    class Rounded(Net):
        def forward(self, batch):
            return super().forward(batch).round() + 1e-7 * torch.rand(len(batch), CLASSES)

    assert codes(find_defects(sampler(Rounded(nn.ReLU())), IMAGES[:1])) <= {"random", "rows"}


def test_remarks_and_the_range():
    assert remarks(Classifier(Net(nn.ReLU()).eval(), CLASSES)) == []
    assert "train mode" in remarks(Classifier(Net(nn.ReLU()), CLASSES))[0].reason
    assert "no torch module" in remarks(Classifier(lambda batch: batch, CLASSES))[0].reason
    assert outside_range(IMAGES) == []
    assert [defect.code for defect in outside_range(IMAGES * 255)] == ["range"]
