import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tcertify.bounds import clopper_pearson_lower_complement
from tcertify.certificates import certify_counts
from tcertify.logs.audit import audit_log, recertify_log, smallest_counts
from tcertify.logs.tsv import Log, read_log
from tests.logs.test_tsv import published_logs


def log_of(counts, *, n, alpha, sigma=0.5, shown=lambda radius: f"{radius:.4f}", step=1e-4):
    """A CERTIFY log of one image per count, its radii printed by `shown`."""
    certificates = certify_counts(
        np.stack([counts, n - counts], axis=1),
        np.zeros(len(counts), int),
        sigma=sigma,
        alpha=alpha,
        method="certify",
    )
    printed = np.array([float(shown(radius)) for radius in certificates.radius])
    rows = np.arange(len(counts))
    return Log(
        idx=rows,
        label=np.zeros_like(rows),
        predict=certificates.predicted,
        radius=printed,
        correct=certificates.predicted == 0,
        seconds=np.ones(len(rows)),
        radius_step=np.full(len(rows), step),
    )


def spread_counts(n, size, seed=0):
    """Votes like a good classifier's: many near n."""
    p = stats.norm.cdf(np.random.default_rng(seed).uniform(-0.5, 3.5, size))
    return np.random.default_rng(seed + 1).binomial(n, p)


@pytest.mark.parametrize(
    ("n", "alpha"), [(100_000, 0.001), (100_000, 0.01), (10_000, 0.001), (1000, 0.05)]
)
def test_the_lattice_names_the_n_and_alpha_of_a_log(n, alpha):
    audit = audit_log(log_of(spread_counts(n, 300), n=n, alpha=alpha), sigma=0.5)
    assert (audit.best.n, audit.best.alpha) == (n, alpha)
    assert audit.best.misfits == 0
    assert f"n = {n}, alpha = {alpha:g} (0 of" in audit.verdict


def test_a_wrong_stated_alpha_is_flagged_and_a_right_one_is_not():
    log = log_of(spread_counts(100_000, 300), n=100_000, alpha=0.01)
    wrong = audit_log(log, sigma=0.5, n=100_000, alpha=0.001)
    assert wrong.contradicted
    assert re.search(
        r"The stated n = 100000, alpha = 0.001 is wrong: \d+ of \d+ radii misfit it; the log was "
        r"made with n = 100000, alpha = 0.01 \(0 of \d+ radii misfit\)\.",
        wrong.verdict,
    )
    right = audit_log(log, sigma=0.5, n=100_000, alpha=0.01)
    assert not right.contradicted
    assert right.stated is right.best


def test_an_alpha_outside_the_usual_ones_is_a_candidate_once_stated():
    log = log_of(spread_counts(100_000, 200), n=100_000, alpha=0.0123)
    assert audit_log(log, sigma=0.5).best is None
    assert audit_log(log, sigma=0.5, n=100_000, alpha=0.0123).best.alpha == 0.0123


def test_a_two_sided_interval_at_alpha_shows_as_half_of_it():
    log = log_of(spread_counts(100_000, 300), n=100_000, alpha=0.0005)
    assert audit_log(log, sigma=0.5, n=100_000, alpha=0.001).best.alpha == 0.0005


def test_radii_of_another_method_or_sigma_fit_nothing():
    log = log_of(spread_counts(100_000, 300), n=100_000, alpha=0.001)
    audit = audit_log(log, sigma=0.25, n=100_000, alpha=0.001)
    assert audit.best is None
    assert not audit.contradicted
    assert audit.verdict.startswith("No candidate fits: another sigma")


def test_an_honest_log_of_a_run_that_stopped_early_is_not_called_wrong():
    rng, sizes = np.random.default_rng(0), np.array([1036, 5310, 27_200, 100_000])
    n = rng.choice(sizes, 300)
    counts = rng.binomial(n, stats.norm.cdf(rng.uniform(0.3, 2.5, 300)))
    radius = [
        certify_counts([k, m - k], 0, sigma=0.5, alpha=1e-4 * m / 1e5, method="certify").radius
        for k, m in zip(counts, n, strict=True)
    ]
    log = log_of(np.full(300, 90_000), n=100_000, alpha=0.001)
    log = Log(**(vars(log) | {"radius": np.round(np.array(radius), 4)}))
    audit = audit_log(log, sigma=0.5, n=100_000, alpha=0.001)
    assert not audit.contradicted
    assert "samples that stopped early" in audit.verdict
    assert "cannot be told" in audit.verdict


