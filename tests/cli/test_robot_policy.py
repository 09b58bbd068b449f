"""A policy as the performer of a session: on the twin in lock-step, with the real loop, recorded as a dataset."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mujoco")

import robopolicy.api
from robopolicy.cli import _robot_policy
from robopolicy.cli._robot_policy import PolicyPerformer
from robopolicy.cli._robot_session import Session
from robopolicy.cli.main import make_parser
from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import ConfigError, RobopolicyError
from robopolicy.core.specs import ActionSpec, ObservationSpec
from robopolicy.datasets.reader import Reader
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.deploy.channels import PANDA_STATE, state_feature
from robopolicy.real_robot.driver.config import bridge_config
from robopolicy.real_robot.driver.contract import Report
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.sim.arm import ACTION_SPACE
from robopolicy.testing.driver import plain_board
from robopolicy.testing.twin_driver import TwinDriver


class Sideways:
    """Goes 3 mm along y with every action, from where the tool is; the hand stays open."""

    observation_spec = ObservationSpec((state_feature(PANDA_STATE),))
    action_spec = ActionSpec(ACTION_SPACE, 16, 1, 8, 0.1)

    def __init__(self):
        self.asked = []

    def act(self, obs, noise_keys=None, observed_at=0.0, episodes=None):
        self.asked.append((observed_at, noise_keys))
        x, y, z, yaw, _ = obs["observation.state"][0, -1]
        steps = np.arange(1, 17)
        actions = np.stack([np.full(16, x), y + 0.003 * steps, np.full(16, z), np.full(16, yaw), np.ones(16)], -1)
        stamps = observed_at + 0.1 * np.arange(16)
        return ActionChunk(actions[None].astype(np.float32), stamps[None], self.action_spec, {})


@pytest.fixture
def performer(monkeypatch):
    """A performer of ``Sideways`` for a driver, with words of the command line."""
    policy = Sideways()
    monkeypatch.setattr(robopolicy.api, "find_policy", lambda path: path)
    monkeypatch.setattr(robopolicy.api, "load", lambda path, device="cpu": policy)

    def make(driver, *words, episode=0):
        args = make_parser("robot")[0].parse_args(["run", "--policy", "runs/x", "--task", "go", *words])
        made = PolicyPerformer(args, bridge_config("twin", cameras={}, anchor=None), driver, episode)
        made.threaded = False
        return made, policy

    return make


def driver_on_twin():
    driver = TwinDriver(TwinConfig(lock_step=True, cameras=()))
    driver.arm()
    return driver


def test_a_policy_is_warmed_up_asked_and_recorded(performer, tmp_path):
    driver = driver_on_twin()
    made, policy = performer(driver, "--seed", "7", episode=2)
    made.record(tmp_path / "dataset", {"operator": "Ada"})
    assert Report(tuple(made.prepare())).green
    assert len(policy.asked) == _robot_policy.WARM_UP
    assert not driver.tapped.loop.counters.stale  # nothing of the warm-up was submitted
    start = driver.status().measured.position
    driver.start()
    session = Session(driver, made, plain_board()[0], "Ada", False, 3.0, sleep=lambda s: driver.tick(2))
    assert session.run() == 0, session.why
    made.close()
    assert driver.machine.state is State.HOLD
    moved = driver.status().measured.position - start
    assert moved[1] > 0.02
    assert np.abs(moved[[0, 2]]).max() < 0.02  # it aims at where the arm, sagging, is
    assert made.lines()["chunks submitted"] == str(made.runner.counters["submitted"])
    assert made.runner.counters["submitted"] >= 3
    assert policy.asked[-1][1][0][0] == 9  # seed and episode
    reader = Reader(tmp_path / "dataset")
    assert len(reader.episodes) == 1
    assert 20 <= reader.episodes[0].length <= 31
    assert reader.task_of(0) == "go"


def test_with_real_time_chunking_the_warm_up_continues_chunks_as_the_run_will(performer, monkeypatch):
    import robopolicy.wrappers.execution.policy as wrapping

    guides = []

    class Guided(Sideways):
        def act(self, obs, guide=None, **more):
            guides.append(guide)
            return super().act(obs, **more)

    monkeypatch.setattr(wrapping, "real_time", lambda policy: Guided())
    made, _ = performer(driver_on_twin(), "--execution", "rtc", "--steps", "6")
    assert Report(tuple(made.prepare())).green
    assert guides[0] is None
    assert all((guide.weights == 1).all() for guide in guides[1:])
    assert len(guides) == _robot_policy.WARM_UP


def test_a_memory_of_another_stride_is_refused(performer):
    made, policy = performer(driver_on_twin(), "--execution", "receding")
    policy.needs = SimpleNamespace(chain_stride=3)
    with pytest.raises(ConfigError, match="asks every 8 steps; choose mode and steps so that it asks every 3"):
        made.prepare()


def test_a_policy_that_answers_too_late_is_found_before_arming(performer):
    driver = driver_on_twin()
    made, _ = performer(driver, "--inject-latency", "1.4")
    with pytest.raises(ConfigError, match=r"async: an answer takes d = \d+ steps.*make the policy faster"):
        made.prepare()


def test_a_slow_policy_may_hand_over_more_of_a_chunk(performer):
    slow = ("--inject-latency", "0.9")
    with pytest.raises(ConfigError, match="raise reach"):
        performer(driver_on_twin(), *slow)[0].prepare()
    made, _ = performer(driver_on_twin(), *slow, "--reach", "15")
    made.prepare()
    assert (made.runner.executor.steps, made.runner.executor.reach) == (8, 15)


def test_without_an_observation_it_says_why(performer, monkeypatch):
    driver = driver_on_twin()
    made, _ = performer(driver)
    from robopolicy.real_robot.control.observations import NoSnapshot

    monkeypatch.setattr(driver, "snapshot", lambda *a: driver.clock.advance(1.0) or NoSnapshot("robot state 0.3 s old"))
    with pytest.raises(ConfigError, match=r"no observation for the policy: robot state 0\.3 s old"):
        made.prepare()


def test_a_policy_that_raises_is_a_fault_and_ends_the_session(performer, monkeypatch):
    driver = driver_on_twin()
    made, policy = performer(driver)
    made.prepare()
    driver.start()
    monkeypatch.setattr(policy, "act", lambda *a, **k: 1 / 0)
    session = Session(driver, made, plain_board()[0], "Ada", False, sleep=lambda s: driver.tick(2))
    with pytest.raises((ZeroDivisionError, RobopolicyError)):
        session.run()
    driver.tick(2)
    assert driver.machine.state is State.FAULT
    assert "ZeroDivisionError" in driver.machine.why
    assert replace(driver.status()).state is State.FAULT
