"""The page of a run says what the rows say, and nothing in it comes from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.report.page import render, verdict, write_page
from robopolicy.real_robot.report.series import of_rows, series_of, spans, windowed_speed


@pytest.fixture(scope="module")
def series(logged):
    return replace(series_of(logged), latency=np.array([0.1, 0.12, 0.11, 0.3]))


def test_states_and_flags_are_spans_of_time(series):
    names = [s for s, _, _ in series.state_spans()]
    assert names == [State.LINKED, State.READY, State.ARMED, State.RUNNING, State.HOLD, State.RUNNING]
    hold = next((a, b) for s, a, b in series.state_spans() if s is State.HOLD)
    assert hold == pytest.approx((4.0, 4.5), abs=0.021)
    (ramp, *_) = series.flag_spans()["slow start"]
    assert ramp[0] == pytest.approx(0.3, abs=0.02)
    assert ramp[1] == pytest.approx(1.3, abs=0.05)
    assert "lead cap" not in series.flag_spans()


def test_motion_limits_and_lag_come_out_of_the_rows(series):
    assert np.nanmax(series.speed) <= series.limits.speed + 1e-9
    moved = np.linalg.norm(series.emitted.position[330] - series.emitted.position[300])
    assert series.lead[330] == pytest.approx(moved, rel=0.05)  # the arm is 0.3 s behind
    assert np.nanmax(series.lead) < series.limits.lead
    assert np.ptp(series.emitted.position[np.isfinite(series.emitted.position[:, 0]), 0]) > 0.04
    running = series.state == list(State).index(State.RUNNING)
    assert np.isfinite(series.plan.position[running]).all()
    assert np.isnan(series.plan.position[~running & (series.time < 0.3)]).all()
    # Measured speed is the emitted one 0.3 s later.
    assert series.measured_speed[330] == pytest.approx(series.speed[300], abs=4e-3)
    assert not series.published[:10].any()


def test_the_page_is_self_contained_and_escapes_what_it_is_given(series, tmp_path):
    page = write_page(series, tmp_path / "run.html").read_text()
    assert "sine &lt;b&gt;" in page
    assert "<b>" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "http" not in re.sub(r'http-equiv="', "", page)
    for title in ("Tool x", "Tool z", "Speed of the tool", "External force", "Flags", "Age of the operator"):
        assert f"<h3>{title}</h3>" in page
    assert "Latency of the policy" in page
    assert "paused by the operator" in page
    assert "Rotation about" not in page  # nothing turned
    assert len(page) < 600_000
    assert "nan" not in re.sub(r"<[^>]*>", "", page)
    assert not re.search(r"points=\"[^\"]*nan", page)


def test_the_verdict_counts_holds_and_says_how_it_ended(series):
    assert verdict(series) == "5.2 s in motion of 6.0 s; 1 holds, 0 faults or stops; ended in running"


def test_an_empty_log_makes_a_page_that_says_so(logged):
    empty = of_rows(logged.rows[:0], "nothing")
    assert verdict(empty) == "no tick was recorded"
    assert "no tick was recorded" in render(empty)


def test_before_the_first_state_there_is_nothing_and_turns_count_from_that_state(logged):
    rows = logged.rows.copy()
    early = rows[:20]
    early["measured_at"], early["measured_position"], early["measured_quaternion"] = -np.inf, 0.0, (0, 0, 0, 1)
    series = of_rows(rows, "late")
    assert np.isnan(series.measured.position[:20]).all()
    assert np.isnan(series.force[:20]).all()
    assert np.isfinite(series.measured.position[20:]).all()
    assert np.nanmax(np.abs(series.turn(series.measured))) < 1e-6
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", render(series).lower())


def test_a_span_ends_where_the_flag_falls():
    time = np.arange(6) * 0.1
    up = np.array([True, False, True, True, False, True])
    assert spans(up, time) == [(0.0, 0.1), (pytest.approx(0.2), 0.4), (0.5, 0.5)]


def test_windowed_speed_of_a_steady_motion():
    time = np.sort(np.random.default_rng(0).uniform(0, 2, 300))
    position = np.outer(time * 0.07, (0, 1, 0))
    assert windowed_speed(time, position)[20:-20] == pytest.approx(0.07, abs=1e-6)
