"""Who asks the policy when, what the driver is told, and what an injected latency does."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import InvalidChunk
from robopolicy.core.specs import ActionSpec, ObservationSpec
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.observations import NoSnapshot
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.deploy.adapters import make_adapter
from robopolicy.real_robot.deploy.channels import state_feature
from robopolicy.real_robot.deploy.runner import PolicyRunner, Slowness, hand_over
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.sim.arm import ACTION_SPACE

SPEC = ActionSpec(ACTION_SPACE, horizon=17, n_obs_steps=2, n_action_steps=8, dt=0.05)
WANTED = ObservationSpec((state_feature(),))


class Robot:
    """A driver that notes what it is told; time moves by hand."""

    def __init__(self, snapshot):
        self.clock, self.state, self.epoch, self.plan_end = VirtualClock(), State.RUNNING, 1, None
        self._snapshot, self.blind, self.told, self.chunks = snapshot, "", [], []

    def status(self):
        return SimpleNamespace(state=self.state, epoch=self.epoch, plan_end=self.plan_end, now=self.clock.now())

    def snapshot(self, steps=1, dt=0.1):
        assert (steps, dt) == (2, 0.05)
        return NoSnapshot(self.blind) if self.blind else dataclasses.replace(self._snapshot, time=self.clock.now())

    def submit(self, chunk):
        self.chunks.append((self.clock.now(), chunk))
        taken = self.state is State.RUNNING and chunk.epoch == self.epoch
        if taken and chunk.problem() is None:
            self.plan_end = float(chunk.stamps[-1]) - 0.2
        return taken

    def policy_began(self):
        self.told.append("began")

    def policy_answered(self):
        self.told.append("answered")

    def policy_failed(self, why):
        self.told.append(why)


class Straight:
    """Says where it is asked; remembers how it was asked."""

    action_spec = SPEC

    def __init__(self):
        self.asked, self.fails = [], None

    def act(self, obs, noise_keys=None, observed_at=0.0, episodes=None, **guide):
        self.asked.append((observed_at, noise_keys, guide))
        if self.fails is not None:
            raise self.fails
        actions = np.tile(np.array((0.4, 0.0, 0.2, 0.0, 1.0), np.float32), (1, 17, 1))
        return ActionChunk.stamped(actions, SPEC, observed_at, {"energy": np.array((1.5,))})


class Every:
    """Asks every ``period`` seconds, and whenever nothing is planned."""

    guides = False

    def __init__(self, period=0.4, guides=False):
        self.period, self.resets, self.last, self.guides, self.latencies = period, 0, None, guides, []

    def wants(self, now, plan_end, latency):
        self.latencies.append(latency)
        return self.last is None or now >= self.last + self.period - 1e-9

    def guide(self, t_ref):
        return "what is left"

    def took(self, chunk, began, ended):
        self.last = began
        return chunk

    def reset(self):
        self.resets, self.last = self.resets + 1, None


def rig(snapshot, executor=None, **options):
    robot, policy = Robot(snapshot), Straight()
    executor = executor or Every()
    runner = PolicyRunner(robot, policy, executor, make_adapter(WANTED, SPEC), **options)
    return robot, policy, executor, runner


def go(robot, runner, seconds):
    for _ in range(round(seconds / 0.01)):
        runner.poll()
        robot.clock.advance(0.01)


def test_a_quick_policy_is_asked_and_answers_within_one_look(snapshot):
    robot, policy, _, runner = rig(snapshot, seed=4)
    go(robot, runner, 1.0)
    assert [t for t, _ in robot.chunks] == pytest.approx((0.0, 0.4, 0.8))
    assert robot.told == ["began", "answered"] * 3
    assert [keys for _, keys, _ in policy.asked] == [[(4, 1)], [(4, 2)], [(4, 3)]]  # noise of its own, by seed
    assert [c.chunk for _, c in robot.chunks] == [1, 2, 3]
    assert runner.answers[0].info == {"energy": 1.5}


def test_an_injected_latency_passes_on_the_drivers_clock(snapshot):
    robot, _, executor, runner = rig(snapshot, slowness=Slowness(0.2), usual=0.2)
    go(robot, runner, 1.0)
    assert [t for t, _ in robot.chunks] == pytest.approx((0.2, 0.6), abs=0.011)
    assert executor.latencies[0] == 0.2
    assert runner.usual == pytest.approx(0.2, abs=0.011)  # what was measured counts once there is any
    jittery = [rig(snapshot, slowness=Slowness(0.1, 0.1), seed=s) for s in (1, 1, 2)]
    for r, _, _, run in jittery:
        go(r, run, 2.0)
    lasted = [[a.ended - a.began for a in run.answers] for _, _, _, run in jittery]
    assert lasted[0] == lasted[1] != lasted[2]
    assert all(0.1 <= d <= 0.211 for d in lasted[0])


def test_the_first_chunk_of_an_arm_that_stands_begins_when_it_is_there(snapshot):
    """Else its first steps would be late, dropped, and what is left a jump away."""
    robot, _, _, runner = rig(snapshot, slowness=Slowness(0.2), lead=0.15)
    go(robot, runner, 0.7)
    (at, first), (later, second) = robot.chunks
    assert first.stamps[0] == pytest.approx(at + 0.15)
    # The next was asked for while the arm moved: its dates are those of what was seen.
    assert second.stamps[0] == pytest.approx(runner.answers[1].seen)
    assert second.stamps[0] == pytest.approx(later - 0.2, abs=0.011)


def test_an_arm_that_stands_is_given_time_for_the_way_to_the_first_action(snapshot):
    limits = SafetyLimits()
    robot, _, _, runner = rig(snapshot, lead=0.15, limits=limits)
    go(robot, runner, 0.1)
    # From (0.41, 0, 0.19) with yaw 0.2 to (0.4, 0, 0.2) with yaw 0: the turn takes longer.
    assert robot.chunks[0][1].stamps[0] == pytest.approx(0.15 + 0.2 / limits.turn_speed, abs=5e-3)


def test_a_guide_is_passed_on_to_executors_that_have_one(snapshot):
    for guides, told in ((False, {}), (True, {"guide": "what is left"})):
        robot, policy, _, runner = rig(snapshot, Every(guides=guides))
        go(robot, runner, 0.1)
        assert policy.asked[0][2] == told


def test_nothing_is_asked_without_an_observation_or_a_run(snapshot):
    robot, policy, _, runner = rig(snapshot)
    robot.blind = "no robot state yet"
    go(robot, runner, 0.1)
    assert policy.asked == []
    assert runner.counters["blind"] == 10
    assert runner.why_blind == "no robot state yet"
    robot.blind, robot.state = "", State.HOLD
    go(robot, runner, 0.1)
    assert policy.asked == []


def test_an_answer_to_an_older_run_is_thrown_away(snapshot):
    robot, _, executor, runner = rig(snapshot, slowness=Slowness(0.2))
    go(robot, runner, 0.1)
    resets = executor.resets
    robot.state, robot.epoch = State.HOLD, 2
    go(robot, runner, 0.3)
    assert robot.chunks == []
    assert robot.told == ["began", "answered"]  # no call is left open: the watchdog must not wait for it
    robot.state = State.RUNNING
    go(robot, runner, 0.25)
    assert [c.epoch for _, c in robot.chunks] == [2]
    assert executor.resets > resets


def test_F09_a_chunk_that_is_not_finite_reaches_the_driver_as_one_to_refuse(snapshot):
    robot, policy, _, runner = rig(snapshot)
    policy.fails = InvalidChunk("chunk actions are not finite")
    runner.poll()
    ((_, sent),) = robot.chunks
    assert sent.problem() is not None
    assert runner.counters["refused"] == 1
    assert robot.told == ["began", "answered"]


def test_F22_a_policy_that_raises_is_a_fault_and_no_silence(snapshot):
    robot, policy, _, runner = rig(snapshot)
    policy.fails = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        runner.poll()
    assert robot.told == ["began", "the policy raised RuntimeError: out of memory"]


def test_run_ends_by_itself_or_when_asked(snapshot):
    robot, _, _, runner = rig(snapshot)
    runner.run(seconds=0.5, pause=lambda s: robot.clock.advance(0.01))
    assert robot.clock.now() == pytest.approx(0.5, abs=0.02)
    runner.run(until=lambda status: status.now > 0.8, pause=lambda s: robot.clock.advance(0.01))
    assert robot.clock.now() == pytest.approx(0.81, abs=0.02)


def test_how_early_an_action_must_be_handed_over():
    # The plan's slack of 10 ms, and one control period.
    assert hand_over(arm_latency=0.25, follows=0.11, period=0.01) == pytest.approx(0.16, abs=2e-6)
    assert hand_over(arm_latency=0.25, follows=0.11, period=0.02) == pytest.approx(0.17, abs=2e-6)
    assert hand_over(arm_latency=0.0, follows=0.3, period=0.01) == 0.0
