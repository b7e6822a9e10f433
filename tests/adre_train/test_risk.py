import math

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from adre_train import adre_risk, radius_risk, signed_radius_risk, stability


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def transcribed(logits, y, lam, per="mean", floor=0.0, smoothing=0.0):
    """Equations 6 to 8 image by image in float64, without any care for range."""
    copies, images, classes = logits.shape
    total = 0.0
    for i in range(images):
        f = softmax(logits[:, i])
        g = f.mean(0)
        target = np.full(classes, smoothing / classes)
        target[y[i]] += 1 - smoothing
        losses = [-(target * np.log(f[j])).sum() for j in range(copies)]
        l_per = np.mean(losses) if per == "mean" else losses[0]
        rival = max(g[c] for c in range(classes) if c != y[i])
        total += l_per + lam * math.log(max(rival, floor))
    return total / images


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("lam", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("per", ["mean", "single"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_risk_is_the_paper_s_equations_transcribed(batch, lam, per, smoothing):
    logits, y = batch
    risk = adre_risk(logits, y, lam=lam, per=per, label_smoothing=smoothing)
    expected = transcribed(logits.numpy(), y.tolist(), lam, per, 1e-6, smoothing)
    assert risk.item() == pytest.approx(expected, rel=1e-13)


def test_without_copies_and_regulariser_the_risk_is_cross_entropy(batch):
    logits, y = batch
    expected = torch.nn.functional.cross_entropy(logits[0], y, label_smoothing=0.1)
    assert torch.allclose(adre_risk(logits[:1], y, lam=0.0, label_smoothing=0.1), expected)


@pytest.fixture
def small_batch(batch):
    logits, _ = batch
    return logits[:2, :2, 1:].clone().requires_grad_(), torch.tensor([0, 3])


@pytest.mark.parametrize("per", ["mean", "single"])
def test_the_gradient_of_the_risk_is_that_of_finite_differences(small_batch, per):
    logits, y = small_batch
    assert torch.autograd.gradcheck(lambda z: adre_risk(z, y, lam=0.3, per=per), logits)


@pytest.mark.parametrize("risk", [radius_risk, signed_radius_risk])
def test_the_gradient_of_the_radius_risks_is_that_of_finite_differences(small_batch, risk):
    logits, y = small_batch
    assert torch.autograd.gradcheck(lambda z: risk(z, y, lam=0.3, sigma=0.5), logits)


def test_the_gradient_of_stability_is_that_of_finite_differences(small_batch):
    logits, y = small_batch
    clean = logits[0].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c, z: stability(c, z, y, lam=0.3), (clean, logits))


def test_the_choice_of_the_runner_up_passes_no_gradient_to_other_classes():
    logits = torch.tensor([[[2.0, 1.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0])
    with_regulariser = adre_risk(logits, y, lam=1.0)
    (gradient,) = torch.autograd.grad(with_regulariser - adre_risk(logits, y, lam=0.0), logits)
    f = logits.detach()[0, 0].softmax(-1)
    assert torch.allclose(gradient[0, 0], torch.tensor([0.0, 1.0, 0.0], dtype=f.dtype) - f)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_risk_and_gradient_are_finite_for_enormous_logits(dtype, label, floor):
    logits = torch.tensor([[[1e4, -1e4, 0.0]], [[1e4, 1e4, -1e4]]], dtype=dtype, requires_grad=True)
    risk = adre_risk(logits, torch.tensor([label]), lam=0.3, floor=floor)
    (gradient,) = torch.autograd.grad(risk, logits)
    assert risk.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("of_radius", [radius_risk, signed_radius_risk])
@pytest.mark.parametrize("label", [0, 1])
def test_the_radius_risks_are_finite_for_enormous_logits(label, of_radius):
    logits = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    risk = of_radius(logits, torch.tensor([label]), lam=0.3, sigma=0.5)
    (gradient,) = torch.autograd.grad(risk, logits)
    assert risk.isfinite()
    assert gradient.isfinite().all()


def test_under_bf16_autocast_the_risk_is_that_of_the_rounded_logits():
    linear = torch.nn.Linear(8, 3)
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        logits = linear(x)
        risk = adre_risk(logits, y, lam=0.2)
    assert logits.dtype == torch.bfloat16
    assert risk.dtype == torch.float32
    expected = transcribed(logits.detach().double().numpy(), y.tolist(), 0.2)
    assert risk.item() == pytest.approx(expected, rel=1e-5)


def test_the_floor_bounds_the_risk_and_without_it_the_risk_falls_with_the_logits():
    y = torch.tensor([0])

    def risk(size, floor):
        logits = torch.tensor([[[size, 0.0, 0.0]]], dtype=torch.float64)
        return adre_risk(logits, y, lam=0.5, floor=floor).item()

    assert risk(1000.0, 0.0) == pytest.approx(-500)
    assert risk(1000.0, 1e-3) == pytest.approx(0.5 * math.log(1e-3))
    assert risk(1e4, 1e-3) == risk(1000.0, 1e-3)


def test_below_the_floor_the_regulariser_has_no_gradient():
    logits = torch.tensor([[[9.0, 0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0])
    gradients = [
        torch.autograd.grad(adre_risk(logits, y, lam=lam, floor=0.01), logits)[0]
        for lam in (0.0, 0.5)
    ]
    assert torch.equal(*gradients)


def test_the_signed_radius_risk_subtracts_the_radius_under_the_label_s_sign(batch):
    logits, y = batch
    risk = signed_radius_risk(logits, y, lam=0.7, sigma=0.5)
    g = softmax(logits.numpy()).mean(0)
    top = g[np.arange(6), y]
    g[np.arange(6), y] = 0
    radius = 0.25 * (ndtri(top) - ndtri(g.max(1)))
    assert (radius < 0).any()
    expected = transcribed(logits.numpy(), y.tolist(), 0.0) - 0.7 * radius.mean()
    assert risk.item() == pytest.approx(expected, rel=1e-12)


def test_the_radius_risk_is_equation_10_transcribed_which_does_not_ask_for_the_label(batch):
    logits, y = batch
    risk = radius_risk(logits, y, lam=0.7, sigma=0.5)
    g = np.sort(softmax(logits.numpy()).mean(0), axis=1)
    radius = 0.25 * (ndtri(g[:, -1]) - ndtri(g[:, -2]))
    expected = transcribed(logits.numpy(), y.tolist(), 0.0) - 0.7 * radius.mean()
    assert risk.item() == pytest.approx(expected, rel=1e-12)


def test_both_radius_risks_agree_where_the_classifier_is_right_and_only_there():
    logits = torch.tensor([[[2.0, 1.0, 0.0]], [[3.0, 1.0, 0.0]]], dtype=torch.float64)

    def difference(label):
        y = torch.tensor([label])
        literal = radius_risk(logits, y, lam=1.0, sigma=0.5)
        return (signed_radius_risk(logits, y, lam=1.0, sigma=0.5) - literal).item()

    assert difference(0) == 0
    assert difference(1) > 0.1


RISKS = [
    lambda z, y: adre_risk(z, y, lam=0.3),
    lambda z, y: adre_risk(z, y, lam=0.3, per="single", floor=0.0),
    lambda z, y: radius_risk(z, y, lam=0.3, sigma=0.5),
    lambda z, y: signed_radius_risk(z, y, lam=0.3, sigma=0.5),
    lambda z, y: stability(z[0], z, y, lam=0.3),
]


@pytest.mark.parametrize("risk", RISKS)
def test_a_masked_class_leaves_risk_and_gradient_as_if_it_were_not_there(risk):
    logits = torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(2)).double()
    y = torch.tensor([0, 3, 2, 2, 1, 3])
    masked = torch.cat([logits, torch.full((4, 6, 1), -torch.inf)], dim=2).requires_grad_()
    plain = logits.clone().requires_grad_()
    assert torch.allclose(risk(masked, y), risk(plain, y), rtol=1e-14)
    risk(masked, y).backward()
    risk(plain, y).backward()
    assert torch.allclose(masked.grad[..., :4], plain.grad, atol=1e-15)
    assert (masked.grad[..., 4] == 0).all()
    expected = torch.nn.functional.cross_entropy(masked.flatten(0, 1), y.repeat(4))
    assert torch.allclose(adre_risk(masked, y, lam=0.0), expected)


@pytest.mark.parametrize("risk", RISKS)
def test_every_risk_compiles_as_one_graph(batch, risk):
    logits, y = batch
    compiled = torch.compile(risk, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (risk, compiled):
        leaf = logits.clone().requires_grad_()
        value = function(leaf, y)
        gradients.append((value.detach(), *torch.autograd.grad(value, leaf)))
    for eager, of_graph in zip(*gradients, strict=True):
        assert torch.allclose(eager, of_graph, rtol=1e-14)


def test_stability_adds_the_cross_entropy_between_clean_and_noisy_predictions(batch):
    logits, y = batch
    clean = logits.flip(0)[0]
    f, noisy = softmax(clean.numpy()), softmax(logits.numpy())
    at_label = -np.log(f[np.arange(6), y]).mean()
    expected = at_label - 0.4 * (f * np.log(noisy)).sum(-1).mean()
    assert stability(clean, logits, y, lam=0.4).item() == pytest.approx(expected, rel=1e-13)


def test_a_nan_logit_makes_the_risk_nan(batch):
    logits, y = batch
    logits[1, 2, 3] = torch.nan
    assert adre_risk(logits, y, lam=0.1).isnan()


def test_the_risk_changes_neither_its_inputs_nor_the_global_random_state(batch):
    logits, y = batch
    before, state = logits.clone(), torch.get_rng_state()
    adre_risk(logits, y, lam=0.1, per="single")
    assert torch.equal(logits, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -0.1}, r"`lam` must be at least 0 and finite, got -0\.1\."),
        ({"lam": math.nan}, r"`lam` must be at least 0 and finite, got nan\."),
        ({"lam": "0.1"}, r"`lam` must be a number, got '0\.1'\."),
        ({"lam": 0.1, "per": "all"}, r"`per` must be 'mean' or 'single', got 'all'\."),
        ({"lam": 0.1, "floor": 1.0}, r"`floor` must be in \[0, 1\), got 1\.0\."),
        ({"lam": 0.1, "floor": math.nan}, r"`floor` must be in \[0, 1\), got nan\."),
        ({"lam": 0.1, "label_smoothing": -1.0}, r"`label_smoothing` must be in \[0, 1\), got -1"),
    ],
)
def test_a_bad_option_is_named(batch, options, message):
    with pytest.raises(ValueError, match=message):
        adre_risk(*batch, **options)


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((0, 2, 3), [0, 1], r"`logits` must hold a copy of an image, got \(0, 2, 3\)\."),
        ((4, 0, 3), [], r"`logits` must hold a copy of an image, got \(4, 0, 3\)\."),
        ((4, 2, 1), [0, 0], r"`logits` must have at least 2 classes, got 1\."),
        ((2, 3), [0, 1], r"`logits` must be floating point of shape \(k, B, C\), got \(2, 3\)"),
        ((4, 2, 3), [0], r"`y` must be \(2,\) torch\.int64, got \(1,\)"),
        ((4, 2, 3), [0.0, 1.0], r"`y` must be \(2,\) torch\.int64, got \(2,\) torch\.float32\."),
        ((4, 2, 3), [0, 3], r"`y` must be in \[0, 3\), got 3\."),
        ((4, 2, 3), [-1, 3], r"`y` must be in \[0, 3\), got -1\."),
    ],
)
def test_a_bad_batch_is_named(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        adre_risk(torch.zeros(shape), torch.tensor(labels), lam=0.1)


def test_whole_number_logits_are_refused():
    with pytest.raises(ValueError, match=r"floating point of shape .* torch\.int64"):
        adre_risk(torch.zeros((1, 1, 2), dtype=torch.int64), torch.tensor([0]), lam=0.1)


@pytest.mark.parametrize("risk", [radius_risk, signed_radius_risk])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"sigma": sigma}, "`sigma` must be positive and finite")
            for sigma in (0.0, -1.0, math.nan, math.inf)
        ),
        ({"floor": 0.0}, r"`floor` must be in \(0, 0\.5\), got 0\.0\."),
        ({"lam": -1.0}, "`lam` must be at least 0 and finite"),
    ],
)
def test_a_bad_option_of_the_radius_risks_is_named(batch, risk, options, message):
    with pytest.raises(ValueError, match=message):
        risk(*batch, **{"lam": 0.1, "sigma": 0.5, **options})


def test_stability_needs_clean_logits_for_the_same_images(batch):
    logits, y = batch
    with pytest.raises(ValueError, match=r"`clean` must be \(6, 5\), got \(5, 5\)\."):
        stability(logits[0, :5], logits, y, lam=0.1)
