"""SmoothedClassifier and Smooth: the drop-in contract, seeds, modes, and what they refuse."""

import gc
import inspect
import math
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from tcertify import ABSTAIN, Smooth, SmoothedClassifier, certify_counts, predict_counts
from tcertify.bounds import charged_alpha
from tcertify.errors import VoidCertificateError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))


@pytest.fixture
def x():
    return torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(1))


def test_smooth_has_the_signatures_of_the_file_that_everyone_forks():
    assert list(inspect.signature(Smooth.certify).parameters) == [
        *("self", "x", "n0", "n", "alpha", "batch_size")
    ]
    assert list(inspect.signature(Smooth.predict).parameters) == [
        *("self", "x", "n", "alpha", "batch_size")
    ]
    assert Smooth.ABSTAIN == ABSTAIN == -1


def test_smooth_answers_python_numbers(network, x):
    smooth = Smooth(network, 3, 0.25)
    answer = smooth.certify(x, 10, 200, 0.05, 64)
    assert [type(value) for value in answer] == [int, float]
    assert type(smooth.predict(x, 100, 0.05, 64)) is int


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_same_seed_gives_the_same_counts_for_every_batch_size(network, x, batch_size):
    here = SmoothedClassifier(network, 3, 0.5, seed=3, batch_size=batch_size).certify(x, 20, 300)
    there = SmoothedClassifier(network, 3, 0.5, seed=3, batch_size=64).certify(x, 20, 300)
    assert here.counts.tolist() == there.counts.tolist()
    assert here.counts.sum() == 300
    assert (here.predicted, here.radius) == (there.predicted, there.radius)


def test_no_image_gets_no_prediction(network):
    assert SmoothedClassifier(network, 3, 0.5).predict(torch.empty(0, 3, 2, 2)).shape == (0,)


@pytest.mark.filterwarnings("ignore:The classifier changes attributes")
def test_smooth_takes_no_more_rows_at_a_time_than_it_is_told(x):
    sizes = []

    def classifier(batch):
        sizes.append(len(batch))
        return batch.flatten(1)[:, :3]

    few = Smooth(classifier, 3, 0.5).certify(x, 10, 500, 0.05, batch_size=40)
    assert max(sizes) == 40
    sizes.clear()
    assert Smooth(classifier, 3, 0.5).certify(x, 10, 500, 0.05, batch_size=10**6) == few
    assert max(sizes) <= 1024


def test_counts_depend_on_the_seed_and_the_image_and_not_on_torch(network, x):
    def counts(seed=0, image=None):
        torch.manual_seed(np.random.default_rng().integers(2**31))
        smoothed = SmoothedClassifier(network, 3, 2.0, seed=seed)
        return smoothed.certify(x, 10, 5000, image_id=image).counts.tolist()

    assert counts() == counts()
    assert counts(seed=1) != counts(seed=2)
    assert counts(image=1) != counts(image=2)


def test_the_global_generator_is_left_alone(network, x):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    SmoothedClassifier(network, 3, 0.5).certify(x, 10, 100)
    assert torch.rand(1) == expected


def test_selection_and_estimation_use_different_noise(x):
    """A classifier that votes by the noise itself: the two samples must not repeat each other."""
    batches = []

    class Recorder(nn.Module):
        def forward(self, batch):
            batches.append(batch.clone())
            return batch.flatten(1)[:, :2]

    SmoothedClassifier(Recorder(), 2, 1.0).certify(x, 50, 50)
    selection, estimation = (batch.flatten(1) for batch in batches[-2:])
    assert not (selection[:, None] == estimation[None]).all(-1).any()


def test_a_certificate_can_be_recomputed_from_what_it_reports(network, x):
    found = SmoothedClassifier(network, 3, 0.5, seed=7).certify(x, 20, 500, 0.01)
    again = certify_counts(
        found.counts,
        found.top,
        sigma=found.sigma,
        alpha=found.alpha,
        method=found.method,
        invalid=found.invalid,
    )
    assert (found.predicted, found.radius) == (again.predicted, again.radius)
    assert (found.n0, found.n, found.seed) == (20, 500, 7)


