"""Chunks handed over at their lead are in time, in every mode and wherever between two ticks they come."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.specs import ActionSpec, ObservationSpec
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.plan import SLACK, Plan
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.deploy.adapters import make_adapter
from robopolicy.real_robot.deploy.channels import state_feature
from robopolicy.real_robot.deploy.runner import PolicyRunner, Slowness, hand_over
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.sim.arm import ACTION_SPACE
from robopolicy.wrappers.execution import MODES, make_executor

SPEC = ActionSpec(ACTION_SPACE, horizon=17, n_obs_steps=2, n_action_steps=8, dt=0.05)
WANTED = ObservationSpec((state_feature(),))
ARM, FOLLOWS = 0.25, 0.11
PERIODS = (0.01, 0.02)
HERE = Pose(np.array((0.4, 0.0, 0.2)), downward(0.0))


class Ticking:
    """A driver with a real plan, which fetches the newest chunk at every tick and at no other time."""

    def __init__(self, snapshot):
        self.clock, self.plan, self.merges = VirtualClock(), Plan(SafetyLimits(), latency=ARM), []
        self._snapshot, self._mail = snapshot, None
        self.plan.start(HERE, 0.0, 1)

    def status(self):
        return SimpleNamespace(state=State.RUNNING, epoch=1, plan_end=self.plan.end, now=self.clock.now())

    def snapshot(self, steps=1, dt=0.1):
        return dataclasses.replace(self._snapshot, time=self.clock.now())

    def submit(self, chunk):
        self._mail = chunk
        return True

    def tick(self):
        if self._mail is not None:
            self.merges.append((self._mail, self.plan.merge(self._mail, self.clock.now())))
            self._mail = None

    def policy_began(self):
        pass

    policy_answered = policy_began


class Slow:
    """Goes along x at 2 cm/s, dated by what it saw."""

    action_spec = SPEC

    def act(self, obs, noise_keys=None, observed_at=0.0, episodes=None, guide=None):
        times = observed_at + SPEC.dt * (np.arange(17) - 1)
        actions = np.tile(np.array((0.4, 0.0, 0.2, 0.0, 1.0), np.float32), (1, 17, 1))
        actions[0, :, 0] += 0.02 * times
        return ActionChunk.stamped(actions, SPEC, observed_at)


def run(snapshot, mode, period, phase, latency=0.0, arm=ARM, seconds=3.0):
    """Polls, each ``phase`` of a period before a tick."""
    robot = Ticking(snapshot)
    robot.plan.latency = arm
    lead = hand_over(arm, FOLLOWS, period)
    executor = make_executor(mode, SPEC, lead=lead, latency=latency)
    adapter = make_adapter(WANTED, SPEC, follows=FOLLOWS)
    options = {"lead": lead, "usual": latency, "slowness": Slowness(latency)}
    runner = PolicyRunner(robot, Slow(), executor, adapter, **options)
    for _ in range(round(seconds / period)):
        runner.poll()
        robot.clock.advance(phase * period)
        robot.tick()
        robot.clock.advance((1 - phase) * period)
    return robot, executor


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("phase", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("latency", [0.0, 0.12])
def test_sync_executes_every_action_of_every_chunk(snapshot, period, phase, latency):
    robot, _ = run(snapshot, "sync", period, phase, latency)
    assert len(robot.merges) >= 4
    assert {(merge.late, merge.taken) for _, merge in robot.merges} == {(0, 8)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("phase", [0.0, 0.5, 1.0])
def test_no_mode_loses_an_action_at_zero_latency(snapshot, mode, phase):
    """A chunk replaces just what the executor says, from step d on; what it lacks the old chunk has passed by then."""
    robot, executor = run(snapshot, mode, 0.01, phase)
    delay = 0 if mode == "sync" else executor.delay(0.0)
    assert len(robot.merges) >= 4
    for chunk, merge in robot.merges:
        assert merge.late <= delay, (mode, merge)
        assert merge.taken == len(chunk.stamps) - merge.late
    assert robot.merges[0][1].late == 0  # the arm stood: all of the first chunk is executed
    for (old, _), (new, merge) in zip(robot.merges, robot.merges[1:], strict=False):
        assert mode == "sync" or new.stamps[merge.late] <= old.stamps[-1] + SPEC.dt + 1e-9, mode  # no gap in the dates


@pytest.mark.parametrize("mode", MODES)
def test_an_arm_that_needs_no_lead_executes_all_that_it_is_given(snapshot, mode):
    """Its actions are due so late after their dates that all come in time."""
    robot, executor = run(snapshot, mode, 0.01, 1.0, arm=FOLLOWS - SLACK - 0.011)
    assert executor.config.lead == 0
    assert {merge.late for _, merge in robot.merges} == {0}