@pytest.mark.parametrize(
    "method",
    ["joint", "t-certify", "certify-early", "certify-charged", "certify-reserved", "predict"],
)
def test_a_log_that_names_another_method_is_not_audited(method):
    log = log_of(spread_counts(1000, 50), n=1000, alpha=0.001)
    log = Log(**(vars(log) | {"methods": (method,)}))
    audit = audit_log(log, sigma=0.5, n=1000, alpha=0.001)
    assert (audit.fits, audit.best, audit.contradicted) == ((), None, False)
    assert f"made by {method}, not by plain CERTIFY" in audit.verdict
    with pytest.raises(ValueError, match=f"made by {method}, not by plain CERTIFY"):
        recertify_log(log, sigma=0.5, n=1000, alpha=0.001, new_alpha=0.01)


def test_a_foreign_log_may_call_its_method_what_it_likes():
    log = log_of(spread_counts(100_000, 300), n=100_000, alpha=0.001)
    log = Log(**(vars(log) | {"methods": ("certify", "gaussian")}))
    assert audit_log(log, sigma=0.5).best is not None


def test_too_few_rows_are_not_taken_for_radii_that_fit_nothing():
    audit = audit_log(log_of(np.array([99_000, 99_900]), n=100_000, alpha=0.001), sigma=0.5)
    assert audit.best is None
    assert re.match(r"\d+ of 63 candidates have no misfit, but too few radii", audit.verdict)
    assert "stated" not in audit.verdict


@pytest.mark.parametrize("radius", [1e308, 1e12, 20.0])
def test_a_radius_that_no_votes_certify_is_refused(radius):
    log = log_of(np.array([990, 995]), n=1000, alpha=0.001)
    log.radius[1] = radius
    with pytest.raises(ValueError, match=r"\(index 1\) is more than 38\.6 times `sigma` = 0\.5"):
        audit_log(log, sigma=0.5)
    with pytest.raises(ValueError, match=r"\(index 1\) is more than"):
        recertify_log(log, sigma=0.5, n=1000, alpha=0.001, new_alpha=0.01)


@pytest.mark.parametrize("sigma", [5e-324, 1e-300, 1e300])
def test_a_sigma_whose_radii_are_no_normal_floats_is_refused(sigma):
    log = log_of(np.array([990]), n=1000, alpha=0.001)
    with pytest.raises(ValueError, match=r"`sigma` must be in \[1e-250, 1e\+250\], got"):
        audit_log(log, sigma=sigma)


def test_a_print_too_coarse_to_tell_is_said_so():
    counts = np.arange(60_000, 70_000, 500)
    log = log_of(counts, n=100_000, alpha=0.001, shown=lambda r: f"{r:.2f}", step=1e-2)
    audit = audit_log(log, sigma=0.5, n_candidates=[100_000], alpha_candidates=[0.001, 0.01])
    assert audit.best is None
    assert not audit.contradicted
    assert audit.verdict == "The radii are printed too coarsely to tell n or alpha."


def test_expected_misfits_foretell_the_misfits_of_wrong_candidates():
    log = log_of(spread_counts(100_000, 2000), n=100_000, alpha=0.001)
    fits = audit_log(log, sigma=0.5, n_candidates=[10_000, 100_000]).fits
    wrong = [fit for fit in fits if (fit.n, fit.alpha) != (100_000, 0.001)]
    assert len(wrong) > 10
    for fit in wrong:
        assert fit.misfits == pytest.approx(fit.expected_misfits, rel=0.15)


def test_a_few_foreign_rows_do_not_hide_the_lattice():
    log = log_of(spread_counts(100_000, 300), n=100_000, alpha=0.001)
    log.radius[np.argsort(log.radius)[-60:-50]] += 3e-4
    audit = audit_log(log, sigma=0.5)
    assert (audit.best.n, audit.best.alpha) == (100_000, 0.001)
    assert 1 <= audit.best.misfits <= 10


