"""Frames on their grid, with the right action, the right times, and the right end."""

from __future__ import annotations

import json

import numpy as np
import pytest

from robopolicy.core.errors import DatasetError, RequestRefused
from robopolicy.datasets.episode_meta import episode_meta
from robopolicy.datasets.reader import Reader
from robopolicy.real_robot.control.plan import ARM_LATENCY
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.recording.features import EMITTED_NAMES, demonstration_features
from robopolicy.real_robot.recording.recorder import Recorder
from robopolicy.real_robot.recording.spool import sidecar_path
from robopolicy.real_robot.recording.timeline import Timeline
from robopolicy.real_robot.safety.types import SafetyFlag
from robopolicy.real_robot.teleop.device import Reading
from robopolicy.real_robot.teleop.jog import Jog
from robopolicy.real_robot.teleop.operator import Teleoperator
from robopolicy.real_robot.teleop.scripted import ScriptedDevice

COLUMNS = {
    *("action.time", "action.emitted", "meta.safety_flags", "meta.chunk_id", "meta.chunk_step", "intervention"),
    "observation.time.state",
}


def columns(root, episode=0):
    """Every column of one episode as arrays."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(p).to_pylist() for p in sorted(root.glob("data/**/*.parquet"))]
    rows = [r for t in tables for r in t if r["episode_index"] == episode]
    return {key: np.array([r[key] for r in rows]) for key in rows[0] if "images" not in key}


def record_a_line(d, way=(0.08, 0, 0), seconds=1.0):
    d.run()
    d.recorder.begin("go forward", seed=7)
    d.step(10)
    chunk = d.line(way, seconds)
    assert d.recorder.submit(chunk)
    d.step(80)
    assert d.recorder.end(True)
    assert d.recorder.flush(), d.recorder.ended
    return chunk


def test_frames_lie_on_the_grid_and_hold_the_action_that_is_due_a_frame_later(desk):
    d = desk()
    chunk = record_a_line(d)
    got = columns(d.recorder.root)
    n = len(got["frame_index"])
    assert n == pytest.approx(17, abs=1)  # 1.8 s at 10 Hz, less what had not settled
    assert set(got) >= COLUMNS | {"observation.state", "action"}
    assert got["timestamp"] == pytest.approx(np.arange(n) / 10)
    age = got["timestamp"] - got["observation.time.state"]
    assert age.min() >= 0  # never from after the grid time
    assert age.max() <= 0.0201
    sidecar = json.loads(sidecar_path(d.recorder.root, 0).read_text())
    first = sidecar["began"]["monotonic"]
    steps = got["meta.chunk_step"]
    moving = steps >= 0
    assert (got["meta.chunk_id"][moving] == chunk.chunk).all()
    assert sorted(set(steps[moving].tolist())) == list(range(10))
    due = np.asarray(chunk.stamps)[steps[moving]] - first
    assert got["action.time"][moving] == pytest.approx(due)
    early = moving & (np.arange(n) < np.flatnonzero(steps == 9)[0])
    assert np.abs(got["action.time"][early] - (got["timestamp"][early] + 0.1)).max() <= 0.0501
    assert got["action"][moving][:, :3] == pytest.approx(chunk.track.position[steps[moving]], abs=1e-6)
    assert got["action"][moving][:, 4] == pytest.approx(0.06 / 0.08)
    assert not got["intervention"].any()


def test_a_run_of_a_policy_holds_the_action_that_it_dates_at_the_frame(desk):
    """With the policy's own ``follows`` a frame holds what a chunk asked for then begins with."""
    d = desk(follows=0.0)
    record_a_line(d)
    got = columns(d.recorder.root)
    steps = got["meta.chunk_step"]
    early = (steps >= 0) & (np.arange(len(steps)) < np.flatnonzero(steps == 9)[0])
    assert early.sum() >= 8
    assert np.abs(got["action.time"][early] - got["timestamp"][early]).max() <= 0.0501


def test_slow_frames_looked_at_often_lack_nothing(desk):
    d = desk(fps=2)
    d.run()
    d.recorder.begin("stand")
    for _ in range(400):
        d.recorder.tick()
        d.driver.tick()
    assert d.recorder.recording, d.recorder.marks
    assert d.recorder.frames in (7, 8)


def test_a_recording_that_goes_on_is_no_longer_marked_as_ended(desk):
    d = desk()
    record_a_line(d)
    d.close()
    mark = sidecar_path(d.recorder.root, 0).with_name("ended.json")
    mark.write_text("{}")
    again = Recorder(d.driver, d.recorder.root, 10, d.recorder.features)
    again.close()
    assert not mark.exists()
    assert again.episodes == 1


