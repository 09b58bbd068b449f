"""Chunks in, one dated target a tick out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robopolicy.core.errors import InvalidChunk
from robopolicy.real_robot.control.plan import Plan, Waypoints
from robopolicy.real_robot.frames import Pose, downward, turned
from robopolicy.real_robot.limits import SafetyLimits

DOWN = downward(0.0)
START = Pose(np.array((0.45, 0.0, 0.3)), DOWN)
LIMITS = SafetyLimits()


def chunk(xs, first, dt=0.1, epoch=0, gripper=None):
    """Actions at ``x`` positions, due from ``first`` on."""
    xs = np.asarray(xs, float)
    positions = np.stack((xs, np.zeros_like(xs), np.full_like(xs, 0.3)), axis=-1)
    stamps = first + dt * np.arange(len(xs))
    return Waypoints(Pose(positions, np.tile(DOWN, (len(xs), 1))), stamps, dt, epoch, gripper)


def plan(latency=0.0, now=0.0):
    p = Plan(LIMITS, latency=latency, gripper_latency=0.0)
    p.start(START, now, 0)
    return p


def test_the_plan_passes_each_action_a_latency_before_it_is_due():
    p = plan(latency=0.2)
    merge = p.merge(chunk([0.455, 0.460, 0.465], 0.3), 0.0)
    assert merge.taken == 3
    for t, x in ((0.1, 0.455), (0.15, 0.4575), (0.2, 0.460), (0.3, 0.465)):
        assert p.at(t).position[0] == pytest.approx(x)
    s = p.at(0.15)
    assert s.rate[0] == pytest.approx(0.05)
    assert s.left == pytest.approx(0.0075)
    assert s.action.position[0] == pytest.approx(0.460)


def test_late_actions_are_dropped_not_run_late():
    p = plan()
    merge = p.merge(chunk([0.455, 0.460, 0.465], -0.05), 0.05)
    assert (merge.late, merge.taken) == (2, 1)
    # 10 ms of slack: an action due in 9 ms is late already
    p = plan()
    assert p.merge(chunk([0.455, 0.46], 0.009), 0.0).late == 1


def test_F21_a_chunk_that_is_late_altogether_changes_nothing():
    p = plan()
    p.merge(chunk([0.455, 0.460, 0.465], 0.1), 0.0)
    before = p.at(0.25)
    merge = p.merge(chunk([0.2, 0.2], 0.0), 0.25)
    assert merge.over_budget
    assert p.over_budget == 1
    assert np.array_equal(p.at(0.25).position, before.position)
    assert p.end == pytest.approx(0.3)


def test_a_plan_that_has_ended_stays_at_its_end():
    p = plan()
    p.merge(chunk([0.455, 0.460], 0.1), 0.0)
    s = p.at(5.0)
    assert s.position[0] == 0.460
    assert (s.left, s.turn_left) == (0.0, 0.0)
    assert not s.rate.any()
    assert p.remaining(5.0) == 0


def test_a_new_chunk_goes_on_from_where_the_plan_is():
    p = plan()
    p.merge(chunk([0.455, 0.460, 0.465], 0.1), 0.0)
    at = p.at(0.15).position[0]
    p.merge(chunk([0.465, 0.475], 0.25), 0.15)
    assert p.at(0.15).position[0] == pytest.approx(at)
    assert p.at(0.25).position[0] == pytest.approx(0.465)


def test_F12_a_chunk_is_cut_at_its_jump():
    p = plan()
    merge = p.merge(chunk([0.46, 0.465, 0.55, 0.56], 0.2), 0.0)
    assert (merge.taken, merge.jump) == (2, 2)
    assert p.at(9.0).position[0] == 0.465
    # a jump at the very start takes nothing, and the tool stays where it is
    p = plan()
    assert p.merge(chunk([0.7, 0.7], 0.1), 0.0).taken == 0
    assert p.at(1.0).position[0] == pytest.approx(0.45)


def test_a_turn_too_far_is_a_jump_and_a_sign_is_none():
    p = plan()
    c = chunk([0.45, 0.45], 0.1)
    far = turned(DOWN, np.array((0, 0, 0.16)))
    assert p.merge(Waypoints(Pose(c.track.position, np.stack((DOWN, far))), c.stamps, 0.1, 0), 0.0).jump == 1
    near = -turned(DOWN, np.array((0, 0, 0.01)))
    assert p.merge(Waypoints(Pose(c.track.position, np.stack((-DOWN, near))), c.stamps, 0.1, 0), 0.0).jump is None
    for t in np.linspace(0, 0.3, 30):
        assert abs(p.at(float(t)).quaternion @ DOWN) > 0.99


def test_a_segment_too_fast_is_stretched_and_the_rest_shifts():
    p = plan()
    # 15 mm a step at 0.1 s is 0.15 m/s; at 0.0995 m/s each takes 0.151 s.
    merge = p.merge(chunk([0.465, 0.480, 0.495, 0.510, 0.525, 0.540], 0.1), 0.0)
    assert p.at(0.1508).position[0] == pytest.approx(0.465, abs=1e-4)
    rates = [abs(p.at(t).rate[0]) for t in np.arange(0.005, p.end, 0.01)]
    assert max(rates) <= 0.1
    # shifts of 0.05, 0.10, 0.15 and 0.20 s: the fifth is more than two periods late
    assert merge.taken == 3
    assert merge.slow == 3


@pytest.mark.parametrize("where", ["position", "quaternion", "stamps", "gripper", "norm", "order", "length"])
def test_F09_a_broken_chunk_is_refused_whole_and_the_plan_stays(where):
    c = chunk([0.455, 0.460, 0.465], 0.1, gripper=np.full(3, 0.04))
    parts = {"position": c.track.position.copy(), "quaternion": c.track.quaternion.copy()}
    stamps, grip = c.stamps.copy(), c.gripper.copy()
    if where in parts:
        parts[where][2, 1] = np.nan
    elif where == "norm":
        parts["quaternion"][1] *= 1.06
    elif where == "order":
        stamps = stamps[::-1].copy()
    elif where == "length":
        stamps = stamps[:2]
    else:
        (stamps if where == "stamps" else grip)[1] = np.inf
    p = plan()
    p.merge(chunk([0.455, 0.460, 0.465], 0.1), 0.0)
    merge = p.merge(Waypoints(Pose(**parts), stamps, 0.1, 0, grip), 0.15)
    assert merge.refused
    assert merge.taken == 0
    assert p.at(3.0).position[0] == pytest.approx(0.4575)


@pytest.mark.parametrize(
    "what",
    [
        {"stamps": [0.1, None, 0.3]},
        {"stamps": None},
        {"stamps": [0.1, [0.2], 0.3]},
        {"gripper": [0.04, None, 0.04]},
        {"gripper": ["open", "open", "shut"]},
        {"dt": None},
        {"dt": "0.1 s"},
        {"dt": 1e-310},
    ],
    ids=str,
)
def test_F09_a_chunk_with_null_or_words_in_it_is_refused_without_an_exception(what):
    p = plan()
    assert p.merge(replace(chunk([0.455, 0.460, 0.465], 0.1), **what), 0.0).refused
    assert p.at(1.0).position[0] == pytest.approx(0.45)


def test_F41_chunks_of_an_older_epoch_are_ignored():
    p = plan()
    p.clear(1)
    assert p.at(0.0) is None
    assert p.merge(chunk([0.455], 0.1, epoch=0), 0.0).stale
    with pytest.raises(InvalidChunk, match="start"):
        p.merge(chunk([0.455], 0.1, epoch=1), 0.0)


def test_the_gripper_has_its_own_latency_and_holds_its_last_value():
    p = Plan(LIMITS, latency=0.2, gripper_latency=0.1)
    p.start(START, 0.0, 0)
    p.merge(chunk([0.455, 0.460], 0.3, gripper=np.array((0.06, 0.02))), 0.0)
    assert p.at(0.19).gripper is None
    assert p.at(0.21).gripper == 0.06
    assert p.at(0.31).gripper == 0.02
    assert p.at(3.0).gripper == 0.02


def test_F21_a_chunk_dated_far_ahead_is_no_plan_and_hides_no_starvation():
    for early, taken in ((1.05, 0), (0.95, 2)):
        p = plan()
        merge = p.merge(chunk([0.455, 0.460], early), 0.0)
        assert merge.taken == taken
        assert (merge.refused is not None) == (taken == 0)
        if not taken:
            assert "first action is due in 1.1 s" in merge.refused
            assert p.end == 0.0


def test_F21_a_pause_inside_a_chunk_or_too_long_a_one_is_refused():
    p = plan()
    pause = replace(chunk([0.455, 0.460], 0.3), stamps=np.array((0.3, 1.4)))
    assert "1.1 s between two actions" in p.merge(pause, 0.0).refused
    long = chunk(np.full(100, 0.45), 0.3, dt=0.7)
    assert "69.3 s in all" in p.merge(long, 0.0).refused
    assert "1025 actions" in p.merge(chunk(np.full(1025, 0.45), 0.3, dt=0.01), 0.0).refused
    # A period without end would let stretching shift actions without end.
    assert "limits" in p.merge(replace(chunk([0.455], 0.3), dt=1e9), 0.0).refused