def test_every_mode_is_restored_even_after_an_exception(x):
    frozen = nn.BatchNorm1d(12).eval()
    network = nn.Sequential(nn.Flatten(), frozen, nn.Dropout(0.5), nn.Linear(12, 3)).train()
    frozen.eval()
    modes = [module.training for module in network.modules()]
    before = frozen.running_mean.clone()
    SmoothedClassifier(network, 3, 0.5).certify(x, 10, 100)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(frozen.running_mean, before)
    with pytest.raises(RuntimeError):
        SmoothedClassifier(network, 3, 0.5).certify(torch.rand(5), 10, 100)
    assert [module.training for module in network.modules()] == modes


def test_no_autograd_graph_is_built(x):
    class Watcher(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(12, 3))

        def forward(self, batch):
            assert not torch.is_grad_enabled()
            return batch.flatten(1) @ self.weight

    SmoothedClassifier(Watcher(), 3, 0.5).certify(x, 10, 100)


def test_an_all_nan_network_certifies_nothing(x):
    found = SmoothedClassifier(lambda batch: torch.full((len(batch), 3), torch.nan), 3, 0.5)
    certificate = found.certify(x, 10, 100)
    assert (certificate.predicted, certificate.radius, certificate.invalid) == (ABSTAIN, 0.0, 100)
    assert certificate.counts.tolist() == [0, 0, 0]
    assert found.predict(x[None]).tolist() == [ABSTAIN]


def test_equal_logits_vote_for_the_lowest_class(x):
    smoothed = SmoothedClassifier(lambda batch: torch.ones(len(batch), 3), 3, 0.5)
    with pytest.warns(UserWarning, match="all equal: a dead network"):
        found = smoothed.certify(x, 10, 100)
    assert found.counts.tolist() == [100, 0, 0]


def test_predict_is_the_two_sided_binomial_test_on_the_two_largest_counts():
    counts = np.array([[60, 40, 0], [70, 30, 0], [50, 50, 0], [0, 0, 0], [1, 0, 0]])
    for alpha in (0.5, 0.05, 0.001):
        for row, answer in zip(counts, predict_counts(counts, alpha), strict=True):
            second, first = np.sort(row)[-2:]
            total = first + second
            rejects = total > 0 and binomtest(first, total, 0.5).pvalue <= alpha
            assert answer == (row.argmax() if rejects else ABSTAIN)


def test_predict_answers_a_batch(network, x):
    batch = torch.stack([x, 1 - x, x])
    answer = SmoothedClassifier(network, 3, 0.1).predict(batch, 500)
    assert answer.shape == (3,)
    assert answer[0] == answer[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: SmoothedClassifier(f, 1, 0.5), "`num_classes` must be at least 2, got 1."),
        (lambda f, x: SmoothedClassifier(f, 3, 0.0), "`sigma` must be positive"),
        (lambda f, x: Smooth(f, 3, float("inf")), "`sigma` must be positive"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0, seed=-1), "`seed` must be at least 0"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0, batch_size=0), "`batch_size` must be"),
        (lambda f, x: Smooth(f, 3, 1.0).certify(x, 1, 1, 0.1, 0), "`batch_size` must be"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0).certify(x, 0), "`n0` must be at least 1"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0).certify(x, 10, 1.5), "`n` must be a whole"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0).certify(x, 10, True), "`n` must be a whole"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0).certify(x, 9, 9, 1.5), r"in \(0, 1\), got 1.5"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0).certify(x[None], 9, 9), "one image"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0).certify(x[0, 0, 0], 9, 9), "one image"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0).certify(x / 0, 9, 9), "`x` must be finite"),
        (lambda f, x: SmoothedClassifier(f, 3, 1.0).certify(x.byte(), 9, 9), "got torch.uint8"),
        (
            lambda f, x: SmoothedClassifier(f, 4, 1.0).certify(x, 9, 9),
            r"\(\d+, 4\), got \(\d+, 3\)",
        ),
        (
            lambda f, x: SmoothedClassifier(lambda b: {"logits": f(b)}, 3, 1.0).certify(x, 9, 9),
            "got dict",
        ),
        (
            lambda f, x: SmoothedClassifier(lambda b: f(b).long(), 3, 1.0).certify(x, 9, 9),
            "float logits",
        ),
    ],
)
def test_bad_arguments_get_one_sentence(network, x, call, message):
    with pytest.raises(ValueError, match=message):
        call(network, x)


