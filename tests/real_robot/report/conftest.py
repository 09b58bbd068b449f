"""A recorded run without a robot: the real loop, filter, plan and log over an arm that lags by 0.3 s."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.loop import Inputs
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.kinematics import PANDA
from robopolicy.real_robot.log.reader import read_log
from robopolicy.real_robot.log.runlog import RunLog
from robopolicy.real_robot.log.settings import LoopSettings
from robopolicy.real_robot.log.tap import Call
from robopolicy.real_robot.motions import Player, Sine
from robopolicy.real_robot.safety.types import Measured

HERE = Pose(np.array((0.45, 0.0, 0.3)), downward(0.0))
LAG = 30  # ticks by which the arm is behind


def drive(folder, seconds=6.0):
    """A log in ``folder``: armed at 0.1 s, a sine from 0.3 s, a hold by the operator from 4 to 4.5 s."""
    clock, settings = VirtualClock(50.0), LoopSettings()
    log, loop = RunLog(folder, settings, clock, {"policy": "sine <b>", "operator": "Ada"}), settings.build()
    player, sent = Player(Sine(HERE, "x", 0.03, 0.3, 15.0)), []
    q = np.array((0.0, -0.3, 0.0, -2.2, 0.0, 1.9, 0.78))
    for _ in range(100):
        q = q + PANDA.step(q, HERE)

    def call(name, **arguments):
        getattr(loop.machine, name)(now=clock.now(), **arguments)
        log.called(Call(name, clock.now(), arguments, None, loop.machine.why))

    for i in range(round(seconds * 100)):
        now = clock.now()
        pose = sent[-LAG] if len(sent) >= LAG else HERE
        q = q + PANDA.step(q, pose)
        measured = Measured(now - 0.005, pose.position, pose.quaternion, q=q, force=np.array((1.0, 0, 2.0)), width=0.08)
        inputs = Inputs(measured, Health(state_age=0.005, operator_age=0.05), operator_at=now)
        if i == 10:
            call("ask_to_arm", operator="Ada")
            call("confirm_arming", operator="Ada")
        for when, name in ((30, "start"), (400, "pause"), (450, "resume")):
            if i == when:
                call(name)
        record = loop.tick(now, inputs)
        log.ticked(inputs, record)
        if record.state.value != "running":
            player.pause(now)
        elif (chunk := player.chunk(now, loop.machine.epoch)) is not None:
            log.submitted(chunk, loop.submit(chunk), now)
        if record.publish is not None:
            sent.append(record.publish)
        clock.advance(0.01)
    log.close("test over")


@pytest.fixture(scope="session")
def log_folder(tmp_path_factory):
    """Folder of a recorded run."""
    folder = tmp_path_factory.mktemp("runs") / "run_1"
    drive(folder)
    return folder


@pytest.fixture(scope="session")
def logged(log_folder):
    """That run as read back."""
    return read_log(log_folder)
