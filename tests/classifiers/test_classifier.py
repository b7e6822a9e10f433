"""Classifier: f is prepared once, where it is, as it is, and what it returns is checked."""

import numpy as np
import pytest
import torch
from torch import nn

from tcertify.classifiers import Classifier, Execution
from tcertify.sampling import ESTIMATION, GaussianNoise, Sampler

IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def count(classifier, n=50):
    return Sampler(classifier, GaussianNoise(0.5)).count(IMAGES, [0, 1], 0, n, ESTIMATION)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_runs_in_its_own_precision_as_it_is(dtype):
    model = network(dtype)
    classifier = Classifier(model, 3)
    assert classifier.module is model
    assert classifier.execution.dtype == str(dtype).removeprefix("torch.")
    assert classifier.empty(1, IMAGES).dtype == dtype
    assert count(classifier).sum() == 100


def test_another_precision_runs_in_a_copy_and_leaves_the_model_alone():
    model = network(torch.float64)
    classifier = Classifier(model, 3, execution=Execution(dtype="float32"))
    assert count(classifier).sum() == 100
    assert {p.dtype for p in classifier.module.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_a_model_of_mixed_precision_takes_what_its_first_parameter_takes():
    model = network(torch.bfloat16)
    model.register_buffer("scale", torch.ones(3))
    classifier = Classifier(model, 3)
    assert classifier.module is model
    assert classifier.execution.dtype == "bfloat16"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_modules_run_like_the_module_they_were_made_of():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(1024, 3))
    for scripted in (torch.jit.script(model), nn.Sequential(torch.jit.script(model))):
        assert count(Classifier(scripted, 3)).tolist() == count(Classifier(model, 3)).tolist()
        assert len(Classifier(scripted, 3).fingerprint()) == 64


def test_an_image_on_the_wrong_device_gets_one_sentence():
    with pytest.raises(ValueError, match=r"`x` is on cpu, but the classifier on meta: move one"):
        Classifier(lambda batch: batch, 3, device="meta").check_images(IMAGES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classifier("resnet", 3), "`base_classifier` must be a torch module or callable"),
        (lambda: Classifier(network(), 1), "`num_classes` must be at least 2"),
        (lambda: Classifier(network(torch.float64), 3), "made of float64, .* give `dtype`, such"),
        (lambda: Classifier(nn.LazyLinear(3), 3), "lazy modules without parameters yet: run it"),
        (lambda: Classifier(network().to("meta"), 3), "on the meta device: load its parameters"),
        (lambda: Classifier(network(), 3, device="meta"), "`device` is meta, but the classifier's"),
        (lambda: Classifier(network(), 3, device="x"), "`device` 'x' cannot be used"),
        (lambda: Classifier(network(), 3, device="cuda:99"), "`device` 'cuda:99' cannot be used"),
        (lambda: Execution(dtype="float64"), "`dtype` must be one of float32, bfloat16, float16"),
        (
            lambda: Classifier.of(Classifier(network(), 3), 4),
            "`num_classes` is 4, but the classifier has 3",
        ),
        (
            lambda: Classifier.of(Classifier(network(), 3), 3, device="meta"),
            "`device` is meta, but the classifier is on cpu",
        ),
        (
            lambda: Classifier.of(Classifier(network(), 3), 3, execution=Execution(compile=True)),
            "`execution` is not that of the classifier",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_what_cannot_run_is_refused_at_the_door(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_classifier_is_prepared_once():
    prepared = Classifier(network(), 3)
    assert Classifier.of(prepared, 3) is prepared
    assert Classifier.of(prepared, 3, device="cpu", execution=Execution()) is prepared
    assert Classifier.of(network(), 3).num_classes == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda b: b.flatten(1), r"shape \(2, 3\), got \(2, 48\)"),
        (lambda b: b.flatten(1)[:, :3].long(), r"float logits .* of torch\.int64"),
        (lambda b: b.flatten(1)[:, :3].double(), "in float32, bfloat16 or float16, got float64"),
        (lambda b: b.flatten(1)[:, :3].to_sparse(), r"as a dense tensor, got torch\.sparse_coo"),
        (lambda b: b.flatten(1)[:, :3].to("meta"), "on cpu, got them on meta: `device` says"),
        (lambda b: {"logits": b}, "got dict"),
        (lambda b: np.zeros((2, 3)), "got ndarray"),
    ],
)
def test_logits_are_one_dense_float_row_for_each_image(answer, message):
    classifier = Classifier(answer, 3)
    with pytest.raises(ValueError, match=message), classifier.running():
        classifier.logits(IMAGES)


def test_channels_last_needs_images_with_channels():
    classifier = Classifier(network(), 3, execution=Execution(channels_last=True))
    with pytest.raises(ValueError, match=r"`channels_last` needs images of shape \(C, H, W\)"):
        classifier.empty(1, torch.rand(2, 5))


def test_a_probe_tells_functions_that_look_the_same_from_outside():
    class Scaled:
        """Holds its factor where no fingerprint looks."""

        __slots__ = ("by",)

        def __init__(self, by):
            self.by = by

        def __call__(self, batch):
            return batch.flatten(1)[:, :3] * self.by

    image = IMAGES[0]
    one, same, two = (Classifier(Scaled(by), 3) for by in (1.0, 1.0, 2.0))
    assert one.fingerprint() == two.fingerprint()
    assert one.probe(image) == same.probe(image) != two.probe(image)
    logits = np.frombuffer(one.probe(image), np.float32).reshape(4, 3)
    assert np.array_equal(logits[0], image.flatten()[:3].numpy())


def test_an_execution_is_no_word():
    classifier = Classifier(torch.nn.Flatten(), 3)
    for given in (torch.nn.Flatten(), classifier):
        with pytest.raises(TypeError, match="`execution` must be an Execution, got 'fastest'"):
            Classifier.of(given, 3, execution="fastest")
