"""Charts keep what matters when they are thinned, and their scales are round."""

from __future__ import annotations

import re

import numpy as np
import pytest

from robopolicy.real_robot.report.charts import Band, Line, curves, histogram, rows, thinned, ticks


def test_a_spike_of_one_sample_survives_thinning():
    y = np.zeros(50_000)
    y[31_234] = 7.0
    x, kept = thinned(np.arange(50_000.0), y, 500)
    assert len(kept) <= 1002
    assert kept.max() == 7.0
    assert x[np.argmax(kept)] == 31_234
    assert (np.diff(x) > 0).all()


def test_curves_are_broken_where_there_is_nothing():
    y = np.array([0.0, 1, np.nan, np.nan, 2, 3])
    svg = curves([Line(np.arange(6.0), y, "a & b")], 5.0, "m", bands=[Band(1, 2, "hold")])
    assert svg.count("<polyline") == 2
    assert "nan" not in svg
    assert "a &amp; b" in svg
    assert 'class="band-hold"' in svg


def test_a_limit_is_drawn_where_it_is_near_and_left_out_where_it_is_far():
    line = Line(np.arange(3.0), np.array([0.0, 0.05, 0.1]), "speed")
    assert 'class="limit"' in curves([line], 2.0, "m/s", limits={"limit": 0.12}, zero=True)
    assert 'class="limit"' not in curves([line], 2.0, "m/s", limits={"limit": 5.0}, zero=True)


def test_noise_of_a_nanometre_is_a_flat_line():
    line = Line(np.arange(50.0), 0.3 + 1e-9 * np.arange(50), "z")
    heights = re.findall(r",(\d+\.\d)", curves([line], 49.0, "m", least=0.01).split("polyline", 1)[1])
    assert len(set(heights[:50])) == 1


@pytest.mark.parametrize(("low", "high"), [(0, 12), (0.41, 0.53), (-3e-3, 8e-3), (0, 1e-6)])
def test_ticks_are_round_and_within(low, high):
    found = ticks(low, high, 5)
    assert 3 <= len(found) <= 9
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    step = found[1] - found[0]
    assert step / 10 ** np.floor(np.log10(step) + 1e-6) == pytest.approx(
        round(step / 10 ** np.floor(np.log10(step) + 1e-6))
    )


def test_rows_and_histograms_count_what_they_are_given():
    svg = rows({"held <x>": [(0.0, 1.0), (2.0, 2.0)]}, 3.0)
    assert svg.count('class="flag"') == 2
    assert "held &lt;x&gt;" in svg
    bars = histogram(np.array([1.0, 1.0, 2.0, np.nan]), "ms", {"p95": 2.0})
    assert sum(int(n) for n in re.findall(r"<title>(\d+) from", bars)) == 3
    assert "p95 2" in bars
    assert histogram(np.zeros(0), "ms")