def test_what_cannot_classify_is_refused(x):
    with pytest.raises(TypeError, match="`base_classifier` must be"):
        SmoothedClassifier("resnet", 3, 1.0)
    with pytest.raises(TypeError, match="`x` must be a torch tensor"):
        SmoothedClassifier(nn.Flatten(), 12, 1.0).certify(np.ones((3, 2, 2)), 9, 9)


def dice(batch):
    return batch.flatten(1)[:, :3] + torch.rand(len(batch), 3)


def batch_statistics(batch):
    return batch.flatten(1)[:, :3] - batch.flatten(1)[:, :3].mean(0)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch):
        self.calls += 1
        return batch.flatten(1)[:, :3]


@pytest.mark.filterwarnings("ignore:The classifier draws from a global")
@pytest.mark.parametrize(
    ("classifier", "code"),
    [(dice, "random"), (batch_statistics, "rows"), (Counting(), "state")],
)
def test_what_would_make_certificates_void_is_refused_unless_it_is_allowed(x, classifier, code):
    for smooth in (Smooth, SmoothedClassifier):
        refusing = smooth(classifier, 3, 0.5)
        for call in (refusing.certify, refusing.predict):
            images = x[None] if call == refusing.predict and smooth is SmoothedClassifier else x
            arguments = {"certify": (10, 100, 0.05), "predict": (100, 0.05)}[call.__name__]
            batch_size = (64,) if smooth is Smooth else ()
            with pytest.raises(VoidCertificateError, match=rf'allow=\["{code}"\]'):
                call(images, *arguments, *batch_size)
    allowing = SmoothedClassifier(classifier, 3, 0.5, allow=["random", "rows", "state"])
    with pytest.warns(UserWarning, match="classifier|batch"):
        assert allowing.certify(x, 10, 100).counts.sum() == 100


def test_images_outside_the_range_are_refused_each_time_unless_that_is_allowed(network, x):
    smoothed = SmoothedClassifier(network, 3, 0.5)
    smoothed.certify(x, 10, 100)
    with pytest.raises(VoidCertificateError, match=r"outside \[0, 1\]: .*allow=\[.range.\]"):
        smoothed.certify(x * 2, 10, 100)
    with pytest.raises(VoidCertificateError, match="outside"):
        smoothed.predict(torch.stack([x, x - 1]))
    with pytest.warns(UserWarning, match="outside"):
        Smooth(network, 3, 0.5, allow=["range"]).certify(x * 2, 10, 100, 0.05, 64)
    with pytest.raises(ValueError, match=r"`allow` must hold codes of random, .*got 'dice'"):
        Smooth(network, 3, 0.5, allow=["dice"])


def test_the_method_is_a_keyword_of_smooth(network, x):
    for method in ("certify", "t-certify", "joint"):
        answer = Smooth(network, 3, 0.25, method=method).certify(x, 10, 1000, 0.001, 64)
        found = SmoothedClassifier(network, 3, 0.25).certify(x, 10, 1000, 0.001, method)
        assert answer == (found.predicted, found.radius)
    with pytest.raises(ValueError, match=r"`method` must be one of .*, got 'cohen'"):
        Smooth(network, 3, 0.25, method="cohen")


def test_buffers_and_batch_size_stay_from_one_image_to_the_next_and_go_with_the_object(network, x):
    smooth = Smooth(network, 3, 0.25)
    smooth.certify(x, 10, 100, 0.05, 64)
    (sampler,) = smooth._smoothed._samplers.values()
    kept = sampler._batch
    smooth.certify(1 - x, 10, 100, 0.05, 64)
    smooth.predict(1 - x, 100, 0.05, 64)
    assert sampler._batch is kept
    buffer = weakref.ref(kept._noisy)
    gc.disable()
    try:
        del kept, smooth, sampler
        assert buffer() is None
    finally:
        gc.enable()


def test_several_threads_that_share_one_get_the_answers_of_one(network):
    images = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    together = threading.Barrier(2)

    class Meeting(nn.Module):
        """Lets the other thread come as far as it can, in the middle of a batch."""

        def forward(self, batch):
            with suppress(threading.BrokenBarrierError):
                together.wait(0.02)
            together.reset()
            return network(batch)

    expected = [
        SmoothedClassifier(network, 3, 0.5).certify(image, 10, 90).counts.tolist()
        for image in images
    ]
    shared = SmoothedClassifier(Meeting(), 3, 0.5, batch_size=32)
    network.eval()
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda image: shared.certify(image, 10, 90).counts.tolist(), images)
        assert [*found] == expected


