"""Intervals against scipy's own, against simulation, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robopolicy.core.errors import ConfigError
from robopolicy.evaluation.intervals import bootstrap_mean, mcnemar_exact, mean_interval, paired_comparison, wilson


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95, 0.99])
)
def test_wilson_equals_scipy(counts, confidence):
    k, n = counts
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    ours = wilson(k, n, confidence)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.rate <= ours.high <= 1


def test_wilson_covers_the_truth():
    """Exact coverage at n = 50, averaged over rates: at least nominal minus one point."""
    rates = np.linspace(0.02, 0.98, 49)
    k = np.arange(51)
    inside = np.array([[wilson(int(x), 50).low <= p <= wilson(int(x), 50).high for x in k] for p in rates])
    mass = np.array([stats.binom.pmf(k, 50, p) for p in rates])
    assert (inside * mass).sum(1).mean() > 0.94


def test_a_rate_is_never_printed_bare():
    assert str(wilson(87, 100)) == "0.870 [0.790, 0.922] (87/100)"
    assert str(wilson(0, 0)) == "no scored episode"
    assert str(mean_interval([0.5, 1.0])).endswith("(n=2)")
    assert "no interval" in str(mean_interval([0.5]))
    assert math.isnan(wilson(0, 0).rate)


@pytest.mark.parametrize(("k", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)])
def test_impossible_counts_are_refused(k, n, confidence):
    with pytest.raises(ConfigError, match="got"):
        wilson(k, n, confidence)


def test_mean_interval_equals_scipy():
    x = np.random.default_rng(0).normal(size=17)
    theirs = stats.ttest_1samp(x, 0).confidence_interval(0.9)
    ours = mean_interval(x.tolist(), 0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(b, c):
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)


def test_difference_interval_covers_the_truth(monkeypatch):
    """Simulated pairs with a true difference of 0.2: coverage of the 95 % interval within 3 sigma of nominal."""
    monkeypatch.setattr("robopolicy.evaluation.intervals.RESAMPLES", 1)  # the reward's bootstrap is not meant here
    rng = np.random.default_rng(1)
    covered, runs = 0, 400
    for _ in range(runs):
        u = rng.random(60)
        a, b = u < 0.5, u + 0.3 * (rng.random(60) - 0.5) < 0.7
        truth = 0.2  # mean of b is 0.7: the added noise is symmetric and never leaves (0, 1) at the threshold
        p = paired_comparison(a.tolist(), b.tolist())
        covered += p.low <= truth <= p.high
    assert covered / runs > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_paired_comparison_separates_what_can_be_separated():
    a = [True] * 40 + [False] * 60
    b = [True] * 80 + [False] * 20
    far = paired_comparison(a, b)
    assert far.separated
    assert (far.only_a, far.only_b, far.difference) == (0, 40, 0.4)
    assert far.low > 0
    near = paired_comparison(a, [*a[:-3], True, True, True])
    assert not near.separated
    assert near.needed is not None
    # Six pairs that all point the same way are the least that McNemar's test accepts: 3 of 100 need 200 pairs.
    assert 180 <= near.needed <= 230
    same = paired_comparison(a, a)
    assert (same.p_value, same.needed, same.separated) == (1.0, None, False)
    assert same.low < 0 < same.high  # 100 agreeing pairs do not prove equality


def test_swapping_a_and_b_mirrors_everything():
    rng = np.random.default_rng(2)
    a, b = (rng.random(30) < 0.5).tolist(), (rng.random(30) < 0.8).tolist()
    p, q = paired_comparison(a, b), paired_comparison(b, a)
    assert (p.difference, p.low, p.high) == pytest.approx((-q.difference, -q.high, -q.low))
    assert p.p_value == pytest.approx(q.p_value)
    assert (p.only_a, p.a) == (q.only_b, q.b)


def test_paired_comparison_wants_pairs():
    with pytest.raises(ConfigError, match="got 1 and 2"):
        paired_comparison([True], [True, False])
    with pytest.raises(ConfigError, match="got 0 and 0"):
        paired_comparison([], [])


def test_bootstrap_agrees_with_student_on_normal_data():
    x = np.random.default_rng(3).normal(1.0, 2.0, 200).tolist()
    boot, t = bootstrap_mean(x), mean_interval(x)
    assert (boot.low, boot.high) == pytest.approx((t.low, t.high), abs=0.05)
    assert boot == bootstrap_mean(x)
