"""The row of a tick: what goes in comes out, to the bit."""

from __future__ import annotations

import math
import zlib
from dataclasses import fields

import numpy as np
import pytest

from robopolicy.real_robot.control.loop import Inputs, TickRecord
from robopolicy.real_robot.control.plan import Merge
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.log.format import HEADER, MAGIC, ROW, STATES, Has, header, pack
from robopolicy.real_robot.log.unpack import inputs_of, setpoint_of
from robopolicy.real_robot.safety.types import Emitted, Measured, SafetyFlag, Setpoint
from robopolicy.real_robot.safety.validity import checked_sample

NOTHING = TickRecord(0.1, State.OFF, 0, None, None, None, None, ())


class Texts:
    def __init__(self):
        self.known = []

    def number(self, text):
        if text is None:
            return -1
        if text not in self.known:
            self.known.append(text)
        return self.known.index(text)

    def text(self, number):
        return None if number < 0 else self.known[number]


def measured(rng, **more):
    values = {
        "at": 1.1,
        "position": rng.normal(size=3),
        "quaternion": rng.normal(size=4),
        "twist": rng.normal(size=6),
        "q": rng.normal(size=7),
        "force": rng.normal(size=3),
        "width": 0.1 / 3,
    }
    return Measured(**(values | more))


def setpoint(rng, **more):
    values = {
        "position": rng.normal(size=3),
        "quaternion": rng.normal(size=4),
        "gripper": 0.07,
        "rate": rng.normal(size=6),
        "left": math.inf,
        "turn_left": 0.3,
        "action": Pose(rng.normal(size=3), rng.normal(size=4)),
        "action_number": 2**40,
        "action_steps": 3,
        "epoch": 7,
    }
    return Setpoint(**(values | more))


def through(inputs, record=NOTHING):
    texts = Texts()
    row = np.frombuffer(pack(5, 17, inputs, record, texts.number), ROW)[0]
    return row, inputs_of(row, texts.text), texts


def same(a, b):
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, Pose):
            same(x, y)
        elif isinstance(x, np.ndarray):
            assert np.asarray(x, np.float64).tobytes() == y.tobytes(), f.name
        else:
            assert x == y or (x != x and y != y), f.name


def test_all_that_a_tick_is_given_comes_back_to_the_bit():
    rng = np.random.default_rng(0)
    health = Health(
        link=False,
        preflight=True,
        state_age=math.inf,
        state_rate=99.7,
        loopback_age=math.nan,
        camera_age=0.1,
        operator_age=-0.0,
        late=0.011,
        mode=9,
        errors=("cartesian_reflex", "joint_velocity_violation"),
        clock="clock: +0.2 s",
        starved=0.5,
        policy="hung",
        rivals=2,
        gripper="object lost",
        gripper_fault=True,
        filter_hold="held",
        filter_fault=True,
        guard="the guard has stopped the arm: no lease for 0.15 s",
    )
    given = Inputs(measured(rng), health, 3.3, 4.4, (setpoint(rng), 5.5))
    row, back, _ = through(given)
    same(given.measured, back.measured)
    same(given.health, back.health)
    assert (back.loopback_at, back.operator_at, back.teleop[1]) == (3.3, 4.4, 5.5)
    same(given.teleop[0], back.teleop[0])
    assert (row["index"], row["before"]) == (5, 17)
    assert row["crc"] == zlib.crc32(row.tobytes()[:-4])


def test_errors_without_a_guard_are_the_list_that_they_were():
    row, back, texts = through(Inputs(measured(np.random.default_rng(0)), Health(errors=("joint_reflex",))))
    assert texts.text(int(row["health_text"][0])) == '["joint_reflex"]'
    assert (back.health.errors, back.health.guard) == (("joint_reflex",), None)


def test_what_is_absent_comes_back_absent():
    rng = np.random.default_rng(1)
    given = Inputs(measured(rng, q=np.zeros(0)), Health(), teleop=(setpoint(rng, gripper=None, action=None), 1.0))
    row, back, _ = through(given)
    same(given.health, back.health)
    assert back.loopback_at is None
    assert back.operator_at is None
    assert len(back.measured.q) == 0
    assert back.teleop[0].gripper is None
    assert back.teleop[0].action is None
    assert setpoint_of(row, "wish") is None
    assert Has.EMITTED not in Has(int(row["has"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": np.zeros(2)},
        {"position": np.array((None, 0, 0))},
        {"quaternion": np.array((False, False, False, True))},
        {"q": np.zeros(6)},
        {"twist": [1.0]},
    ],
)
def test_a_state_of_a_wrong_shape_is_as_unbelievable_after_as_before(wrong):
    given = measured(np.random.default_rng(2), **({"quaternion": np.array((0, 0, 0, 1.0))} | wrong))
    assert checked_sample(given) is None
    _, back, _ = through(Inputs(given, Health()))
    assert checked_sample(back.measured) is None


def test_what_the_tick_decided_is_in_the_row():
    rng = np.random.default_rng(3)
    pose, wish = Pose(rng.normal(size=3), rng.normal(size=4)), setpoint(rng)
    emitted = Emitted(pose, 0.04, SafetyFlag.SPEED, "why", True, rng.normal(size=6), 0.2)
    record = TickRecord(
        0.2, State.HOLD, 3, pose, None, emitted, Merge(5, 2, jump=4, slow=1, refused="NaN"), (), emitted.flags, wish
    )
    row, _, texts = through(Inputs(measured(rng), Health()), record)
    assert STATES[row["state"]] is State.HOLD
    assert row["epoch"] == 3
    assert row["emitted_position"].tobytes() == pose.position.tobytes()
    assert row["emitted_quaternion"].tobytes() == pose.quaternion.tobytes()
    assert row["emitted_rate"].tobytes() == emitted.rate.tobytes()
    assert (row["emitted_width"], row["emitted_scale"]) == (0.04, 0.2)
    assert SafetyFlag(int(row["flags"])) is SafetyFlag.SPEED
    assert texts.text(row["hold_text"]) == "why"
    assert texts.text(row["merge_text"]) == "NaN"
    assert row["merge"].tolist() == [5, 2, 4, 1]
    same(wish, setpoint_of(row, "wish"))
    has = Has(int(row["has"]))
    assert Has.PUBLISHED | Has.EMITTED_FAULT | Has.EMITTED_GRIPPER | Has.MERGED in has
    assert Has.GRIPPER_SENT not in has


def test_the_header_tells_version_and_size_of_a_row():
    assert HEADER.unpack(header()) == (MAGIC, 1, ROW.itemsize)
    # A change of the row is a new version: whoever makes one changes both numbers here.
    assert ROW.itemsize == 917
