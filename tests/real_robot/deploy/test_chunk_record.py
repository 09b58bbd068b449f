"""What a record of chunks says about the steps inside them and across their borders."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.control.loop import TickRecord
from robopolicy.real_robot.control.plan import Merge, Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.deploy.actions import downward
from robopolicy.real_robot.deploy.chunk_record import ChunkRecorder
from robopolicy.real_robot.frames import IDENTITY, Pose
from robopolicy.real_robot.safety.types import SafetyFlag, Setpoint


def waypoints(start, first, n=6, step=0.01):
    places = np.zeros((n, 3))
    places[:, 0] = start + step * np.arange(n)
    return Waypoints(Pose(places, np.tile(downward(0.0), (n, 1))), first + 0.05 * np.arange(n), 0.05, 1)


def record(merge, at, x=None, state=State.RUNNING):
    wish = None if x is None else Setpoint(np.array([x, 0.0, 0.0]), IDENTITY)
    return TickRecord(at, state, 1, None, None, None, merge, (), SafetyFlag.SPEED, wish)


def test_steps_within_chunks_are_told_from_those_across_their_borders():
    r = ChunkRecorder()
    r.submitted(waypoints(0.0, 1.0), True, 0.8)
    r.ticked(None, record(Merge(taken=6), 0.8))
    r.submitted(waypoints(0.033, 1.15), True, 0.95)
    r.ticked(None, record(Merge(taken=5, late=1), 0.955))
    steps = r.actions(latency=0.2)
    # Due at 0.8, 0.85, 0.9, 0.95 before the second came, whose first was late: 0.03 -> 0.043.
    assert steps.inside == pytest.approx([0.01] * (3 + 4))
    assert steps.borders == pytest.approx([0.013])
    assert r.flags == {"speed": 2}


def test_a_chunk_that_the_driver_did_not_take_is_no_border():
    r = ChunkRecorder()
    r.submitted(waypoints(0.0, 1.0), False, 0.8)
    r.ticked(None, record(None, 0.8))
    assert len(r.actions(0.2).inside) == len(r.actions(0.2).borders) == len(r.references(5).inside) == 0


def test_the_references_step_over_a_border_takes_one_period_whenever_the_new_chunk_begins():
    r, merged = ChunkRecorder(), Merge(taken=1)
    places = [0.001 * i for i in range(11)] + [0.010 + 0.003 * i for i in range(1, 11)]
    for tick, x in enumerate(places):
        r.ticked(None, record(merged if tick in (0, 10) else None, 0.01 * tick, x))
    steps = r.references(5)
    # The first chunk follows none; 5 ticks of 3 mm are the border's step, those after it lie inside again.
    assert steps.inside == pytest.approx([0.005, 0.015])
    assert steps.borders == pytest.approx([0.015])


def test_a_hold_between_two_chunks_is_no_step():
    r = ChunkRecorder()
    r.ticked(None, record(Merge(taken=1), 0.0, 0.0))
    for tick in range(1, 6):
        r.ticked(None, record(None, 0.01 * tick, None, State.HOLD))
    assert len(r.references(2).inside) == 0
