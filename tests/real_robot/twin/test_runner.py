"""Twin, gateway and client together over a real socket: real time, lock-step, faults, the command line."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from robopolicy.cli.main import main
from robopolicy.core.errors import ServiceFailed
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.runner import MOST_LAG, TwinRunner, running_twin
from robopolicy.real_robot.twin.twin import Twin

pytest.importorskip("websockets")
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.client_config import ClientConfig
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.messages import header

STATE = "/franka_state_controller/franka_states"
COMMAND = "/cartesian_impedance_example_controller/equilibrium_pose"
ANY_PORT = GatewayConfig(port=0)


def wait_until(holds, seconds=10.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.01)


def test_lock_step_through_the_wire_moves_the_arm_and_nothing_else_does():
    with (
        running_twin(TwinConfig(lock_step=True, cameras=()), ANY_PORT) as (runner, gateway),
        RosbridgeClient(ClientConfig(url=gateway.url)).connect() as client,
    ):
        states = client.subscribe(STATE, "franka_msgs/FrankaState")
        client.advertise(COMMAND, "geometry_msgs/PoseStamped")
        start = runner.twin.pose
        x, y, z = start.position.tolist()
        pose = {
            "position": {"x": x + 0.05, "y": y, "z": z},
            "orientation": dict(zip("xyzw", start.quaternion.tolist(), strict=True)),
        }

        def heard():
            """Publishing is one way: repeat until the controller has it."""
            client.publish(COMMAND, {"header": header(1.0, "panda_link0", "ros1"), "pose": pose})
            client.call_service("/twin/step", "robopolicy_msgs/Step", {"ticks": 1})
            return runner.twin.arm.target.position[0] > x + 0.04

        wait_until(heard)
        before = runner.twin.ticks
        answer = client.call_service("/twin/step", "robopolicy_msgs/Step", {"ticks": 1000}, timeout=60.0)
        assert answer["success"]
        assert runner.twin.ticks == before + 1000
        np.testing.assert_allclose(runner.twin.pose.position[0], x + 0.05, atol=6e-3)
        wait_until(lambda: states.newest() is not None)
        assert not runner.error
        time.sleep(0.05)
        assert runner.twin.ticks == before + 1000


def test_real_time_keeps_pace_and_gives_up_lag_instead_of_running_behind():
    twin = Twin(TwinConfig(cameras=()), clock=VirtualClock())
    with TwinRunner(twin) as runner:
        clock = twin.clock.base
        for _ in range(5):
            clock.advance(0.1)
            wait_until(lambda: twin.ticks == round(clock.now() * 1000))
        assert runner.lost == 0
        clock.advance(30.0)  # the machine was suspended
        wait_until(lambda: runner.lost > 0)
        wait_until(lambda: twin.ticks + runner.lost >= 30_490)
        assert twin.ticks < 1000 + MOST_LAG
    assert not runner.error


def test_a_twin_that_breaks_says_so_to_whoever_waits():
    twin = Twin(TwinConfig(lock_step=True, cameras=()))
    twin.schedule.every("broken", 1000, lambda: 1 / 0)
    with TwinRunner(twin) as runner, pytest.raises(ZeroDivisionError):
        runner.advance(5)
    assert "ZeroDivisionError" in runner.error


def test_command_line_asks_a_running_twin(capsys):
    with running_twin(TwinConfig(cameras=()), ANY_PORT) as (runner, gateway):
        assert main(["twin", "status", "--url", gateway.url]) == 0
        assert json.loads(capsys.readouterr().out)["mode"] == "move"
        assert main(["twin", "fault", "user_stop", "--url", gateway.url]) == 0
        wait_until(lambda: runner.twin.arm.mode == 5)
        assert main(["twin", "recover", "--url", gateway.url]) == 2
        assert "pressed" in capsys.readouterr().err
        assert main(["twin", "clear", "--url", gateway.url]) == 0
        assert main(["twin", "recover", "--url", gateway.url]) == 0
        wait_until(lambda: runner.twin.arm.mode == 2)
        assert main(["twin", "reset", "5", "--url", gateway.url]) == 0
        assert main(["twin", "fault", "user_stopp", "--url", gateway.url]) == 2
        assert "did you mean 'user_stop'" in capsys.readouterr().err
        assert main(["twin", "reset", "five", "--url", gateway.url]) == 2


def test_drop_link_cuts_the_client_until_it_is_over():
    with (
        running_twin(TwinConfig(cameras=()), ANY_PORT) as (_, gateway),
        RosbridgeClient(ClientConfig(url=gateway.url)).connect() as client,
    ):
        epoch = client.epoch
        assert main(["twin", "fault", "--drop-link", "1", "--url", gateway.url]) == 0
        assert client.wait_down(5.0)
        assert client.wait_up(15.0, after_epoch=epoch)


def test_command_line_lists_the_faults_and_a_missing_twin_is_one_line(capsys):
    assert main(["twin", "fault"]) == 0
    listed = capsys.readouterr().out
    assert "user_stop" in listed
    assert "camera_freeze" in listed
    assert main(["twin", "status", "--url", "ws://127.0.0.1:9"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_step_is_refused_where_time_runs_by_itself():
    twin = Twin(TwinConfig(cameras=()), clock=VirtualClock())
    from robopolicy.real_robot.wire.bus import Bus

    bus = Bus("ros1", twin.clock)
    twin.bind(bus)
    answer = bus.call("/twin/step", {"ticks": 10})
    assert not answer["success"]
    assert "--lock-step" in answer["message"]
    twin.close()
    with pytest.raises(ServiceFailed):
        bus.call("/twin/steps", {})