def test_the_action_is_where_the_tool_is_a_frame_later(desk):
    d = desk()
    record_a_line(d, (0.06, 0, 0), 1.5)
    got = columns(d.recorder.root)
    wanted, seen = got["action"][:-1, 0], got["observation.state"][1:, 0]
    # The twin lags by 0.36 s and the latency in use is 0.20 s: what remains, once it moves, is 0.16 s at 0.04 m/s, and
    # what is left of the start.
    error = np.abs(wanted - seen)[-6:].max()
    assert 0.16 * 0.04 < error < 0.0135
    # What was sent when the picture was taken is further away.
    sent = np.abs(got["action"][3:, 0] - got["observation.state"][:-3, 0])[-6:]
    assert sent.min() > error


def test_what_the_filter_made_of_the_action_is_beside_it(desk):
    d = desk()
    d.run()
    d.recorder.begin("against the wall")
    d.recorder.submit(d.line((0, 0, 0.1), 1.0))
    d.step(100)
    d.recorder.end()
    d.recorder.flush()
    got = columns(d.recorder.root)
    assert got["action.emitted"].shape[1] == len(EMITTED_NAMES)
    late = got["meta.chunk_step"] == 9
    assert got["action.emitted"][late][-1, 2] == pytest.approx(got["action"][late][-1, 2], abs=2e-3)
    assert got["action.emitted"][late][-1, 7] == pytest.approx(0.06, abs=1e-6)
    ramps = (got["meta.safety_flags"] & int(SafetyFlag.RAMP)) > 0
    assert ramps[1:5].all()
    assert not ramps[-3:].any()
    # A frame's emitted pose is what was sent a latency before its action was due.
    assert d.recorder.timeline.latency == ARM_LATENCY


def test_human_frames_are_tagged_and_hold_the_humans_wish(desk):
    d = desk()
    readings = [Reading()]
    human = Teleoperator(d.driver, ScriptedDevice(lambda now: readings[0]), Jog(d.driver.settings.limits))
    d.run()
    d.recorder.begin("correct it")
    d.recorder.submit(d.line((0.1, 0, 0), 2.0))

    def both(n):
        for _ in range(n):
            human.step()
            if human.wish is not None:
                d.recorder.wished(human.wish, human.wished_at)
            d.step()

    both(40)
    readings[0] = Reading((0, 0, 1.0), held=True)
    both(60)
    readings[0] = Reading()
    both(30)
    d.recorder.end(True)
    d.recorder.flush()
    got = columns(d.recorder.root)
    flags = got["intervention"]
    assert 10 <= flags.sum() <= 13  # 1.2 s
    begin, end = np.flatnonzero(flags)[[0, -1]]
    assert flags[begin : end + 1].all()
    assert (got["meta.chunk_id"][flags] == -1).all()
    assert (got["meta.chunk_id"][1:begin] >= 0).any()
    up = got["action"][begin + 3 : end, 2]
    assert (np.diff(up) > 0.005).all()
    forward = np.diff(got["action"][begin + 5 : end, 0])
    assert np.abs(forward).max() < 2e-3
    held = (got["meta.safety_flags"][end + 2 :] & int(SafetyFlag.HELD)) > 0
    assert held.all()
    meta = episode_meta(Reader(d.recorder.root), ["success", "outcome", "intervention_frames", "ended"])[0]
    assert meta == {"success": True, "outcome": "success", "intervention_frames": int(flags.sum()), "ended": ""}


def test_corrections_only_keeps_an_episode_an_intervention(desk):
    d = desk(mode="corrections")
    readings = [Reading()]
    human = Teleoperator(d.driver, ScriptedDevice(lambda now: readings[0]), Jog(d.driver.settings.limits))
    d.run()
    d.recorder.begin("correct it")

    def both(n, reading):
        readings[0] = reading
        for _ in range(n):
            human.step()
            if human.wish is not None:
                d.recorder.wished(human.wish, human.wished_at)
            d.step()

    for way in ((0, 0, 1.0), (0, 1.0, 0)):
        d.recorder.submit(d.line((0.05, 0, 0), 0.8))
        both(30, Reading())
        both(40, Reading(way, held=True))
        both(40, Reading())
        both(2, Reading(commands=("resume",)))
        assert d.driver.status().state is State.RUNNING
    d.recorder.end()
    d.recorder.flush()
    assert d.recorder.episodes == 2
    for k in range(2):
        got = columns(d.recorder.root, k)
        assert got["intervention"].all()
        assert 6 <= len(got["intervention"]) <= 9
        assert -0.021 <= got["observation.time.state"][0] <= 0.0  # true times count from the episode's own beginning
    assert np.ptp(columns(d.recorder.root, 0)["action"][:, 2]) > 0.03
    assert np.ptp(columns(d.recorder.root, 1)["action"][:, 1]) > 0.03


