"""What is seen at one instant, from sources that have each their own."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.control.observations import Frame, NoSnapshot, Observer, StateSample
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import Timeouts


def state(t, x=None):
    return StateSample(
        t, Pose(np.array((0.4 + t if x is None else x, 0, 0.3)), downward(0.0)), np.full(7, t), np.zeros(7)
    )


def rig(cameras=("front", "wrist"), until=1.0, late=0.0, hand=True):
    """States at 100 Hz, a 30 Hz camera each (the second ``late`` seconds behind), the hand at 10 Hz."""
    o = Observer(cameras, Timeouts(), hand=hand)
    for k in range(round(until * 100) + 1):
        o.state(state(k / 100))
    for i, name in enumerate(cameras):
        for k in range(int((until - i * late) * 30)):
            o.frame(name, Frame(k / 30, bytes((i, k % 256))))
    for k in range(int(until * 10) + 1):
        o.gripper(k / 10, 0.01 * k / 10)
    return o


def test_everything_is_at_the_time_of_the_first_cameras_newest_picture():
    s = rig().snapshot(1.0, steps=2, dt=0.1)
    assert s.time == pytest.approx(29 / 30)
    assert s.poses.position[:, 0] == pytest.approx((0.4 + 29 / 30 - 0.1, 0.4 + 29 / 30))
    assert s.q[1] == pytest.approx(np.full(7, 29 / 30))
    # the hand was read 0.1 s before it was published, so its newest value is already older than the picture
    assert s.width == pytest.approx((0.01 * (29 / 30 - 0.1 + 0.1), 0.01))
    assert [f.time for f in s.frames["front"]] == pytest.approx((26 / 30, 29 / 30))
    assert s.valid.all()
    assert s.ages["front"] == pytest.approx(1 / 30)


def test_history_that_is_not_there_is_marked():
    s = rig(until=0.3).snapshot(0.3, steps=3, dt=0.2)
    assert s.valid.tolist() == [False, True, True]


def test_F14_a_camera_that_stops_ends_inference_and_then_holds():
    o = rig()
    for k in range(100):
        o.state(state(1.01 + k / 100))
    assert not isinstance(o.snapshot(29 / 30 + 0.149, 1, 0.1), NoSnapshot)
    none = o.snapshot(29 / 30 + 0.151, 1, 0.1)
    assert "front" in none.why
    assert o.camera_age(29 / 30 + 0.49) < 0.5 < o.camera_age(29 / 30 + 0.51)


def test_F14_ten_equal_pictures_are_a_frozen_camera():
    o = rig(cameras=("front",))
    for k in range(9):
        o.frame("front", Frame(1 + k / 30, b"same"))
    assert o.camera_age(1 + 8 / 30) == pytest.approx(0)
    o.frame("front", Frame(1 + 9 / 30, b"same"))
    assert o.camera_age(1 + 9 / 30) == pytest.approx(0.3)  # since the first of them
    o.state(state(1.3))
    assert isinstance(o.snapshot(1.3, 1, 0.1), NoSnapshot)
    o.frame("front", Frame(1 + 10 / 30, b"other"))
    assert o.camera_age(1 + 10 / 30) == pytest.approx(0)


def test_F15_a_late_camera_makes_the_set_unusable():
    assert not isinstance(rig(late=0.03).snapshot(1.0, 1, 0.1), NoSnapshot)
    none = rig(late=0.07).snapshot(1.0, 1, 0.1)
    assert "off the others" in none.why


@pytest.mark.parametrize(("first", "last", "fine"), [(0.96, 1.005, True), (0.96, 1.03, False)])
def test_F15_two_cameras_on_either_side_of_the_anchor_may_not_be_far_apart_either(first, last, fine):
    o = Observer(("front", "left", "right"), Timeouts(), hand=False)
    for k in range(110):
        o.state(state(k / 100))
    for camera, t in (("front", 0.99), ("left", first), ("right", last)):
        o.frame(camera, Frame(t, camera.encode()))
    s = o.snapshot(1.09, 1, 0.1)
    assert isinstance(s, NoSnapshot) is not fine
    assert fine or "'left' and 'right' are 70 ms off" in s.why


def test_F10_broken_and_old_states_are_refused():
    o = rig()
    assert not o.state(state(2.0, x=np.nan))
    assert not o.state(state(0.5))
    assert not o.gripper(np.nan, 0.0)
    assert not o.gripper(2.0, np.nan)
    assert o.state_age(1.25) == pytest.approx(0.25)


def test_nothing_is_extrapolated_by_more_than_20_ms():
    o = rig(cameras=("front",))
    o.frame("front", Frame(1.019, b"a"))
    assert not isinstance(o.snapshot(1.02, 1, 0.1), NoSnapshot)
    o.frame("front", Frame(1.03, b"b"))
    assert "behind the picture" in o.snapshot(1.03, 1, 0.1).why


def test_F16_five_broken_pictures_in_a_row():
    o = rig()
    for _ in range(5):
        o.bad_frame("wrist")
    assert o.camera_age(1.0) == np.inf


def test_without_cameras_the_newest_state_is_the_instant():
    o = rig(cameras=(), hand=False)
    s = o.snapshot(1.0, 2, 0.05)
    assert s.time == 1.0
    assert s.poses.position[:, 0] == pytest.approx((1.35, 1.4))
    assert o.camera_age(9.0) is None
    assert o.state_rate() == pytest.approx(100)


def test_rings_do_not_grow():
    o = rig(until=5.0)
    assert len(o._states) <= 202
    assert len(o._cameras["front"].frames) == 8


def test_objects_are_those_said_nearest_to_each_instant_and_needed_where_a_tracker_is_expected():
    o = Observer((), Timeouts(), hand=False, objects=True)
    o.state(state(1.0))
    assert "tracker" in o.snapshot(1.0, 1, 0.1).why
    for k in range(101):
        o.state(state(1.0 + k / 100))
        assert o.objects(1.0 + k / 100, ("cube_x", "cube_yaw"), (k, -k))
    s = o.snapshot(2.0, steps=3, dt=0.1)
    assert s.objects.tolist() == [[80, -80], [90, -90], [100, -100]]
    assert s.object_names == ("cube_x", "cube_yaw")
    assert s.ages["objects"] == pytest.approx(0.0)
    for k in range(11):
        o.state(state(2.01 + k / 100))  # the tracker has stopped, the arm has not
    assert "tracker of objects: 0.11 s old" in o.snapshot(2.11, 1, 0.1).why


def test_F10_numbers_of_a_tracker_that_are_none_are_not_taken():
    o = Observer((), Timeouts(), objects=True)
    assert o.objects(1.0, ("a",), (0.5,))
    assert not o.objects(1.1, ("a",), (np.nan,))
    assert not o.objects(1.1, ("a",), (0.5, 0.6))
    assert not o.objects(1.1, ("b",), (0.5,))  # other names in the middle of a run
    assert not o.objects(0.9, ("a",), (0.5,))  # older than the last


def test_ages_and_rates_of_every_source():
    o = rig()
    ages, rates = o.ages(1.05), o.rates()
    assert ages["state"] == pytest.approx(0.05)
    assert ages["gripper"] == pytest.approx(0.05)  # of its stamp; what it says is older still
    assert ages["camera.front"] == pytest.approx(1.05 - 29 / 30)
    assert rates["state"] == pytest.approx(100)
    assert rates["camera.wrist"] == pytest.approx(30)
    empty = Observer(("front",), Timeouts(), objects=True)
    assert set(empty.ages(0.0).values()) == {np.inf}
    assert set(empty.rates().values()) == {0.0}
    assert "gripper" not in Observer((), Timeouts(), hand=False).ages(0.0)


def test_an_old_reading_of_the_hand_is_no_observation():
    o = rig(cameras=())
    for k in range(101, 200):
        o.state(state(k / 100))
    assert not isinstance(o.snapshot(1.45, 1, 0.1), NoSnapshot)
    none = o.snapshot(1.99, 1, 0.1)
    assert isinstance(none, NoSnapshot)
    assert "gripper state for 0.99 s" in none.why
