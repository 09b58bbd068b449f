"""A session: a hand that grasps a cube on the twin, episode after episode, and a dataset that training takes."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.datasets.episode_meta import episode_meta
from robopolicy.datasets.reader import Reader
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.recording.session import record_session
from robopolicy.real_robot.teleop.device import Reading
from robopolicy.real_robot.teleop.scripted import ScriptedDevice
from robopolicy.resources import resource


def session(d, script, **more):
    d.driver.arm()
    said = []
    given = {"task": "lift the cube", "episodes": 2, "limits": d.driver.settings.limits, "say": said.append} | more
    result = record_session(d.driver, ScriptedDevice(script), d.recorder, pace=lambda: d.driver.tick(2), **given)
    return result, said


@pytest.mark.slow
@pytest.mark.render
def test_two_grasps_by_a_scripted_hand_become_a_dataset_that_trains(desk, grasper, tmp_path):
    from robopolicy.cli.main import main

    d = desk(cameras=("front",), task="panda_lift")
    result, said = session(d, grasper(d.driver), seconds=20.0)
    assert (result.episodes, result.successes, result.ended) == (2, 2, "all recorded"), said
    assert d.driver.status().state is not State.HUMAN
    d.recorder.close()
    reader = Reader(d.recorder.root)
    assert len(reader.episodes) == 2
    assert all(m["success"] for m in episode_meta(reader, ["success"]).values())
    states = reader.columns["observation.state"]
    assert states[:, 2].min() < 0.04  # down at the cube
    assert states[:, 4].min() < 0.05 < states[:, 4].max()  # open, then closed on it
    preset, run = str(resource("configs/debug.yaml")), str(tmp_path / "run")
    assert (
        main(["train", preset, "--dataset.path", str(d.recorder.root), "--run_dir", run, "--steps", "5", "--quiet"])
        == 0
    )


def test_the_operator_begins_judges_discards_and_quits(desk):
    d = desk()
    orders = {0.5: "begin", 1.5: "success", 2.0: "begin", 3.0: "discard", 3.5: "begin", 4.5: "failure", 5.0: "quit"}
    start = d.driver.clock.now() + 0.02

    def script(now):
        due = [t for t in orders if t <= now - start]
        commands = tuple(orders.pop(t) for t in due)
        return Reading((0.2, 0.0, 0.0), held=True, commands=commands)

    result, said = session(d, script, episodes=9)
    assert (result.episodes, result.successes, result.discarded, result.ended) == (2, 1, 1, "quit")
    assert d.driver.status().state is State.HOLD
    assert said[0] == "recording episode 1"
    metas = episode_meta(Reader(d.recorder.root), ["outcome"])
    assert [m["outcome"] for m in metas.values()] == ["success", "failure"]


def test_a_lost_device_ends_the_session_with_the_arm_held_and_the_open_episode_gone(desk):
    d = desk()
    start = d.driver.clock.now()

    def script(now):
        if now - start > 1.0:
            return None
        return Reading((0.2, 0.0, 0.0), held=True, commands=("begin",) if now - start < 0.05 else ())

    result, _ = session(d, script)
    assert result.ended == "the script has ended"
    assert result.episodes == 0
    assert d.driver.status().state is State.HOLD
    assert d.recorder.episodes == 0


def test_an_episode_that_takes_too_long_is_a_failure_and_a_fault_is_marked(desk):
    from robopolicy.real_robot.control.watchdogs import Health

    d = desk()
    start = d.driver.clock.now()

    def script(now):
        if now - start > 2.5:
            d.driver.health = Health(errors=("cartesian_reflex",))
        return Reading((0.2, 0.0, 0.0), held=True, commands=() if d.recorder.recording else ("begin",))

    result, _ = session(d, script, seconds=1.0)
    assert result.episodes == 2
    assert result.successes == 0
    metas = episode_meta(Reader(d.recorder.root), ["ended"])
    assert metas[0]["ended"] == "longer than 1 s"
    assert result.marks == ("fault: robot errors: cartesian_reflex",) or metas[1]["ended"] == "longer than 1 s"


class Ending:
    """A recorder whose last frames end the episode by themselves; ``keeps``: whether anything was in it."""

    recording, ended = True, ""

    def __init__(self, keeps):
        self.keeps, self.kept, self.marks = keeps, 3, ["of the session before"]

    def end(self, success, why):
        self.marks.append("frames lost")
        self.kept += self.keeps
        self.recording = False
        return True


@pytest.mark.parametrize("keeps", [True, False])
def test_an_episode_that_its_last_frames_end_counts_once_if_at_all_and_is_no_success(keeps):
    from types import SimpleNamespace

    from robopolicy.real_robot.clock import VirtualClock
    from robopolicy.real_robot.recording.session import _Session

    said = []
    driver = SimpleNamespace(clock=VirtualClock(), status=lambda: SimpleNamespace(state=State.HOLD))
    running = _Session(driver, Ending(keeps), "lift", True, 60.0, said.append)
    assert running.step(Reading(commands=("success",)), {})
    assert not running.step(Reading(), {})
    assert (running.closed, running.successes) == (int(keeps), 0)
    assert said == ["episode ended early: frames lost"]


def test_corrections_of_a_policy_record_whoever_is_in_command(desk):
    d = desk()
    start = d.driver.clock.now()
    asked = []

    def policy():
        status = d.driver.status()
        if status.state is State.RUNNING and (not asked or status.now - asked[-1] > 0.4):
            asked.append(status.now)
            d.recorder.submit(d.line((0.04, 0, 0), 0.8))

    def script(now):
        held = 1.5 < now - start < 2.5
        orders = ("resume",) if 3.0 < now - start < 3.03 else ("success",) if now - start > 4.0 else ()
        return Reading((0.0, 0.0, 1.0), held=held, commands=orders)

    d.driver.arm()
    d.driver.start()
    device = ScriptedDevice(script)
    result = record_session(
        d.driver,
        device,
        d.recorder,
        task="lift",
        episodes=1,
        limits=d.driver.settings.limits,
        pace=lambda: d.driver.tick(2),
        alone=False,
        each=policy,
    )
    assert (result.episodes, result.successes) == (1, 1)
    reader = Reader(d.recorder.root)
    import pyarrow.parquet as pq

    rows = [r for p in sorted(reader.root.glob("data/**/*.parquet")) for r in pq.read_table(p).to_pylist()]
    flags = np.array([r["intervention"] for r in rows])
    chunks = np.array([r["meta.chunk_id"] for r in rows])
    assert 8 <= flags.sum() <= 12
    assert (chunks[flags] == -1).all()
    assert len(set(chunks[~flags].tolist()) - {-1}) >= 3
    after = np.flatnonzero(flags)[-1]
    assert (chunks[after + 5 :] > 0).any()  # the policy went on
