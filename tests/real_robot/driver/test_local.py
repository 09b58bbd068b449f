"""The driver on the twin, through a real socket, in lock-step: the usual way, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robopolicy.core.errors import InvalidObservation, LinkDown, RequestRefused
from robopolicy.real_robot.control.observations import NoSnapshot, Snapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Driver
from robopolicy.real_robot.driver.pictures import decode
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.safety.types import Setpoint

SIZE = (48, 64)  # of the rig's pictures


def test_connect_preflight_arm_start_follow_and_hold(rig):
    r = rig()
    d = r.driver
    assert isinstance(d, Driver)
    assert d.status().state is State.LINKED
    r.running()
    start = d.status().measured.position
    assert d.submit(r.line((0.06, 0.0, -0.03)))
    assert r.step(215).state is State.RUNNING
    status = d.status()
    assert status.measured.position == pytest.approx(start + np.array((0.06, 0.0, -0.03)), abs=4e-3)
    assert status.emitted.position == pytest.approx(start + np.array((0.06, 0.0, -0.03)), abs=1e-3)
    assert status.starved == pytest.approx(0.95, abs=0.02)
    assert status.counters["starved"] == 2  # before the first chunk and after it
    assert status.rates["state"] == pytest.approx(100, abs=0.5)
    assert status.ages["state"] < 0.002
    assert status.ages["gripper"] < 0.04
    assert status.width == pytest.approx(0.08, abs=1e-3)
    assert status.clock_offset == pytest.approx(0.0, abs=1e-6)
    assert r.until(State.HOLD, 20) == pytest.approx(0.06, abs=0.02)
    assert "no new plan" in r.why


def test_every_target_is_complete_stamped_by_the_robots_clock_and_heard_back(rig):
    r = rig().running()
    r.step(50)
    stamps = [m["header"]["stamp"]["secs"] + 1e-9 * m["header"]["stamp"]["nsecs"] for _, m in r.targets]
    assert len(stamps) >= 50
    assert (np.diff(stamps) > 0).all()
    assert stamps[-1] == pytest.approx(r.twin.clock.wall(), abs=0.02)
    message = r.targets[-1][1]
    assert message["header"]["frame_id"] == "panda_link0"
    q = message["pose"]["orientation"]
    assert np.linalg.norm([q[k] for k in "xyzw"]) == pytest.approx(1.0)
    assert r.driver.commands.loopback.foreign == 0
    assert r.driver.commands.loopback.seen_count >= 50


def test_arming_stands_where_the_arm_is(rig):
    r = rig().armed()
    here = r.driver.status().measured.position
    p = r.targets[-1][1]["pose"]["position"]
    assert [p[k] for k in "xyz"] == pytest.approx(here.tolist(), abs=1e-3)
    with pytest.raises(RequestRefused, match="preflight: not in state armed"):
        r.driver.preflight()


def test_a_watcher_advertises_nothing_and_cannot_be_armed(rig):
    r = rig(monitor_only=True)
    r.step(12)
    names = r.face.names
    assert not [p for p in r.bus.publishers(names.command) if "client" in p]
    for part in ("error_recovery/goal",):
        assert not [p for p in r.bus.publishers(f"/franka_control/{part}") if "client" in p]
    assert not [p for p in r.bus.publishers("/franka_gripper/move/goal") if "client" in p]
    assert r.driver.status().measured is not None
    with pytest.raises(RequestRefused, match="monitor_only=False"):
        r.driver.ask_to_arm("Ada")
    with pytest.raises(RequestRefused, match="only watches"):
        r.driver.recover("Ada")
    assert r.targets == []


def test_calls_that_the_state_does_not_allow_are_refused_with_the_reason(rig):
    r = rig()
    for call, what in (
        (r.driver.start, "start: not in state linked"),
        (r.driver.resume, "resume: not in state linked"),
        (lambda: r.driver.ask_to_arm("Ada"), "arm: not in state linked"),
        (r.driver.release, "release"),
        (r.driver.gripper_home, "only in ready"),
        (r.driver.connect, "was connected before"),
    ):
        with pytest.raises(RequestRefused, match=what):
            call()
    assert not r.driver.submit(_chunk())


def _chunk():
    return Waypoints(Pose(np.array([[0.4, 0, 0.4]]), downward(0.0)[None]), np.array([1.0]), 0.1, 0)


def test_observations_of_both_cameras_are_decoded_on_use(rig):
    r = rig(cameras=("front", "wrist"), anchor="wrist")
    r.step(40)
    snapshot = r.driver.snapshot(steps=2, dt=0.1)
    assert isinstance(snapshot, Snapshot), snapshot
    assert list(snapshot.frames) == ["wrist", "front"]
    assert isinstance(snapshot.frames["front"][0].data, bytes)
    picture = decode(snapshot.frames["front"][-1], SIZE)
    assert picture.shape == (*SIZE, 3)
    drawn = []
    r.twin.post(lambda: drawn.append(r.twin.cameras.picture("front").astype(float)))
    r.step()
    true = drawn[0]
    assert np.abs(picture - true).mean() < 12
    assert np.abs(picture - true).mean() < 0.5 * np.abs(picture[..., ::-1] - true).mean()  # red is red
    assert snapshot.valid.all()
    assert snapshot.poses.position[-1] == pytest.approx(r.twin.pose.position, abs=1e-3)
    assert snapshot.time == pytest.approx(0.4, abs=1e-5)
    with pytest.raises(InvalidObservation, match="48 x 64, expected 24 x 32"):
        decode(snapshot.frames["front"][-1], (24, 32))


def test_objects_are_part_of_the_observation(rig):
    r = rig(twin={"task": "panda_lift"}, objects="/twin/objects")
    r.step(20)
    snapshot = r.driver.snapshot(steps=2, dt=0.1)
    assert isinstance(snapshot, Snapshot), snapshot
    assert snapshot.objects.shape == (2, len(snapshot.object_names))
    assert snapshot.objects.shape[1] > 0


def test_without_data_there_is_no_observation_and_it_says_why(rig):
    r = rig()
    assert isinstance(r.driver.snapshot(), NoSnapshot)
    r.step(5)
    r.twin.schedule.cancel("fingers")
    r.step(70)
    none = r.driver.snapshot()
    assert isinstance(none, NoSnapshot)
    assert "gripper" in none.why


def test_a_hand_that_is_not_heard_from_holds_the_arm(rig):
    r = rig().running()
    r.driver.submit(r.line(seconds=2.0))
    r.twin.schedule.cancel("fingers")
    took = r.until(State.HOLD, 80)
    assert "gripper: its reading is" in r.why
    assert 0.45 <= took <= 0.56
    with pytest.raises(RequestRefused, match="gripper: its reading"):
        r.driver.resume()


def test_a_human_takes_over_and_gives_back(rig):
    r = rig().moving()
    epoch = r.driver.status().epoch
    r.driver.intervene()
    start = r.driver.status().emitted
    for _ in range(70):
        wish = Setpoint(start.position + np.array((0.0, 0.02, 0.0)), start.quaternion)
        r.driver.teleop(wish)
        assert r.step().state is State.HUMAN
    assert r.driver.status().emitted.position[1] == pytest.approx(start.position[1] + 0.02, abs=2e-3)
    r.driver.release()
    assert r.step().state is State.HOLD
    stale = dataclasses.replace(_chunk(), epoch=epoch)
    assert not r.driver.submit(stale)
    with pytest.raises(RequestRefused, match=r"hold of 0.3 s"):
        r.driver.resume()
    r.step(31)
    r.driver.resume()
    assert r.step().state is State.RUNNING


def test_F25_the_dead_man_is_needed_to_arm_and_to_move(rig):
    r = rig(dead_man=True)
    r.ready()
    r.driver.ask_to_arm("Ada")
    with pytest.raises(RequestRefused, match="arm: operator's dead-man not heard"):
        r.driver.confirm_arming("Ada")

    def step(n):
        for _ in range(n):
            r.driver.heartbeat()
            record = r.step()
        return record

    r.driver.heartbeat()
    r.driver.confirm_arming("Ada")
    assert step(3).state is State.ARMED
    r.driver.start()
    assert r.driver.submit(r.line(seconds=2.0))
    assert step(40).state is State.RUNNING
    assert 0.28 <= r.until(State.HOLD, 40) <= 0.35
    assert "dead-man" in r.why


def test_the_hand_follows_the_plan(rig):
    r = rig().running()
    width = np.full(12, 0.03)
    assert r.driver.submit(r.line((0.0, 0.0, 0.03), gripper=width))
    r.step(120)
    assert r.driver.gripper.counters["grasps"] == 1


def test_homing_from_ready(rig):
    r = rig().ready()
    r.driver.gripper_home()
    for _ in range(30):
        r.runner.advance(100)
        r.step()
    assert r.driver.gripper.counters["succeeded"] == 1


def test_two_runs_in_lock_step_are_equal_bit_for_bit(rig):
    def run():
        r = rig()
        r.moving()
        r.step(60)
        return [m["pose"] for _, m in r.targets], r.driver.status().measured.position

    (first, end), (second, again) = run(), run()
    assert len(first) > 100
    assert first == second
    assert (end == again).all()


def test_a_second_driver_and_a_missing_server_are_one_line(rig):
    r = rig(connect=False)
    r.close_gateway()
    with pytest.raises(LinkDown, match="cannot connect"):
        r.driver.connect()


def test_F40_leaving_waits_for_no_errand_before_the_stop_target(rig, monkeypatch):
    r = rig().moving()
    waited = []
    monkeypatch.setattr(r.driver.errands, "run_due", waited.append)
    r.driver.disconnect()
    assert waited == []
    assert r.driver.record.publish is not None
