"""The hand's worker against the twin's hand, over a real socket and in lock-step."""

from __future__ import annotations

import contextlib
import math
import time

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("websockets", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")
pytest.importorskip("cbor2", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")

from robopolicy.core.errors import ConfigError, RequestRefused
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.control.watchdogs import Health, fault_of, hold_of
from robopolicy.real_robot.driver.gripper import GripperWorker
from robopolicy.real_robot.driver.gripper_config import GripperConfig
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import Timeouts
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.runner import running_twin
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.client_config import ClientConfig
from robopolicy.real_robot.wire.gateway_config import GatewayConfig

PATIENT = {"ping_timeout": 20.0, "service_timeout": 20.0, "handshake_timeout": 20.0, "send_deadline": 5.0}


class Rig:
    """A twin in lock-step behind a gateway, a client, and the worker, all ticked by hand."""

    def __init__(self, stack, ros="ros1", task=None, **config):
        twin_config = TwinConfig(task=task, ros=ros, lock_step=True, cameras=(), seed=3)
        self.runner, self.gateway = stack.enter_context(running_twin(twin_config, GatewayConfig(port=0)))
        self.twin, names = self.runner.twin, twin_config.interface()
        self.client = RosbridgeClient(ClientConfig(url=self.gateway.url, **PATIENT)).connect(timeout=30)
        stack.callback(self.client.close)
        self.slot = self.client.subscribe(names.gripper_states, "sensor_msgs/JointState")
        self.worker = GripperWorker(self.client, names, self.twin.clock, GripperConfig(**config))
        self.worker.open()
        self.ticks_taken = []
        self.run(0.1)

    @property
    def now(self):
        return self.twin.clock.now()

    @property
    def width(self):
        sample = self.slot.newest()
        return sum(sample.message["position"]) if sample is not None else None

    def tick(self, wish=None):
        self.runner.advance(10)
        self.client.server_time()  # the socket keeps the order: what was sent before has arrived, both ways
        before = time.perf_counter()
        self.worker.wish(wish)
        self.worker.tick(self.now, self.width)
        self.ticks_taken.append(time.perf_counter() - before)

    def run(self, seconds, wish=None):
        for _ in range(round(seconds * 100)):
            self.tick(wish)

    def until(self, condition, seconds, wish=None):
        """Virtual seconds until it is so."""
        start = self.now
        while not condition():
            assert self.now - start < seconds, (self.worker.problem, self.worker.events)
            self.tick(wish)
        return self.now - start

    def asked(self):
        return [(e.what, round(e.width, 3)) for e in self.worker.events if e.what in ("move", "grasp", "homing")]

    def at_cube(self):
        """Open fingers around the cube, arm at rest."""
        scene = self.twin.scene
        place = np.array((*scene.data.body("cube").xpos, scene._environment_state()[3]))
        with self.twin.lock:
            scene.arm.reset(place)
            self.twin.arm.restart()
            self.twin.hand.restart()


@pytest.fixture
def rig():
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: Rig(stack, *args, **kwargs)


@pytest.mark.parametrize("ros", ["ros1", "ros2"])
def test_widths_become_moves_when_they_are_far_enough_and_long_enough_apart(rig, ros):
    r = rig(ros, expect_object=False)
    r.run(0.3, wish=0.078)
    assert r.asked() == []  # the hand is open already
    r.until(lambda: r.worker.busy, 0.1, wish=0.05)
    took = r.until(lambda: not r.worker.busy, 4, wish=0.05)
    assert 0.25 < took < 1.0  # 29 mm at 0.1 m/s
    r.run(0.2, wish=0.05)  # the width is read ten times a second
    assert r.width == pytest.approx(0.05, abs=1e-3)
    for wish in (0.047, 0.053, 0.0462):
        r.run(0.3, wish=wish)
    assert r.asked() == [("move", 0.05)]  # within 4 mm
    # A ramp of a policy: one goal at a time, never closer than 0.2 s, the newest wish wins, the last one is reached.
    start, sent = r.now, []
    while r.now - start < 1.5:
        r.tick(wish=max(0.05 - 0.1 * (r.now - start), 0.01))
        if not sent or sent[-1] != r.worker._sent:
            sent.append(r.worker._sent)
    assert np.diff(sent[1:]).min() >= 0.2 - 1e-6
    r.until(lambda: not r.worker.busy, 4, wish=0.01)
    r.run(0.3, wish=0.01)
    assert r.width == pytest.approx(0.01, abs=4.5e-3)
    assert r.worker.problem is None
    assert r.worker.counters["moves"] == len(r.asked()) < 8


@pytest.mark.parametrize("ros", ["ros1", "ros2"])
def test_closing_grasps_holds_the_cube_through_a_lift_and_lets_go(rig, ros):
    r = rig(ros, task="panda_lift")
    r.at_cube()
    cube = r.twin.scene.data.body("cube")
    height = cube.xpos[2]
    r.until(lambda: r.worker.holding, 4, wish=0.0)
    assert r.asked() == [("grasp", 0.0)]
    here = r.twin.pose
    for k in range(100):
        r.twin.post(lambda k=k: r.twin.aim(Pose(here.position + np.array((0, 0, 0.0012 * k)), here.quaternion)))
        r.tick(wish=0.01 * (k % 3))  # trembles by 20 mm below the cube's width: it stays gripped
    r.run(1.0, wish=0.0)
    assert cube.xpos[2] - height > 0.08
    assert r.width == pytest.approx(0.04, abs=3e-3)
    assert (r.worker.counters["grasps"], r.worker.problem) == (1, None)
    r.until(lambda: r.worker.busy, 0.5, wish=0.079)
    assert not r.worker.holding
    r.until(lambda: not r.worker.busy, 4, wish=0.079)
    r.run(0.5, wish=0.079)
    assert cube.xpos[2] - height < 0.02
    assert r.asked() == [("grasp", 0.0), ("move", 0.079)]


def test_F30_a_failed_goal_holds_the_arm_and_the_third_failure_is_a_fault(rig):
    r = rig(expect_object=False)
    timeouts = Timeouts()
    r.twin.faults.inject("gripper_fail", 3)
    for tried in range(3):
        r.until(lambda: r.worker.problem is not None, 1.0, wish=0.03)
        h = Health(gripper=r.worker.problem, gripper_fault=r.worker.fault)
        assert hold_of(h, timeouts).startswith("gripper: move to 30 mm: aborted: move: command failed")
        assert (fault_of(h) is not None) == r.worker.fault == (tried == 2)
        sent = r.worker.counters["moves"]
        r.run(0.5, wish=0.06)
        assert r.worker.counters["moves"] == sent == tried + 1  # nothing is tried again by itself
        if tried < 2:
            r.worker.retry()
    with pytest.raises(RequestRefused, match="tried 2 times again"):
        r.worker.retry()
    r.worker.reset()  # a recovery by the operator
    r.until(lambda: r.worker.counters["succeeded"] == 1, 2.0, wish=0.03)
    r.run(0.2)  # the width is read ten times a second
    assert r.width == pytest.approx(0.03, abs=1e-3)
    assert (r.worker.problem, r.worker.fault) == (None, False)


def test_F30_a_retry_that_works_ends_the_hold_and_gives_the_retries_back(rig):
    r = rig(expect_object=False)
    for _ in range(2):
        r.twin.faults.inject("gripper_fail", 2)
        wish = 0.03 if r.width > 0.05 else 0.07
        for _ in range(2):
            r.until(lambda: r.worker.problem is not None, 1.0, wish=wish)
            r.worker.retry()
        done = r.worker.counters["succeeded"]
        r.until(lambda done=done: r.worker.counters["succeeded"] > done, 2.0, wish=wish)
        assert (r.worker.problem, r.worker.fault) == (None, False)


@pytest.mark.parametrize("ros", ["ros1", "ros2"])
def test_F30_a_hand_that_takes_longer_than_4_s_is_stopped(rig, ros):
    r = rig(ros, expect_object=False)
    r.twin.faults.inject("gripper_slow", 20)
    r.until(lambda: r.worker.busy, 0.1, wish=0.0)
    took = r.until(lambda: r.worker.problem is not None, 5.0, wish=0.0)
    assert took == pytest.approx(4.0, abs=0.03)
    assert "not done within 4 s" in r.worker.problem
    r.run(0.2)
    stopped = r.twin.hand.width
    assert 0.03 < stopped < 0.075  # it had begun
    r.run(0.5)
    assert r.twin.hand.width == pytest.approx(stopped, abs=1e-4)


def test_F30_a_goal_that_nobody_accepts_fails_after_half_a_second(rig):
    r = rig(expect_object=False)
    for server in r.twin.face.hand._servers:
        server._on_goal = lambda goal: None
    r.until(lambda: r.worker.busy, 0.1, wish=0.03)
    took = r.until(lambda: r.worker.problem is not None, 1.0, wish=0.03)
    assert took == pytest.approx(0.5, abs=0.03)
    assert "not accepted within 0.5 s" in r.worker.problem


def test_F30_a_rejected_goal_and_a_success_that_was_none_are_failures(rig):
    r = rig(expect_object=False)
    for answer, says in (
        (lambda goal: goal.reject("not now"), "rejected: not now"),
        (lambda goal: goal.succeed({"success": False, "error": "no response"}), "succeeded: no response"),
    ):
        for server in r.twin.face.hand._servers:
            server._on_goal = answer
        r.worker.reset()
        r.until(lambda: r.worker.problem is not None, 1.0, wish=0.03)
        assert says in r.worker.problem


@pytest.mark.parametrize("ros", ["ros1", "ros2"])
def test_F26_what_is_held_when_the_arm_is_stopped_stays_held(rig, ros):
    r = rig(ros, task="panda_lift")
    r.at_cube()
    r.run(0.2)
    r.until(lambda: r.worker.holding, 3.0, wish=0.0)
    r.worker.halt()
    r.run(0.5)
    assert r.twin.hand.grasped
    assert r.worker.holding
    assert r.worker.events[-1].what == "grasp done"  # nothing was asked of the hand since


def test_F30_a_lost_object_is_told_within_a_second_and_gripped_again_when_asked(rig):
    r = rig(task="panda_lift")
    r.at_cube()
    r.until(lambda: r.worker.holding, 4, wish=0.0)
    r.run(0.5, wish=0.0)
    r.twin.faults.inject("gripper_lost")
    took = r.until(lambda: r.worker.problem is not None, 1.0, wish=0.0)
    assert took < 1.0
    assert r.worker.problem == "grasp to 0 mm: the object was lost"
    assert not r.worker.holding
    r.worker.retry()
    r.run(0.3, wish=0.0)
    assert r.worker.counters["grasps"] == 1  # the fingers are closed: the policy opens them when it wants
    r.until(lambda: r.worker.counters["moves"] == 1 and not r.worker.busy, 4.0, wish=0.079)
    r.at_cube()
    r.until(lambda: r.worker.holding, 4.0, wish=0.0)
    assert r.worker.problem is None


def test_F30_an_empty_grasp_is_a_failure_unless_the_policy_is_left_to_mend_it(rig):
    r = rig()
    r.until(lambda: r.worker.problem is not None, 4, wish=0.0)
    assert "aborted: grasp: the fingers stopped at" in r.worker.problem
    r = rig(missed="go_on")
    r.until(lambda: r.worker.counters["missed"] == 1, 4, wish=0.0)
    r.run(0.5, wish=0.0)
    r.until(lambda: not r.worker.busy and r.worker.counters["succeeded"] == 1, 4, wish=0.079)
    assert (r.worker.problem, r.worker.counters["failed"]) == (None, 0)
    assert r.asked() == [("grasp", 0.0), ("move", 0.079)]


def test_F30_what_fails_after_an_empty_grasp_is_not_sent_again_by_itself(rig):
    r = rig()
    r.until(lambda: r.worker.problem is not None, 4, wish=0.0)  # the fingers met nothing: there is no goal to repeat
    r.worker.retry()
    for server in r.twin.face.hand._servers:
        server._on_goal = lambda goal: goal.reject("not now")
    r.until(lambda: r.worker.problem is not None, 2.0, wish=0.079)
    asked = r.asked()
    r.run(0.3)
    assert r.asked() == asked == [("grasp", 0.0), ("move", 0.079)]
    assert "rejected: not now" in r.worker.problem


def test_F30_a_link_lost_while_the_fingers_move_is_a_failure(rig):
    for ros in ("ros1", "ros2"):
        r = rig(ros, expect_object=False)
        r.until(lambda r=r: r.worker.busy, 0.1, wish=0.0)
        r.gateway.drop_clients()
        assert r.client.wait_down(20)
        r.worker.tick(r.now, 0.07)
        assert "lost" in r.worker.problem or "closed" in r.worker.problem
        assert not r.worker.busy
        assert r.client.wait_up(20, after_epoch=1)
        sent = r.worker.counters["moves"]
        r.run(0.3, wish=0.05)
        assert r.worker.counters["moves"] == sent  # an operator decides


def test_F31_widths_out_of_range_are_clamped_and_counted_and_nan_ignored(rig):
    r = rig(expect_object=False)
    r.until(lambda: r.worker.counters["succeeded"] == 1, 3, wish=-0.3)
    assert r.asked() == [("move", 0.0)]
    r.until(lambda: r.worker.counters["succeeded"] == 2, 3, wish=1.0)
    assert r.asked() == [("move", 0.0), ("move", 0.079)]
    assert r.width <= 0.08
    clamped = r.worker.counters["clamped"]
    assert clamped > 10
    for bad in (math.nan, math.inf, -math.inf):
        r.run(0.1, wish=bad)
    assert r.worker.counters["not_finite"] == 30
    assert r.worker.counters["clamped"] == clamped
    assert len(r.asked()) == 2


def test_homing_is_for_ready_only(rig):
    r = rig()
    for state in set(State) - {State.READY}:
        with pytest.raises(RequestRefused, match=f"not in state {state.value}"):
            r.worker.home(state)
    r.worker.home(State.READY)
    with pytest.raises(RequestRefused, match="a homing is under way"):
        r.worker.home(State.READY)
    took = r.until(lambda: not r.worker.busy, 15)
    assert took > 1.5  # 80 mm and back at 0.1 m/s
    assert r.worker.counters["succeeded"] == 1
    assert r.worker.problem is None


def test_a_wish_of_before_a_hold_is_not_begun_after_it(rig):
    r = rig(expect_object=False)
    r.until(lambda: r.worker.busy, 0.1, wish=0.03)
    r.run(0.1, wish=0.06)
    r.until(lambda: not r.worker.busy, 4)  # the arm holds: no wishes come
    r.run(0.5)
    assert r.asked() == [("move", 0.03)]


def test_F30_the_worker_never_waits(rig):
    r = rig(expect_object=False)
    r.twin.faults.inject("gripper_slow", 20)
    r.ticks_taken.clear()
    r.run(4.5, wish=0.0)
    # Over a goal, its time-out, its cancelling: never more than a fraction of a control tick in the median.
    assert np.median(r.ticks_taken) < 2e-3


def test_without_an_object_expected_pre_shaping_is_a_move(rig):
    r = rig()
    r.until(lambda: r.worker.counters["moves"] == 1, 1, wish=0.071)
    assert r.worker.counters["grasps"] == 0
    for bad in ({"threshold": 0.0}, {"retries": 3}, {"grasp_below": 0.09}, {"interval": 0.0}):
        with pytest.raises(ConfigError, match="gripper"):
            GripperConfig(**bad)
