"""BatchNorm folded into convolutions: the same logits, up to rounding, or one sentence."""

import copy

import pytest
import torch
from torch import nn

from tcertify.classifiers import Classifier, Execution, build
from tcertify.classifiers.folding import folded


def scattered(module):
    """The module with BatchNorms that do something."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.data.uniform_(0.5, 1.5)
                norm.bias.data.normal_(0, 0.1)
    return module


def norms(module):
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def head(channels=4):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


class Padded(nn.Conv2d):
    """A convolution that pads by itself, as the field's copies of TensorFlow's networks do."""

    def forward(self, batch):
        batch = nn.functional.pad(batch, (1, 1, 1, 1))
        return nn.functional.conv2d(batch, self.weight, self.bias, self.stride)


class Scaled(nn.Conv2d):
    """Weights that are worked on at each pass: not a parameter as it stands."""

    def forward(self, batch):
        return nn.functional.conv2d(batch, self.weight / self.weight.norm(), self.bias)


class Deaf(nn.Conv2d):
    """Never adds a bias."""

    def forward(self, batch):
        return nn.functional.conv2d(batch, self.weight)


class Twice(nn.Module):
    """Reads one convolution, or one BatchNorm, twice."""

    def __init__(self, of):
        super().__init__()
        self.of = of
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
        self.head = nn.Sequential(*head(3))

    def forward(self, batch):
        for i in range(2):
            batch = self.convolutions[i * (self.of != "convolution")](batch)
            batch = self.norms[i * (self.of != "norm")](batch)
        return self.head(batch)


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (build("cifar-resnet20", 3), 0),
        (build("resnet50", 3), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), *head()), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), *head()), 0),
        (nn.Sequential(Padded(3, 4, 3, bias=False), nn.BatchNorm2d(4), *head()), 0),
        (
            nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Scaled(4, 4, 3), nn.BatchNorm2d(4), *head()
            ),
            1,
        ),
        (
            nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), *head()
            ),
            1,
        ),
    ],
    ids=["resnet20", "resnet50", "not affine", "no bias", "padded", "scaled", "after a ReLU"],
)
def test_logits_are_the_same_up_to_rounding_and_the_module_is_as_it_was(module, left):
    module = scattered(module).train()
    before = copy.deepcopy(module.state_dict())
    result, batch = folded(module), torch.rand(4, 3, 32, 32)
    assert norms(result) == left < norms(module)
    with torch.no_grad():
        torch.testing.assert_close(result(batch), module.eval()(batch), rtol=1e-4, atol=1e-5)
    assert type(result) is type(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("of", ["convolution", "norm"])
def test_what_is_read_twice_is_not_folded(of):
    with pytest.raises(ValueError, match="found no BatchNorm in Twice that follows"):
        folded(Twice(of))


def test_what_has_two_names_is_folded_right_or_refused():
    class Alias(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.first = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
            self.second = self.first

        def forward(self, batch):
            return self.second(self.convolution(batch)).mean((2, 3))

    with pytest.raises(ValueError, match="cannot fold into `convolution`: its forward pass"):
        folded(Alias())


def test_a_convolution_that_adds_no_bias_is_refused():
    network = nn.Sequential(Deaf(3, 4, 3, bias=False), nn.BatchNorm2d(4), *head())
    with pytest.raises(ValueError, match="cannot fold into `0`"):
        folded(network)


def test_a_norm_with_a_hook_or_without_statistics_stays():
    hooked = nn.BatchNorm2d(4)
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    for norm in (hooked, nn.BatchNorm2d(4, track_running_stats=False)):
        with pytest.raises(ValueError, match="found no BatchNorm"):
            folded(nn.Sequential(nn.Conv2d(3, 4, 3), norm, *head()))


def test_a_forward_pass_that_looks_at_its_numbers_is_refused_in_one_sentence():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *head())

        def forward(self, batch):
            return self.layers(batch if batch.mean() > 0 else -batch)

    with pytest.raises(ValueError, match=r"`fold` needs a network that torch\.fx can trace") as it:
        Classifier(Looking(), 3, execution=Execution(fold=True))
    assert "\n" not in str(it.value)


def test_folding_is_before_the_precision_and_the_fingerprint_is_that_of_the_network_given():
    network = scattered(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *head()))
    execution = Execution("bfloat16", channels_last=True, fold=True)
    classifier, plain = Classifier(network, 3, execution=execution), Classifier(network, 3)
    assert torch.equal(classifier.module[0].weight, folded(network)[0].weight.bfloat16())
    assert norms(classifier.module) == 0
    assert classifier.fingerprint() == plain.fingerprint()
    assert classifier.parts() != plain.parts()


def test_a_plain_function_cannot_be_folded():
    with pytest.raises(ValueError, match="`fold` needs a torch module"):
        Classifier(lambda batch: batch.flatten(1)[:, :3], 3, execution=Execution(fold=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_network_is_refused():
    network = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval())
    with pytest.raises(ValueError, match="`fold`"):
        folded(network)
