"""What the numbers of an action stand for, there and back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ActionSpace, ChannelKind
from robopolicy.real_robot.deploy.actions import ActionConfig, ActionForm, form_of
from robopolicy.real_robot.frames import Pose, difference, downward, normalised, turned
from robopolicy.sim.arm import ACTION_SPACE

HERE = Pose(np.array((0.4, 0.1, 0.3)), downward(0.3))
OPEN = "m, 0 closed .. 1 open"


def track(n=6, seed=0):
    rng = np.random.default_rng(seed)
    quaternions, q = [], HERE.quaternion
    for _ in range(n):
        q = turned(q, 0.1 * rng.normal(size=3))
        quaternions.append(q)
    return Pose(0.4 + 0.01 * rng.normal(size=(n, 3)), normalised(np.array(quaternions)))


def near(a: Pose, b: Pose):
    assert a.position == pytest.approx(b.position, abs=1e-6)
    assert np.abs(difference(a.quaternion, b.quaternion)).max() < 2e-6


def test_the_embedded_tasks_are_a_yaw_and_an_opening():
    form = form_of(ACTION_SPACE)
    assert form == ActionForm("yaw", hand="open")
    track, width = form.poses(np.array(((0.5, 0.1, 0.2, 0.4, 0.25),)), HERE)
    near(track, Pose(np.array(((0.5, 0.1, 0.2),)), downward(np.array((0.4,)))))
    assert width == pytest.approx((0.02,))  # a quarter of 0.08 m
    assert form.actions(track, width, HERE)[0] == pytest.approx((0.5, 0.1, 0.2, 0.4, 0.25), abs=1e-6)


@pytest.mark.parametrize("rotation", ["rot6d", "quaternion", "vector"])
@pytest.mark.parametrize("hand", ["open", "width", "none"])
def test_absolute_rotations_come_back(rotation, hand):
    form, poses, widths = ActionForm(rotation, hand=hand), track(), np.linspace(0, 0.08, 6)
    numbers = form.actions(poses, None if hand == "none" else widths, HERE)
    assert numbers.shape == (6, form.dim)
    back, width = form.poses(numbers, HERE)
    near(back, poses)
    assert (width is None) == (hand == "none")
    if width is not None:
        assert width == pytest.approx(widths, abs=1e-6)


def test_rows_and_columns_of_six_numbers_are_different_things():
    numbers = ActionForm("rot6d", hand="none", six="rows").actions(track(), None, HERE)
    back, _ = ActionForm("rot6d", hand="none", six="columns").poses(numbers, HERE)
    assert np.abs(difference(back.quaternion, track().quaternion)).max() > 0.1


@pytest.mark.parametrize("rotation", ["vector", "yaw"])
def test_changes_add_up_from_the_pose_of_the_observation(rotation):
    form = ActionForm(rotation, delta=True, hand="none")
    step = (0.01, 0.0, -0.02, *((0.0, 0.0, 0.1) if rotation == "vector" else (0.1,)))
    poses, _ = form.poses(np.array((step,) * 3), HERE)
    assert poses.position[-1] - HERE.position == pytest.approx((0.03, 0.0, -0.06))
    near(Pose(poses.position[-1], poses.quaternion[-1]), Pose(poses.position[-1], downward(0.6)))
    assert form.actions(poses, None, HERE) == pytest.approx(np.array((step,) * 3), abs=1e-6)


def test_a_snapped_hand_is_open_or_closed():
    form = form_of(ACTION_SPACE, ActionConfig(snap=True))
    _, width = form.poses(np.array([(0.5, 0, 0.2, 0, g) for g in (0.9, 0.51, 0.49, 0.0)]), HERE)
    assert width.tolist() == [0.08, 0.08, 0.0, 0.0]


def space(*names, mode="absolute", unit=OPEN, kinds=None, frame="base"):
    return ActionSpace(len(names), names, kinds, mode, frame, unit=unit)


XYZ, SIX = ("x", "y", "z"), tuple(f"r{i}" for i in range(6))
KINDS = (ChannelKind.EUCLIDEAN,) * 3 + (ChannelKind.ROT6D,) * 6


@pytest.mark.parametrize(
    ("given", "form"),
    [
        (space(*XYZ, "qx", "qy", "qz", "qw", "gripper"), ActionForm("quaternion")),
        (space(*XYZ, *SIX, "gripper", kinds=(*KINDS, ChannelKind.EUCLIDEAN)), ActionForm("rot6d")),
        (space(*XYZ, *SIX, kinds=KINDS), ActionForm("rot6d", hand="none")),
        (space(*XYZ, "rx", "ry", "rz", "gripper_width", unit="m, rad"), ActionForm("vector", hand="width")),
        (space("dx", "dy", "dz", "drx", "dry", "drz", mode="delta"), ActionForm("vector", True, "none")),
    ],
)
def test_forms_are_read_off_the_space(given, form):
    assert form_of(given) == form


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (space(*XYZ, "yaw", "gripper", unit="m, rad"), "state hand"),  # 0..1, or metres?
        (space(*XYZ, "yaw", "gripper", mode="unstated"), "state mode"),
        (space(*(f"joint_{i}" for i in range(7)), mode="joint_abs"), "joint_abs"),
        (space(*XYZ, "yaw", "gripper", frame="tool"), "frame 'tool'"),
        (space(*XYZ, "a", "b", "c", "gripper"), "state rotation"),
        (space("y", "x", "z", "yaw", "gripper"), "x, y, z as the first"),
        (space(*XYZ, "yaw", "gripper", unit="m, deg, 0 closed .. 1 open"), "radians"),
        (ActionSpace(8, mode="absolute", unit=OPEN), "state rotation"),
        (space(*XYZ, *SIX, kinds=KINDS, mode="delta"), "do not add up"),
    ],
)
def test_what_is_not_certain_is_refused_and_says_how_to_mend_it(given, says):
    with pytest.raises(ConfigError, match=says):
        form_of(given)


def test_what_was_not_certain_can_be_stated():
    told = ActionConfig(rotation="quaternion", hand="width", mode="absolute")
    assert form_of(ActionSpace(8), told) == ActionForm("quaternion", hand="width")
    with pytest.raises(ConfigError, match="are 8"):
        form_of(ActionSpace(7), told)