def test_lost_observations_end_the_episode_and_mark_it(desk, monkeypatch):
    d = desk(gap=0.2)
    d.run()
    d.recorder.begin("blind")
    d.step(50)
    from robopolicy.real_robot.control.observations import NoSnapshot

    monkeypatch.setattr(d.driver, "snapshot", lambda *a, **k: NoSnapshot("no state"))
    d.step(15)
    assert d.recorder.recording  # two frames may be missing
    d.step(30)
    assert not d.recorder.recording
    assert d.recorder.marks[0].startswith("frames lost")
    assert d.recorder.flush()
    meta = episode_meta(Reader(d.recorder.root), ["success", "ended", "repeated_frames"])[0]
    assert meta["ended"].startswith("frames lost")
    assert not meta["success"]
    assert meta["repeated_frames"] in (1, 2)
    times = columns(d.recorder.root)["observation.time.state"]
    stamps = columns(d.recorder.root)["timestamp"]
    assert (stamps - times).max() <= 0.2 + 1e-6


def test_a_fault_ends_the_episode_and_the_next_one_is_clean(desk):
    d = desk()
    d.run()
    d.recorder.begin("faulty")
    d.recorder.submit(d.line((0.05, 0, 0)))
    d.step(50)
    d.driver.health = Health(errors=("cartesian_reflex",))
    d.step(5)
    assert not d.recorder.recording
    assert d.recorder.marks == ["fault: robot errors: cartesian_reflex"]
    d.driver.health = Health()
    d.driver.recover("Ada")
    d.step(5)
    d.run()
    d.recorder.begin("again")
    d.step(50)
    d.recorder.end(True)
    d.recorder.flush()
    metas = episode_meta(Reader(d.recorder.root), ["success", "ended"])
    assert [m["success"] for m in metas.values()] == [False, True]
    assert [bool(m["ended"]) for m in metas.values()] == [True, False]


def test_the_sidecar_says_what_the_table_has_no_room_for(desk):
    d = desk(facts={"checkpoint": "abc", "config": {"limits": "default"}})
    record_a_line(d)
    sidecar = json.loads(sidecar_path(d.recorder.root, 0).read_text())
    assert sidecar["facts"] == {"checkpoint": "abc", "config": {"limits": "default"}, "seed": 7}
    assert sidecar["task"] == "go forward"
    assert sidecar["frames"] == len(columns(d.recorder.root)["frame_index"])
    assert sidecar["latency"] == {"arm": 0.2, "gripper": 0.1, "follows": 0.1}
    assert sidecar["versions"]["numpy"] == np.__version__
    assert sidecar["began"]["wall"] - sidecar["began"]["monotonic"] == pytest.approx(1_700_000_000 - 100)


def test_begin_twice_is_refused_and_a_discarded_take_leaves_nothing(desk):
    d = desk()
    d.run()
    d.recorder.begin("one")
    with pytest.raises(RequestRefused, match="under way"):
        d.recorder.begin("two")
    d.step(50)
    d.recorder.discard()
    assert not d.recorder.end()
    d.recorder.flush()
    assert d.recorder.episodes == 0
    assert not sidecar_path(d.recorder.root, 0).exists()


def test_a_dataset_of_other_features_is_not_continued(desk, tmp_path):
    d = desk()
    record_a_line(d)
    d.close()
    with pytest.raises(DatasetError, match="another rate or with other features"):
        Recorder(d.driver, d.recorder.root, 20, d.recorder.features)
    with pytest.raises(DatasetError, match="another rate or with other features"):
        Recorder(d.driver, d.recorder.root, 10, demonstration_features(names=("tcp_x", "tcp_y")))


def test_true_times_are_no_observations_for_training(desk):
    d = desk()
    record_a_line(d)
    assert Reader(d.recorder.root).observation_spec().keys == ("observation.state",)


def test_a_chunk_replaces_what_was_not_due_and_a_late_or_broken_one_nothing(desk):
    d = desk()
    d.run()
    line = Timeline(0.2, 0.1)
    now = d.driver.clock.now()
    first = d.line((0.1, 0, 0), 1.0)
    line.chunk(first, now)
    status = d.driver.status()
    for k in range(40):
        line.look(type(status)(**{**vars(status), "now": now + 0.02 * k}))
    assert line.wanted(first.stamps[4] + 0.01).step == 4
    second = d.line((0, 0.1, 0), 1.0, first=0.8)
    line.chunk(second, now + 0.3)
    assert line.wanted(first.stamps[1]).chunk == first.chunk
    assert line.wanted(second.stamps[0] + 0.01).chunk == second.chunk
    assert line.wanted(first.stamps[-1]).chunk == second.chunk
    late = d.line((0, 0, 0.1), 1.0, first=-2.0)
    line.chunk(late, now + 0.4)
    broken = d.line((np.nan, 0, 0.1))
    line.chunk(broken, now + 0.4)
    assert line.wanted(second.stamps[-1]).chunk == second.chunk
    assert line.wanted(now - 10) is None
