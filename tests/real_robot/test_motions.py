"""Built-in motions keep to the limits, and come in chunks that a plan takes without a word."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.control.plan import Plan
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.motions import DT, HandSteps, Hold, Path, Player, Sine, fitting_sine

HERE = Pose(np.array((0.45, 0.0, 0.3)), downward(0.0))


def follow(player, seconds, limits=None, start=100.0):
    """The plan's reference at 100 Hz, and what became of each chunk."""
    plan = Plan(limits or SafetyLimits())
    plan.start(HERE, start, epoch=3)
    track, merges = [], []
    for i in range(round(seconds * 100)):
        now = start + i * 0.01
        if (chunk := player.chunk(now, 3)) is not None:
            merges.append(plan.merge(chunk, now))
        track.append(plan.at(now).position)
    return np.array(track), merges


@pytest.mark.parametrize("limits", [SafetyLimits(), SafetyLimits.first_run()], ids=["default", "first-run"])
def test_a_sine_is_driven_whole_below_the_limits(limits):
    motion = fitting_sine(HERE, limits, "y", 0.05, 0.2, 15.0)
    assert motion.peak_speed <= 0.81 * limits.speed
    track, merges = follow(Player(motion), 16.0, limits)
    assert all(m.refused is None and m.jump is None and m.slow == 0 and not m.over_budget for m in merges)
    speed = np.linalg.norm(np.diff(track, axis=0), axis=-1) / 0.01
    assert speed.max() <= limits.speed
    assert np.ptp(track[:, 1]) == pytest.approx(2 * motion.amplitude, rel=0.05)
    assert track[-1] == pytest.approx(HERE.position, abs=1e-4)
    assert np.ptp(track[:, 0]) < 1e-9


def test_the_amplitude_asked_for_is_kept_where_it_fits():
    assert fitting_sine(HERE, SafetyLimits(), "x", 0.05, 0.2, 25).amplitude == 0.05
    assert fitting_sine(HERE, SafetyLimits.first_run(), "x", 0.05, 0.2, 25).amplitude < 0.035


def test_a_sine_out_of_the_workspace_is_refused():
    near = Pose(np.array((0.27, 0.0, 0.3)), downward(0.0))
    with pytest.raises(ConfigError, match=r"around x=0\.270 leaves the workspace"):
        fitting_sine(near, SafetyLimits(), "x", 0.05, 0.2, 25)
    with pytest.raises(ConfigError, match="three periods"):
        Sine(HERE, duration=5.0)
    with pytest.raises(ConfigError, match="x, y or z"):
        Sine(HERE, axis="w")


def test_hold_asks_for_the_same_pose_for_ever():
    track, merges = follow(Player(Hold(HERE)), 3.0)
    assert np.allclose(track, HERE.position)
    assert len(merges) == 6
    assert not Player(Hold(HERE)).done(1e9)


def test_a_path_is_played_at_a_quarter_of_its_speed_with_its_widths():
    times = np.arange(0, 2.01, 0.1)
    position = HERE.position + np.outer(times * 0.05, (1, 0, 0))
    path = Path(times, Pose(position, np.tile(HERE.quaternion, (len(times), 1))), np.where(times < 1, 0.08, 0.02), 0.25)
    assert path.duration == pytest.approx(8.0)
    assert path.at(4.0)[0].position[0] == pytest.approx(0.5)
    assert (path.at(3.9)[1], path.at(4.1)[1]) == (0.08, 0.02)
    track, _ = follow(Player(path), 9.0)
    speed = np.diff(track[:, 0]) / 0.01
    assert np.median(speed[speed > 1e-3]) == pytest.approx(0.0125, rel=0.05)
    assert track[-1, 0] == pytest.approx(0.55, abs=1e-3)
    with pytest.raises(ConfigError, match="speed"):
        Path(times, path.track, path.widths, 1.5)


def test_after_a_hold_the_motion_goes_on_where_it_was_held():
    player = Player(Sine(HERE, duration=15.0))
    assert player.chunk(10.0, 1) is not None
    assert player.played(14.0) == pytest.approx(4.0 - player.lead)
    player.pause(14.0)
    assert player.played(50.0) == 0.0
    chunk = player.chunk(60.0, 2)
    assert chunk.epoch == 2
    # Its first action is the one due next in the motion's own time, a lead after now.
    assert chunk.stamps[0] == pytest.approx(60.0 + player.lead, abs=DT)
    expected = player.motion.at(chunk.stamps[0] - player.began)[0].position
    assert chunk.track.position[0] == pytest.approx(expected)
    assert player.played(60.0 + player.lead) == pytest.approx(4.0 - player.lead)


def test_the_hand_steps_towards_the_side_with_room_and_ends_where_it_began():
    steps = HandSteps(HERE, 0.078, step=0.03, every=2.0, moves=6)
    widths = [round(steps.at(t)[1], 6) for t in np.arange(1.0, steps.duration, 2.0)]
    assert widths == [0.078, 0.048] * 3 + [0.078]
    assert HandSteps(HERE, 0.02).at(3.0)[1] == pytest.approx(0.05)
    assert steps.at(1e9)[1] == pytest.approx(0.078)


def test_the_first_width_of_a_path_is_not_late():
    """Widths that begin in the middle of a chunk are sent for their own instants, not with the next whole chunk."""
    times = np.arange(0.0, 4.0, 0.1)
    track = Pose(np.tile(HERE.position, (40, 1)), np.tile(HERE.quaternion, (40, 1)))
    player = Player(Path(times, track, np.where(times < 1.25, np.nan, 0.03)))
    asked = {}
    for i in range(300):
        if (chunk := player.chunk(10.0 + 0.01 * i, 1)) is not None:
            assert chunk.problem() is None
            for k, due in enumerate(chunk.stamps):
                asked[round(due - player.began, 1)] = None if chunk.gripper is None else float(chunk.gripper[k])
    first = min(t for t, width in asked.items() if width is not None)
    assert first == pytest.approx(1.3)
    assert [width for t, width in sorted(asked.items()) if t < 1.25] == [None] * 13
    assert all(width == 0.03 for t, width in asked.items() if t > 1.25)
