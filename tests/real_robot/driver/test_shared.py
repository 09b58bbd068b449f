"""What crosses between the two processes: equal on both sides, newest first, and observations put together from it."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from robopolicy.core.errors import BridgeError, ConfigError, InvalidChunk, InvalidMessage, RequestRefused
from robopolicy.real_robot.control.observations import Frame, NoSnapshot, Observer, Snapshot, StateSample
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Check, Report, Status
from robopolicy.real_robot.driver.packing import error_of, no_chunk, pack_chunk, pack_error, unpack_chunk
from robopolicy.real_robot.driver.shared import Board, ControlSide, MirrorObserver, PolicySide, SharingObserver
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import Timeouts
from robopolicy.real_robot.safety.types import SafetyFlag, Setpoint

CAMERAS = (("front", 1 << 16), ("wrist", 1 << 16))
DOWN = np.array((1.0, 0.0, 0.0, 0.0))


@pytest.fixture
def boards():
    one = Board(CAMERAS)
    two = Board(CAMERAS, os.dup(one.block.fd))
    yield one, two
    one.close()
    two.close()


def status(**changes: object) -> Status:
    base = Status(
        *(12.5, State.RUNNING, "started", 3, True, 13.0, 0.0, Pose((0.4, 0.0, 0.3), DOWN), (0.1,) * 7, 0.04, 1.5),
        *(
            None,
            None,
            SafetyFlag.SPEED | SafetyFlag.RAMP,
            2,
            ("joint_reflex",),
            {"state": 0.01, "camera.front": np.inf},
        ),
        *({"state": 100.0}, -0.002, 0.0001, 0.0004, {"ticks": 100}),
        preflight=Report((Check("clock", True, "0.1 ms"),)),
        extra={"realtime": "SCHED_RR 20", "array": np.arange(2)},
    )
    return dataclasses.replace(base, **changes)


def test_a_status_arrives_equal_and_its_report_is_written_only_when_it_changes(boards):
    control, policy = ControlSide(boards[0]), PolicySide(boards[1])
    assert policy.status() is None
    sent = status()
    control.show(sent)
    got = policy.status()
    assert policy.status() is got  # nothing new: nothing is read again
    np.testing.assert_array_equal(got.measured.position, sent.measured.position)
    others = {"measured": None, "extra": None}
    assert vars(got) | others == vars(sent) | others
    assert got.extra == {"realtime": "SCHED_RR 20", "array": [0, 1]}
    written = boards[0].report.version
    control.show(dataclasses.replace(sent, now=12.51))
    assert boards[0].report.version == written
    assert policy.status().now == 12.51
    control.show(status(preflight=None))
    assert policy.status().preflight is None


def test_the_newest_chunk_wins_and_is_fetched_once(boards):
    control, policy = ControlSide(boards[0]), PolicySide(boards[1])
    track = Pose(np.random.default_rng(0).normal(size=(5, 3)), np.tile(DOWN, (5, 1)))
    first = Waypoints(track, np.arange(5.0), 0.1, 4, None, 1)
    second = dataclasses.replace(first, gripper=np.linspace(0, 0.08, 5), chunk=2)
    assert control.new_chunk() is None
    policy.submit(first)
    policy.submit(second)
    got = control.new_chunk()
    assert (got.chunk, got.epoch, got.dt) == (2, 4, 0.1)
    for name in ("stamps", "gripper"):
        np.testing.assert_array_equal(getattr(got, name), getattr(second, name))
    np.testing.assert_array_equal(got.track.position, track.position)
    np.testing.assert_array_equal(got.track.quaternion, track.quaternion)
    assert control.new_chunk() is None
    assert unpack_chunk(b"".join(pack_chunk(first))).gripper is None
    long = Waypoints(Pose(np.zeros((1025, 3)), np.tile(DOWN, (1025, 1))), np.arange(1025.0), 0.1, 0)
    with pytest.raises(InvalidChunk, match="at most 1024"):
        policy.submit(long)
    assert "not finite" in unpack_chunk(b"".join(pack_chunk(no_chunk(4, 9)))).problem()


def test_a_wish_and_a_heartbeat_are_fetched_once_with_their_times(boards):
    control, policy = ControlSide(boards[0]), PolicySide(boards[1])
    assert control.new_teleop() is None
    assert control.new_beat() is None
    policy.teleop(Setpoint(np.array((0.4, 0.1, 0.3)), DOWN, None, np.arange(6.0), 0.2, 0.1), 7.25)
    policy.beat(7.5)
    wish, made = control.new_teleop()
    assert (made, wish.gripper, wish.left, wish.turn_left) == (7.25, None, 0.2, 0.1)
    np.testing.assert_array_equal(wish.rate, np.arange(6.0))
    assert control.new_beat() == 7.5
    assert control.new_beat() is None
    assert control.new_teleop() is None
    policy.teleop(dataclasses.replace(wish, gripper=0.03), 7.3)
    assert control.new_teleop()[0].gripper == 0.03


def test_errors_are_raised_again_as_what_they_were():
    again = error_of(pack_error(RequestRefused("start: not in state hold")))
    assert type(again) is RequestRefused
    assert str(again) == "start: not in state hold"
    assert type(error_of(pack_error(ZeroDivisionError("x")))) is BridgeError


def feed(observer: Observer, count: int = 250) -> float:
    rng = np.random.default_rng(1)
    for i in range(count):
        t = 0.01 * i
        turn = Pose((0.4, 0.1 * np.sin(t), 0.3), DOWN)
        observer.state(StateSample(t, turn, rng.normal(size=7), rng.normal(size=7), rng.normal(size=3)))
        if i % 4 == 0:
            observer.gripper(t, 0.04 + 0.01 * np.sin(t))
            observer.objects(t, ("x", "y"), (t, -t))
            for name, _ in CAMERAS:
                observer.frame(name, Frame(t - 0.002, rng.bytes(3000)))
    return 0.01 * count


def test_observations_put_together_over_there_equal_those_from_here(boards):
    sharing = SharingObserver(boards[0], [n for n, _ in CAMERAS], Timeouts(), objects=True)
    seeing = MirrorObserver(boards[1], [n for n, _ in CAMERAS], Timeouts(), objects=True)
    assert isinstance(seeing.snapshot(0.0, 1, 0.1), NoSnapshot)
    now = feed(sharing)
    seeing.pull()
    want, got = sharing.snapshot(now, 2, 0.1), seeing.snapshot(now, 2, 0.1)
    assert isinstance(want, Snapshot)
    assert (got.time, got.ages, got.object_names) == (want.time, want.ages, want.object_names)
    for name in ("q", "force", "width", "valid", "objects"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_array_equal(got.poses.position, want.poses.position)
    for name, _ in CAMERAS:
        assert [f.data for f in got.frames[name]] == [f.data for f in want.frames[name]]


def test_a_camera_that_froze_or_broke_is_known_over_there_without_its_every_picture(boards):
    sharing = SharingObserver(boards[0], [n for n, _ in CAMERAS], Timeouts())
    seeing = MirrorObserver(boards[1], [n for n, _ in CAMERAS], Timeouts())
    now = feed(sharing)
    for i in range(40):  # 30 Hz of the same picture, and a policy that looked at none of them
        now += 0.033
        sharing.state(StateSample(now, Pose((0.4, 0.0, 0.3), DOWN), np.zeros(7), np.zeros(7)))
        sharing.gripper(now, 0.04)
        sharing.frame("front", Frame(now, b"same"))
        sharing.frame("wrist", Frame(now, b"%d" % i))
    seeing.pull()
    assert seeing.camera_age(now) == sharing.camera_age(now) == pytest.approx(39 * 0.033)
    assert "'front': newest picture 1.29 s old" in seeing.snapshot(now, 1, 0.1).why
    for _ in range(5):
        sharing.bad_frame("wrist")
    seeing.pull()
    assert seeing.camera_age(now) == np.inf


def test_a_picture_too_large_for_its_slot_is_dropped_and_counted(boards):
    sharing = SharingObserver(boards[0], [n for n, _ in CAMERAS], Timeouts())
    assert sharing.frame("front", Frame(1.0, bytes((1 << 16) + 1)))
    assert sharing.dropped == 1
    assert boards[1].frames["front"].since(0) == (0, [])
    with pytest.raises(InvalidMessage, match="expected a picture's bytes"):
        sharing.frame("front", Frame(2.0, np.zeros(3)))
    with pytest.raises(ConfigError, match="camera 'a'"):
        Board([("a", 1 << 30)])