GREY = torch.arange(12).reshape(3, 2, 2) / 255


def test_an_image_of_whole_grey_levels_gets_integer_noise_and_the_certificate_says_so(network, x):
    smoothed = SmoothedClassifier(network, 3, 0.5)
    grey, floats = smoothed.certify(GREY, 10, 300), smoothed.certify(x, 10, 300)
    assert (grey.noise, grey.levels, grey.n_tau) == ("integer", 255, None)
    assert (floats.noise, floats.levels, floats.squared_levels) == ("gaussian", None, None)
    assert 0 < floats.n_tau < 1e-4
    for found in (grey, floats):
        asked = SmoothedClassifier(network, 3, 0.5, noise=found.noise)
        again = asked.certify(GREY if found is grey else x, 10, 300)
        assert again.counts.tolist() == found.counts.tolist()


def test_a_certificate_in_integers_is_that_of_its_radius(network):
    sure = SmoothedClassifier(lambda b: b.flatten(1)[:, :3] * 0 + torch.eye(3)[1], 3, 0.25)
    found = sure.certify(GREY, 10, 1000)
    assert found.squared_levels == math.ceil((255 * Fraction(found.radius)) ** 2) - 1
    torn = SmoothedClassifier(network, 3, 5.0).certify(GREY, 10, 50)
    assert (torn.predicted, torn.noise, torn.squared_levels) == (-1, "integer", None)


def test_predictions_of_a_batch_take_the_noise_of_each_image(network, x):
    smoothed = SmoothedClassifier(network, 3, 0.1)
    together = smoothed.predict(torch.stack([x, GREY, 1 - x, 1 - GREY]), 200)
    alone = [int(smoothed.predict(image[None], 200)[0]) for image in (x, GREY, 1 - x, 1 - GREY)]
    assert together.tolist() == alone
    assert Smooth(network, 3, 0.1).predict(GREY, 200, 0.001, 64) == alone[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "none"}, "`noise` must be one of auto, integer, gaussian, got 'none'"),
        ({"noise": "integer", "levels": 0}, "`levels` must be a whole number"),
        ({"noise": "gaussian", "levels": 255}, "`levels` are those of integer noise"),
        ({"noise": "integer", "levels": 1}, "`sigma` must be at least 0.3 grey levels"),
    ],
)
def test_noise_that_makes_no_sense_is_refused_at_once(network, options, message):
    for kind in (Smooth, SmoothedClassifier):
        with pytest.raises(ValueError, match=message):
            kind(network, 3, 0.25, **options)


def test_integer_noise_that_was_asked_for_refuses_an_image_off_the_grid(network, x):
    smooth = Smooth(network, 3, 0.5, noise="integer", levels=16)
    with pytest.raises(ValueError, match=r"`x` must be on the grid k / 16: pixel \(0, 0, 0\) is"):
        smooth.certify(x, 10, 100, 0.05, 64)
    with pytest.raises(ValueError, match=r"`x` must be on the grid k / 16"):
        smooth.predict(x, 100, 0.05, 64)


def test_gaussian_noise_that_may_cost_a_hundredth_of_alpha_is_a_warning(network, x, monkeypatch):
    monkeypatch.setattr("tcertify.sampling.noise.MOST_OWED", 1e-7)
    with pytest.warns(UserWarning, match="The Gaussian noise as drawn is not exactly Gaussian"):
        SmoothedClassifier(network, 3, 0.5).certify(x, 10, 100)


def test_a_plain_function_says_where_it_runs(x):
    with pytest.raises(ValueError, match=r"on cpu, got them on meta: `device` says where"):
        SmoothedClassifier(lambda b: b.flatten(1)[:, :3].to("meta"), 3, 0.5).certify(x, 10, 100)
    with pytest.raises(ValueError, match=r"`device` 'nowhere' cannot be used"):
        SmoothedClassifier(lambda b: b, 3, 0.5, device="nowhere")


