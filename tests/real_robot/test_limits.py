"""Hardware tables hold the published numbers; nobody can configure the project's limits above their caps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robopolicy.core.configs import build_config, dump_config
from robopolicy.core.errors import ConfigError
from robopolicy.real_robot import limits as lim
from robopolicy.sim import panda_model


def test_panda_table_is_the_one_of_the_simulated_arm():
    panda = lim.robot_limits("panda")
    np.testing.assert_array_equal(panda.q_min, panda_model.Q_MIN)
    np.testing.assert_array_equal(panda.q_max, panda_model.Q_MAX)
    np.testing.assert_array_equal(panda.qd_max, panda_model.QD_MAX)
    np.testing.assert_array_equal(panda.torque_max, panda_model.TORQUE_MAX)
    assert panda.gripper_width == panda_model.WIDTH_MAX
    assert panda.collision_torque == (20, 20, 18, 18, 16, 14, 12)
    assert panda.translation == (2.0, 13.0, 6500.0)


def test_fr3_joint_speeds_follow_the_published_law():
    fr3 = lim.robot_limits("fr3")
    low, high = fr3.joint_speeds(np.zeros(7))
    assert high[0] == pytest.approx(2.62)
    assert low[0] == pytest.approx(-2.62)
    near = np.array((2.7437 - 0.1, 0, 0, -2, 0, 2, 0))
    low, high = fr3.joint_speeds(near)
    assert high[0] == pytest.approx(-0.30 + np.sqrt(12 * 0.1))  # 0.1 rad from the upper end
    assert low[0] == pytest.approx(-2.62)  # away from it at full speed
    assert fr3.joint_speeds(np.array((2.7437, 0, 0, -2, 0, 2, 0)))[1][0] == 0.0
    assert fr3.joint_speeds(np.zeros((4, 7)))[0].shape == (4, 7)


def test_panda_joint_speeds_do_not_depend_on_the_position():
    low, high = lim.robot_limits("panda").joint_speeds(np.full(7, 2.8))
    np.testing.assert_array_equal(high, panda_model.QD_MAX)
    np.testing.assert_array_equal(low, -panda_model.QD_MAX)


@pytest.mark.parametrize("name", sorted(lim.HARD_CAPS))
def test_a_value_above_its_cap_is_refused_and_both_are_named(name):
    cap = lim.HARD_CAPS[name]
    extra = {"force_hold": 30.0} if name == "force_slow" else {}
    if name != "force_slow":  # at its cap the lower threshold has room below the upper one
        lim.SafetyLimits(**{name: cap})
    with pytest.raises(ConfigError, match=rf"{name}={cap * 1.01:g} is above its hard cap {cap:g}"):
        lim.SafetyLimits(**{name: cap * 1.01}, **extra)


@pytest.mark.parametrize("name", sorted(lim.HARD_FLOORS))
def test_a_margin_below_its_cap_is_refused(name):
    with pytest.raises(ConfigError, match=rf"{name}=.* is below its hard cap"):
        lim.SafetyLimits(**{name: lim.HARD_FLOORS[name] * 0.9})


@pytest.mark.parametrize(
    ("low", "high", "axis"),
    [((0.1, -0.2, 0.1), (0.5, 0.2, 0.5), "low x"), ((0.3, -0.2, 0.1), (0.5, 0.7, 0.5), "high y")],
)
def test_a_workspace_outside_the_cap_box_is_refused(low, high, axis):
    with pytest.raises(ConfigError, match=axis):
        lim.SafetyLimits(workspace=lim.Box(low, high))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["speed", "lead", "joint_stop", "force_hold"])
def test_limits_that_are_no_limits_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        lim.SafetyLimits(**{name: value})


def test_swapped_pairs_are_refused():
    for pair in ({"joint_stop": 0.3}, {"force_slow": 15.0, "force_hold": 14.0}, {"radius_min": 0.8}):
        with pytest.raises(ConfigError, match="expected"):
            lim.SafetyLimits(**pair)


def test_first_run_is_nowhere_looser_than_the_default_and_both_are_the_published_columns():
    first, usual = lim.safety_limits("first-run"), lim.safety_limits("default")
    for name in lim.HARD_CAPS:
        assert getattr(first, name) <= getattr(usual, name) <= lim.HARD_CAPS[name]
    assert (usual.speed, usual.turn_speed, usual.acceleration, usual.lead, usual.jump) == (0.10, 0.4, 1.0, 0.05, 0.03)
    assert (first.speed, first.turn_speed, first.acceleration, first.lead, first.jump) == (0.05, 0.2, 0.5, 0.03, 0.02)
    assert (usual.force_slow, usual.force_hold, usual.joint_stop, usual.joint_slow) == (12, 20, 0.10, 0.20)
    assert (first.force_slow, first.force_hold, first.joint_stop, first.joint_slow) == (8, 15, 0.15, 0.30)
    assert first.workspace == lim.Box((0.35, -0.25, 0.05), (0.60, 0.25, 0.50))


def test_limits_from_a_file_replace_the_default_and_a_typo_is_told(tmp_path):
    good = tmp_path / "mine.yaml"
    good.write_text("speed: 0.08\nkeep_out:\n  - {low: [0.4, 0.1, 0.0], high: [0.5, 0.2, 0.3]}\n")
    mine = lim.safety_limits(str(good))
    assert mine == dataclasses.replace(
        lim.SafetyLimits(), speed=0.08, keep_out=(lim.Box((0.4, 0.1, 0.0), (0.5, 0.2, 0.3)),)
    )
    assert build_config(lim.SafetyLimits, dump_config(mine)) == mine
    bad = tmp_path / "typo.yaml"
    bad.write_text("sped: 0.08\n")
    with pytest.raises(ConfigError, match=r"typo.yaml.*did you mean 'speed'"):
        lim.safety_limits(str(bad))
    with pytest.raises(ConfigError, match="did you mean 'first-run'"):
        lim.safety_limits("firstrun")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="expected a mapping"):
        lim.robot_limits(str(tmp_path / "list.yaml"))
    with pytest.raises(ConfigError, match=r"gone.yaml: cannot be read"):
        lim.robot_limits(str(tmp_path / "gone.yaml"))


def test_timeouts_are_in_order_and_slow_publishers_get_more():
    assert lim.Timeouts().state_hard == 0.25
    assert lim.Timeouts.for_state_rate(100).state_soft == 0.10
    assert lim.Timeouts.for_state_rate(30) == lim.Timeouts(state_soft=0.12, state_hard=0.30)
    with pytest.raises(ConfigError, match="state_soft < state_hard"):
        lim.Timeouts(state_hard=0.05)
    with pytest.raises(ConfigError, match=r"lease: expected 0.10 to 0.20"):
        lim.Timeouts(lease=0.05)


def test_no_timeout_can_be_set_so_long_that_it_is_none():
    for name in vars(lim.Timeouts()):
        with pytest.raises(ConfigError, match=rf"{name}=1e\+09 s is above its hard cap"):
            lim.Timeouts(**{name: 1e9})
        assert lim.TIMEOUT_CAPS[name] < 61
