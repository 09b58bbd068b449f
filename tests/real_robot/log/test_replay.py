"""A logged run comes out again bit for bit; a run with one bit changed does not."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib

import numpy as np
import pytest

from robopolicy.core.errors import DatasetError, RequestRefused
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.log.format import ROW, Has
from robopolicy.real_robot.log.reader import read_log
from robopolicy.real_robot.log.replay import replay
from robopolicy.real_robot.log.settings import LoopSettings


@pytest.fixture(scope="module")
def told(rig_class, tmp_path_factory):
    """A run with everything in it that a log must keep."""
    answers = ["no answer from /franka_control/error_recovery"]

    def recovery():
        if answers:
            raise RuntimeError(answers.pop())

    r = rig_class(tmp_path_factory.mktemp("run") / "log", recovery=recovery)
    r.call("start")
    assert r.submit(r.line((0.03, 0, 0), chunk=1))
    r.tick(40)
    assert r.submit(r.line((0.0, 0.03, 0), chunk=2))
    r.tick(30)
    broken = r.line((0, 0, 0.01), chunk=3)
    r.submit(dataclasses.replace(broken, stamps=np.full(8, np.nan)))
    r.tick(5)
    r.call("intervene")
    r.tick(25, wish=r.here((0.02, 0, 0.01)))
    r.call("release")
    r.tick(5)
    with pytest.raises(RequestRefused, match="hold"):
        r.call("resume")
    r.tick(30)
    r.call("resume")
    assert not r.submit(broken)  # of an earlier epoch
    r.tick(2, dt=0.025)
    r.tick(10, dt=0.003)
    r.submit(dataclasses.replace(r.line((0.02, 0, 0)), dt=np.float32(0.1)))
    r.tick(40)
    r.call("pause", why="coffee")
    r.tick(3)
    r.call("resume")
    r.health = Health(errors=("joint_reflex", "power_limit_violation"))
    r.loop.look(r.clock.now(), r.health)
    r.tick(3)
    r.health = Health()
    r.call("recover", operator="Ada")
    r.tick(2)
    assert "no answer" in r.machine.why
    r.call("recover", operator="Ada")
    r.tick(3)
    assert r.machine.state is State.READY
    r.call("ask_to_arm", operator="Eve")
    r.call("confirm_arming", operator="Eve")
    r.tick(2)
    r.call("start")
    r.submit(r.line((0, -0.03, 0)))
    r.tick(20)
    r.call("estop")
    r.tick(2)
    r.log.noted("preflight", r.clock.now(), green=True)
    r.log.close("done")
    r.twin.close()
    return r


def test_replay_emits_the_same_setpoints_bit_for_bit(told):
    r = told
    assert r.log.ended == ""
    run = read_log(r.log.folder)
    assert (run.whole, run.why) == (True, "done")
    assert len(run.rows) == len(r.records)
    result = replay(r.log.folder)
    assert result.identical, result.difference
    assert result.ticks == len(r.records)
    sent = [x for x in r.records if x.publish is not None]
    assert result.setpoints == len(sent) > 150
    times, poses = run.published()
    assert poses.position.tobytes() == np.array([x.publish.position for x in sent]).tobytes()
    assert poses.quaternion.tobytes() == np.array([x.publish.quaternion for x in sent]).tobytes()
    assert times.tolist() == [x.at for x in sent]


def test_the_log_tells_what_happened(told):
    r = told
    run = read_log(r.log.folder)
    assert run.states() == [x.state for x in r.records]
    assert set(run.states()) >= {State.RUNNING, State.HUMAN, State.HOLD, State.FAULT, State.READY, State.ESTOP}
    assert [c.name for c in run.calls()][:4] == ["ask_to_arm", "confirm_arming", "start", "intervene"]
    refused = next(c for c in run.calls() if c.refused)
    assert refused.name == "resume"
    assert "wait" in refused.refused
    assert [s.taken for s in run.chunks()] == [True, True, True, False, True, True]
    assert [s.chunk.chunk for s in run.chunks()][:3] == [1, 2, 3]
    merged = run.rows[(run.rows["has"] & Has.MERGED) > 0]
    assert run.text(int(merged[2]["merge_text"])).startswith("chunk: a number in it is not finite")
    faults = [n for n in run.notes if n.name == "change" and n.facts["to"] == "fault"]
    assert faults == []  # it was a look between ticks that found the errors
    assert [n.facts for n in run.notes if n.name == "preflight"] == [{"green": True}]
    assert run.facts == {"operator": "Ada"}
    assert run.wall(run.rows["at"][0]) == pytest.approx(1_700_000_000.01)


@pytest.mark.parametrize("field", ["measured_position", "loopback_at", "teleop_position", "health_count", "at"])
def test_one_changed_input_is_found(told, field):
    r = told
    run = read_log(r.log.folder)
    rows = run.rows.copy()
    humans = np.flatnonzero([s is State.HUMAN for s in run.states()])
    k = int(humans[3])
    flat = rows[field].reshape(len(rows), -1)
    flat[k, 0] = {"health_count": 3, "loopback_at": 0.0, "measured_position": 0.2}.get(field, flat[k, 0] + 5e-3)
    body = rows[k].tobytes()[:-4]
    rows["crc"][k] = zlib.crc32(body)
    # The row with the changed input, or one after it, is decided otherwise.
    difference = replay(dataclasses.replace(run, rows=rows)).difference
    assert difference.tick >= k
    assert difference.field in ("has", "state", "flags", "wish_position", "emitted_position")


def test_other_limits_show_where_the_run_would_have_gone_another_way(told):
    r = told
    slow = LoopSettings(limits=SafetyLimits(speed=0.02))
    result = replay(r.log.folder, slow)
    assert not result.identical
    # A slower plan: its target at the tick of the first chunk is another one.
    assert result.difference.field == "wish_rate"
    assert result.difference.tick == 5


def test_a_call_that_ends_otherwise_is_a_difference(told, tmp_path):
    folder = shutil.copytree(told.log.folder, tmp_path / "log")
    path = folder / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in lines:
        if entry.get("call") == "release":
            entry["call"] = "resume"
    path.write_text("".join(json.dumps(e) + "\n" for e in lines))
    difference = replay(folder).difference
    assert difference.field == "resume"
    assert "not in state human" in difference.replayed


def test_settings_come_back_as_they_were():
    given = LoopSettings(limits=SafetyLimits.first_run(), latency=0.1 / 3, gripper_latency=0.07)
    back = LoopSettings.from_plain(json.loads(json.dumps(given.plain())))
    assert back.plain() == given.plain()
    assert back.limits == given.limits
    assert back.kinematics.tool.tobytes() == given.kinematics.tool.tobytes()
    assert back.build().plan.latency == 0.1 / 3


def test_what_is_no_log_is_refused_in_one_line(tmp_path, rig):
    with pytest.raises(DatasetError, match="cannot be read"):
        read_log(tmp_path)
    r = rig()
    r.log.close()
    path = r.log.folder / "run.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(DatasetError, match="version 1, found robopolicy-run-log version 2"):
        read_log(r.log.folder)


def test_every_field_of_a_tick_is_in_the_row():
    # Whoever gives the loop something new adds it to the row (and to this list), or a replay would not have it.
    from robopolicy.real_robot.control.loop import Inputs, TickRecord
    from robopolicy.real_robot.control.plan import Merge
    from robopolicy.real_robot.safety.types import Emitted, Measured, Setpoint

    counts = {Inputs: 5, TickRecord: 10, Health: 19, Measured: 7, Setpoint: 10, Emitted: 7, Merge: 7}
    assert {c: len(dataclasses.fields(c)) for c in counts} == counts
    assert ROW.names[-1] == "crc"