@pytest.mark.filterwarnings("ignore:The classifier changes attributes")
def test_smooth_takes_a_batch_of_one_and_an_image_without_channels(network, x):
    smooth = Smooth(network, 3, 0.25)
    assert smooth.certify(x[None], 10, 100, 0.05, 64) == smooth.certify(x, 10, 100, 0.05, 64)
    assert smooth.predict(x[None], 100, 0.05, 64) == smooth.predict(x, 100, 0.05, 64)
    grey = torch.rand(3, 4, generator=torch.Generator().manual_seed(2))
    network.eval()

    def classifier(batch):
        assert batch.shape[1:] == (1, 3, 4)
        return network(batch.reshape(len(batch), 3, 2, 2))

    assert Smooth(classifier, 3, 0.25).predict(grey, 100, 0.05, 64) in (-1, 0, 1, 2)
    assert Smooth(classifier, 3, 0.25).certify(grey, 10, 100, 0.05, 64)[0] in (-1, 0, 1, 2)
    with pytest.raises(ValueError, match="must be one image"):
        smooth.certify(torch.stack([x, x]), 10, 100, 0.05, 64)


@pytest.mark.parametrize("name", ["mode", "ord"])
def test_what_other_forks_add_to_certify_is_refused_by_name(network, x, name):
    with pytest.raises(TypeError, match=f"'{name}'"):
        Smooth(network, 3, 0.25).certify(x, 10, 100, 0.05, 64, **{name: "both"})


def test_subclasses_draw_fresh_votes_and_bound_them(network, x):
    class Own(Smooth):
        def certify(self, x, n0, n, alpha, batch_size):
            first = self._sample_noise(x, n0, batch_size)
            votes = self._sample_noise(x, n, batch_size)
            return votes, self._lower_confidence_bound(first.max(), n0, alpha)

    own = Own(network, 3, 5.0)
    votes, bound = own.certify(x, 50, 2000, 0.05, 64)
    again, _ = own.certify(x, 50, 2000, 0.05, 64)
    assert votes.shape == (3,)
    assert votes.sum() == again.sum() == 2000
    assert votes.tolist() != again.tolist()
    assert votes.tolist() == Own(network, 3, 5.0).certify(x, 50, 2000, 0.05, 64)[0].tolist()
    assert 0 < bound < 1


@pytest.mark.parametrize(
    ("helper", "method"),
    [("_sample_noise", "certify"), ("_lower_confidence_bound", "certify")],
)
def test_a_helper_that_certify_would_not_call_cannot_be_replaced_alone(helper, method):
    with pytest.raises(
        TypeError, match=f"replaces `{helper}`, which `{method}` of Smooth does not"
    ):
        type("Own", (Smooth,), {helper: lambda self, *arguments: None})
    with pytest.raises(TypeError, match="which `predict` of Smooth"):
        type("Own", (Smooth,), dict.fromkeys(["_sample_noise", "certify"]))


def test_a_charged_certificate_is_that_of_its_level(network, x):
    plain, charged = (
        SmoothedClassifier(network, 3, 0.5, charge_noise=charge).certify(x, 10, 300)
        for charge in (False, True)
    )
    assert plain.charged_alpha == plain.alpha == charged.alpha == 0.001
    assert charged.charged_alpha == charged_alpha(0.001, 300, x.numel())
    assert charged.charged_alpha * math.exp(charged.n_tau) == pytest.approx(0.001, rel=1e-12)
    again = certify_counts(charged.counts, charged.top, sigma=0.5, alpha=charged.charged_alpha)
    assert charged.counts.tolist() == plain.counts.tolist()
    assert charged.radius == float(again.radius) < plain.radius


def test_predictions_are_charged_by_the_noise_of_each_image(network, x, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "tcertify.smooth.predict_counts",
        lambda votes, level: seen.append(level) or [0] * len(votes),
    )
    SmoothedClassifier(network, 3, 0.5, charge_noise=True).predict(torch.stack([x, GREY, x]), 100)
    assert seen == [charged_alpha(0.001, 100, 12), 0.001]


def test_integer_noise_is_not_charged_and_cannot_be(network):
    found = SmoothedClassifier(network, 3, 0.5, charge_noise=True).certify(GREY, 10, 300)
    assert (found.noise, found.charged_alpha) == ("integer", 0.001)
    with pytest.raises(ValueError, match="`charge_noise` is for Gaussian noise"):
        SmoothedClassifier(network, 3, 0.5, charge_noise=True, noise="integer")
    smooth = Smooth(network, 3, 0.5, noise="gaussian", charge_noise=True)
    with pytest.raises(ValueError, match="cannot pay"):
        smooth.certify(GREY, 10, 1000, 1e-17, 100)