@pytest.mark.parametrize(
    ("shown", "step"), [("{:.4f}", 1e-4), ("{:.2f}", 1e-2), ("{:.12f}", 1e-12)]
)
def test_the_smallest_count_is_at_most_the_true_one_and_prints_as_the_log_does(shown, step):
    n, alpha = 10_000, 0.001
    counts = np.concatenate([spread_counts(n, 300), [n, n - 1, 5200, 4000, 0]])
    log = log_of(counts, n=n, alpha=alpha, shown=shown.format, step=step)
    found = smallest_counts(log, sigma=0.5, n=n, alpha=alpha)
    certified = log.predict >= 0
    assert (found <= counts).all()
    assert (found[~certified] == 0).all()
    again = -0.5 * stats.norm.ppf(clopper_pearson_lower_complement(found[certified], n, alpha))
    assert np.abs(again - log.radius[certified]).max() <= step / 2 + 1e-9
    one_less = -0.5 * stats.norm.ppf(
        clopper_pearson_lower_complement(found[certified] - 1, n, alpha)
    )
    assert (one_less < log.radius[certified] - step / 2).all()


@pytest.mark.parametrize("new_alpha", [0.0001, 0.001, 0.05])
def test_recertified_radii_are_never_above_those_of_the_true_counts(new_alpha):
    n, counts = 100_000, spread_counts(100_000, 300)
    log = log_of(counts, n=n, alpha=0.001)
    found = recertify_log(log, sigma=0.5, n=n, alpha=0.001, new_alpha=new_alpha)
    truth = certify_counts(
        np.stack([counts, n - counts], axis=1),
        np.zeros(300, int),
        sigma=0.5,
        alpha=new_alpha,
        method="certify",
    ).radius
    certified = log.predict >= 0
    assert (found <= truth).all()
    assert (truth - found)[certified].max() < 2e-4
    assert (found[~certified] == 0).all()


def test_recertifying_a_radius_that_is_on_no_lattice_point_takes_the_one_below():
    log = log_of(np.array([990]), n=1000, alpha=0.001)
    between = log.radius + 0.01
    moved = Log(**(vars(log) | {"radius": between}))
    assert smallest_counts(moved, sigma=0.5, n=1000, alpha=0.001).tolist() == [990]
    beyond = Log(**(vars(log) | {"radius": log.radius + 5}))
    assert smallest_counts(beyond, sigma=0.5, n=1000, alpha=0.001).tolist() == [1000]


def test_misuse_is_named():
    log = log_of(np.array([10]), n=1000, alpha=0.001)
    with pytest.raises(ValueError, match="Nothing to audit: no row of the log has a radius above"):
        audit_log(log, sigma=0.5)
    log = log_of(np.array([990]), n=1000, alpha=0.001)
    for change, message in (
        ({"sigma": -1}, "`sigma` must be positive and finite, got -1.0."),
        ({"n": 0}, "`n` must be at least 1, got 0."),
        ({"alpha": 1.5}, "`alpha` must be in (0, 1), got 1.5."),
        ({"n_candidates": [1.5]}, "`n_candidates` must be a whole number, got 1.5."),
        ({"alpha_candidates": [2]}, "`alpha_candidates` must be in (0, 1), got 2.0."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            audit_log(log, **({"sigma": 0.5} | change))


@pytest.mark.skipif(not published_logs(), reason="the published logs are not beside the checkout")
def test_published_logs_were_made_with_what_they_state():
    for path in published_logs():
        sigma = float(path.stem.rpartition("_")[2])
        audit = audit_log(read_log(path), sigma=sigma, n=100_000, alpha=0.001)
        assert audit.best is audit.stated
        assert audit.best.misfits == 0
        runner_up = audit.fits[1]
        assert audit.best.evidence - runner_up.evidence > 10
        assert not audit.contradicted


def test_a_log_of_top_k_certificates_is_not_audited_as_certify():
    log = replace(log_of(np.array([990]), n=1000, alpha=0.001), methods=("top-3",))
    with pytest.raises(ValueError, match="made by top-3, not by plain CERTIFY"):
        smallest_counts(log, sigma=0.5, n=1000, alpha=0.001)
