"""The log of a whole driver, over a websocket and in lock-step, comes out again bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("websockets", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")
pytest.importorskip("cbor2", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")

from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.deploy.lockstep import LockStep
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.log.reader import read_log
from robopolicy.real_robot.log.replay import replay
from robopolicy.real_robot.log.runlog import RunLog
from robopolicy.real_robot.log.settings import loop_settings
from robopolicy.real_robot.report.series import series_of


def test_a_drivers_log_replays_from_its_connection_to_its_last_tick(tmp_path):
    robot = FrankaBridgeConfig(limits="default", arm_latency=0.15)
    logs = []

    def keep(driver):
        logs.append(RunLog(tmp_path / "log", loop_settings(driver.config), driver.clock, {"seed": 3}))
        driver.tap = logs[0]

    with LockStep("panda_lift", robot=robot) as world, world.episode(3, keep) as episode:
        driver = episode.driver
        start = driver.status().emitted
        track = Pose(start.position + np.linspace(0, 1, 8)[:, None] * (0.04, 0, 0), np.tile(start.quaternion, (8, 1)))
        stamps = driver.clock.now() + 0.3 + 0.1 * np.arange(8)
        assert driver.submit(Waypoints(track, stamps, 0.1, driver.status().epoch, np.full(8, 0.05)))
        episode.tick(48)
        driver.policy_began()
        episode.tick(12)
        driver.policy_answered()
        driver.policy_answered()  # of no question: no latency
        driver.pause("coffee")
        episode.tick(5)
        driver.resume()
        episode.tick(5)
        sent = np.array([r.publish.position for r in episode.records if r.publish is not None])
    logs[0].close()
    run = read_log(tmp_path / "log")
    assert run.whole, run.why
    result = replay(run)
    assert result.identical, result.difference
    assert result.ticks == len(run.rows) > 70
    assert [c.name for c in run.calls()][:3] == ["ask_to_arm", "confirm_arming", "start"]
    assert State.LINKED in run.states()
    published = run.published()[1].position
    assert published[-len(sent) :].tobytes() == sent.tobytes() or any(
        published[i : i + len(sent)].tobytes() == sent.tobytes() for i in range(len(published) - len(sent) + 1)
    )
    assert any(n.name == "preflight" for n in run.notes)
    np.testing.assert_allclose(series_of(run).latency, [0.12], atol=1e-6)
