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
from robopolicy.real_robot.driver.shared import Board, ControlSide, Mirror, PolicySide, SharedSink, camera_rooms
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


class Sharing:
    """An observer with a sink, as the control process's sources use them."""

    def __init__(self, board: Board, objects: bool = False) -> None:
        self.make = lambda: Observer([n for n, _ in CAMERAS], Timeouts(), objects=objects)
        self.observer = self.make()
        self.sink = SharedSink(board, lambda name: -self.observer.ages(0.0)[f"camera.{name}"])

    def give(self, kind: str, *what: object) -> None:
        if getattr(self.observer, kind)(*what) is not False:
            getattr(self.sink, kind)(*what)

    def restart(self) -> None:
        self.observer = self.make()
        self.sink.restart()

    def feed(self, count: int = 250) -> float:
        rng = np.random.default_rng(1)
        for i in range(count):
            t = 0.01 * i
            pose = Pose((0.4, 0.1 * np.sin(t), 0.3), DOWN)
            self.give("state", StateSample(t, pose, rng.normal(size=7), rng.normal(size=7), rng.normal(size=3)))
            if i % 4 == 0:
                self.give("gripper", t, 0.04 + 0.01 * np.sin(t))
                self.give("objects", t, ("x", "y"), (t, -t))
                for name, _ in CAMERAS:
                    self.give("frame", name, Frame(t - 0.002, rng.bytes(3000), i % 8 == 0))
        return 0.01 * count


def test_observations_put_together_over_there_equal_those_from_here(boards):
    here = Sharing(boards[0], objects=True)
    there = Mirror(boards[1], here.make)
    assert isinstance(there.snapshot(0.0, 1, 0.1), NoSnapshot)
    now = here.feed()
    want, got = here.observer.snapshot(now, 2, 0.1), there.snapshot(now, 2, 0.1)
    assert isinstance(want, Snapshot)
    assert (got.time, got.ages, got.object_names) == (want.time, want.ages, want.object_names)
    for name in ("q", "force", "width", "valid", "objects"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_array_equal(got.poses.position, want.poses.position)
    for name, _ in CAMERAS:
        assert list(map(vars, got.frames[name])) == list(map(vars, want.frames[name]))


def test_a_camera_that_froze_or_broke_is_known_over_there_without_its_every_picture(boards):
    here = Sharing(boards[0])
    there = Mirror(boards[1], here.make)
    now = here.feed()
    for i in range(40):  # 30 Hz of the same picture, and a policy that looked at none of them
        now += 0.033
        here.give("state", StateSample(now, Pose((0.4, 0.0, 0.3), DOWN), np.zeros(7), np.zeros(7)))
        here.give("gripper", now, 0.04)
        here.give("frame", "front", Frame(now, b"same"))
        here.give("frame", "wrist", Frame(now, b"%d" % i))
    assert "'front': newest picture 1.29 s old" in there.snapshot(now, 1, 0.1).why
    assert there.observer.ages(now) == here.observer.ages(now)
    here.give("frame", "front", Frame(now + 0.001, b"other"))
    assert isinstance(there.snapshot(now, 1, 0.1), Snapshot)
    for _ in range(5):
        here.give("bad_frame", "wrist")
    assert "'wrist': newest picture inf s old" in there.snapshot(now, 1, 0.1).why


def test_after_a_restart_nothing_from_before_it_is_seen(boards):
    here = Sharing(boards[0])
    there = Mirror(boards[1], here.make)
    assert isinstance(there.snapshot(here.feed(), 1, 0.1), Snapshot)
    here.feed()  # not read before the restart
    here.restart()
    assert there.snapshot(2.5, 1, 0.1).why == "no robot state yet"
    now = here.feed(60)  # the clock was set back: times that were there before
    assert there.snapshot(now, 1, 0.1).time == here.observer.snapshot(now, 1, 0.1).time == pytest.approx(0.558)


def test_a_picture_too_large_for_its_slot_is_dropped_and_counted(boards):
    here = Sharing(boards[0])
    here.give("frame", "front", Frame(1.0, bytes((1 << 16) + 1)))
    assert here.sink.dropped == 1
    assert boards[1].frames["front"].since(0) == (0, [])
    with pytest.raises(InvalidMessage, match="expected a picture's bytes"):
        here.give("frame", "front", Frame(2.0, np.zeros(3)))
    with pytest.raises(ConfigError, match="camera 'a'"):
        Board([("a", 1 << 30)])
    assert camera_rooms({"a": (480, 640), "b": (8, 8)}) == [("a", 921_600), ("b", 1 << 14)]


def test_a_wish_of_another_shape_stays_on_this_side(boards):
    policy = PolicySide(boards[1])
    with pytest.raises(InvalidMessage, match="3 numbers of a position"):
        policy.teleop(Setpoint(np.zeros(2), DOWN), 1.0)
    assert ControlSide(boards[0]).new_teleop() is None
