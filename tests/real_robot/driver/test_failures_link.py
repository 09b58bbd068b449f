"""Rows of the failure table that begin with the link: the whole driver, the real gateway and the twin, in lock-step.

A loss is noticed in real time (the socket), everything after it is counted in ticks of 10 ms.
"""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

from robopolicy.core.errors import LinkDown, RequestRefused
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.wire.client import LinkState

LEAD = 0.05  # m, of the default limits


def up_again(r, epoch, tries=200):
    """Tick while the client reconnects by itself."""
    for _ in range(tries):
        if r.driver.client.wait_up(0.2, after_epoch=epoch):
            return
        r.step(exact=False)
    raise AssertionError("no new connection")


def lose(r):
    """Cut the link and wait until the client has seen it; the epoch that is over."""
    epoch = r.driver.client.epoch
    r.gateway.drop_clients()
    assert r.driver.client.wait_down(30.0)
    return epoch


def test_F01_a_dropped_link_is_a_fault_at_the_next_tick_and_nothing_moves_before_it_is_armed_again(rig):
    r = rig().moving(seconds=3.0, way=(0.15, 0.0, 0.0))
    sent, at, run = len(r.targets), r.twin.pose.position, r.driver.status().epoch
    old = r.line()
    epoch = lose(r)
    r.runner.advance(10)
    record = r.driver.tick()  # the first tick after the socket knows: well within 50 ms
    assert record.state is State.FAULT
    assert record.publish is None
    assert "link lost" in r.why
    up_again(r, epoch)
    # A new connection: looked at again by itself, as far as READY and no further.
    r.until(State.READY, 300, exact=False)
    assert r.driver.status().preflight.green
    assert not r.driver.submit(old)
    assert r.driver.status().epoch > run
    r.step(100)
    assert len(r.targets) == sent
    assert r.state is State.READY
    assert np.linalg.norm(r.twin.pose.position - at) <= LEAD
    with pytest.raises(RequestRefused):
        r.driver.resume()
    with pytest.raises(RequestRefused):
        r.driver.start()
    r.driver.ask_to_arm("Ada")
    r.driver.confirm_arming("Ada")
    assert r.step(3).state is State.ARMED
    first = r.targets[sent][1]["pose"]["position"]
    assert [first[k] for k in "xyz"] == pytest.approx(r.twin.pose.position.tolist(), abs=2e-3)
    assert r.driver.status().counters["reconnects"] == 1


def test_F01_F28_recover_without_a_link_is_refused_before_the_next_tick_too(rig):
    r = rig().moving()
    r.fault("reflex")
    assert r.until(State.FAULT, 5) <= 0.02
    lose(r)
    with pytest.raises(RequestRefused, match="recover: the link is down"):
        r.driver.recover("Ada")
    assert not r.driver.machine._recovered
    assert r.recoveries == 0


def test_F01_a_link_lost_and_made_anew_between_two_ticks_is_a_fault_all_the_same(rig):
    r = rig().moving()
    sent = len(r.targets)
    epoch = lose(r)
    assert r.driver.client.wait_up(30.0, after_epoch=epoch)
    assert r.driver.client.state is LinkState.UP
    assert r.driver.tick().state is State.FAULT
    r.step(20, exact=False)
    assert len(r.targets) == sent


def test_F01_a_target_is_sent_on_the_link_that_was_looked_at_or_not_at_all(rig):
    r = rig().armed()
    epoch = lose(r)
    assert r.driver.client.wait_up(30.0, after_epoch=epoch)
    # As if the tick had been held up between deciding and sending.
    before = r.driver.commands.counters["not_published"]
    assert not r.driver.commands.send(r.driver.status().emitted, r.twin.clock.wall(), epoch)
    assert r.driver.commands.counters["not_published"] == before + 1


def test_F01_a_goal_of_the_hand_under_way_ends_with_the_link(rig):
    r = rig().running()
    r.driver.submit(r.line((0.0, 0.0, 0.02), gripper=np.full(12, 0.03)))
    while not r.driver.gripper.busy:
        r.step()
    lose(r)
    r.driver.tick()
    assert not r.driver.gripper.busy or r.driver.tick().state is State.FAULT


def test_F03_a_restarted_server_is_found_and_looked_at_and_hears_nothing_old(rig):
    r = rig().moving()
    sent, port = len(r.targets), r.gateway.port
    epoch = r.driver.client.epoch
    r.close_gateway()
    assert r.driver.client.wait_down(30.0)
    assert r.step(3, exact=False).state is State.FAULT
    r.open_gateway(port=port)
    up_again(r, epoch)
    waited = r.until(State.READY, 500, exact=False)
    assert waited <= 5.0
    assert len(r.targets) == sent
    own = r.driver.commands.own_nodes()
    assert set(r.bus.publishers(r.face.names.command)) == set(own)
    r.driver.ask_to_arm("Ada")
    r.driver.confirm_arming("Ada")
    assert r.step(5).state is State.ARMED
    assert len(r.targets) > sent


def test_F05_a_poisoned_socket_holds_and_is_given_up(rig):
    r = rig(gateway={"quirks": "rosbridge1"}).moving(seconds=3.0, way=(0.12, 0.0, 0.0))
    epoch, run = r.driver.client.epoch, r.driver.status().epoch
    # One frame arrives cut off; from then on the server drops whatever comes on this socket, and says nothing.
    r.gateway.faults.set(truncate_in=1.0)
    r.step(1, exact=False)
    time.sleep(0.2)
    r.gateway.faults.set(truncate_in=0.0)
    ticks = 0
    while r.state is State.RUNNING:
        ticks += 1
        r.step(exact=False)
        time.sleep(0.02)  # the states go on arriving
        assert ticks < 60
    assert ticks <= 31
    assert r.state in (State.HOLD, State.FAULT)
    assert r.driver.client.wait_up(30.0, after_epoch=epoch)
    r.step(3, exact=False)
    assert State.FAULT in [e.after for e in r.driver.machine.events]
    assert r.state in (State.FAULT, State.READY)
    assert r.driver.status().epoch > run


def test_F06_a_flood_of_unreadable_frames_gives_the_link_up(rig):
    r = rig().armed()
    epoch = r.driver.client.epoch
    for _ in range(25):
        r.driver.client.inbox.receive("{", r.clock.now())
    r.driver.tick()
    up_again(r, epoch)
    r.step(exact=False)
    assert "link lost" in [e.why for e in r.driver.machine.events if e.after is State.FAULT]


def test_F32_a_second_publisher_is_refused_by_preflight_and_holds_a_running_arm(rig):
    r = rig()
    r.step(12)
    r.fault("second_publisher")
    r.step(35)
    passing, r.driver.pass_time = r.driver.pass_time, lambda seconds: None
    report = r.driver.preflight()
    r.driver.pass_time = passing
    assert not report.green
    assert any("already publishes" in line for line in report.failures())
    r.twin.faults.clear()
    r.ready()
    r.driver.ask_to_arm("Ada")
    with pytest.raises(RequestRefused, match="arm: 1 other publisher"):  # heard less than a second ago
        r.driver.confirm_arming("Ada")
    r.step(110)
    r.moving(seconds=3.0, way=(0.1, 0.0, 0.0))
    r.fault("second_publisher")
    assert r.until(State.HOLD, 100) <= 1.0
    assert "other publisher" in r.why
    with pytest.raises(RequestRefused, match="other publisher"):
        r.driver.resume()
    r.twin.faults.clear()
    r.step(160)
    r.driver.resume()
    assert r.step().state is State.RUNNING


def test_F32_a_silent_rival_is_found_by_asking_the_graph(rig):
    r = rig().running()
    r.driver.submit(r.line(seconds=3.0, way=(0.1, 0.0, 0.0)))
    r.bus.advertise(r.face.names.command, "geometry_msgs/PoseStamped", "/rival")
    assert r.until(State.HOLD, 100) <= 1.0
    assert "other publisher" in r.why


def test_F40_an_exception_in_the_users_code_holds_and_takes_everything_back(rig):
    r = rig().moving(seconds=3.0, way=(0.12, 0.0, 0.0))
    sent = len(r.targets)
    ahead = r.driver.status().emitted.position
    with pytest.raises(ZeroDivisionError), r.driver:
        raise ZeroDivisionError
    events = [e for e in r.driver.machine.events if e.after is State.HOLD]
    assert events[-1].why == "an exception in the program"
    until_gone(r, sent)
    # The stop target: the measured pose and a tenth of a second of its motion, not where the plan was.
    p = r.targets[-1][1]["pose"]["position"]
    stop = np.array([p[k] for k in "xyz"])
    assert np.linalg.norm(stop - ahead) > 0.005
    assert np.linalg.norm(stop - r.twin.pose.position) < 0.012
    r.driver.disconnect()
    assert r.driver.tick().state is State.HOLD


def until_gone(r, sent):
    end = time.monotonic() + 30
    while r.bus.publishers(r.face.names.command) or len(r.bus.said) <= sent:
        assert time.monotonic() < end, "the command topic was not taken back"
        time.sleep(0.002)


def test_F40_a_signal_in_the_middle_of_a_tick_leaves_at_its_end(rig):
    r = rig().moving()
    sent = len(r.targets)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: r.driver.disconnect("stopped by a signal"))
    try:

        class Interrupted:
            def ticked(self, inputs, record):
                if not r.driver.closed:
                    signal.raise_signal(signal.SIGUSR1)

        r.driver.tap = Interrupted()
        record = r.driver.tick()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert record.state in (State.RUNNING, State.HOLD)
    assert r.state is State.HOLD
    assert "stopped by a signal" in [e.why for e in r.driver.machine.events]
    until_gone(r, sent)


def test_F44_the_wrong_flavour_is_found_at_connect(rig):
    r = rig(ros="ros1", twin={"ros": "ros2"}, connect=False)
    with pytest.raises(LinkDown, match="speaks ros2, but flavour is set to ros1"):
        r.driver.connect()


def test_F44_a_ros2_robot_is_driven_too(rig):
    r = rig(ros="ros2").running()
    start = r.driver.status().measured.position
    assert r.driver.submit(r.line((0.04, 0.0, 0.0)))
    assert r.step(180).state is State.RUNNING
    assert r.driver.status().measured.position == pytest.approx(start + np.array((0.04, 0, 0)), abs=5e-3)
    message = r.targets[-1][1]
    assert set(message["header"]) == {"stamp", "frame_id"}
    assert set(message["header"]["stamp"]) == {"sec", "nanosec"}
    r.fault("reflex")
    assert r.step(2).state is State.FAULT
    r.twin.arm.recover()  # in Desk
    r.step(30)
    r.driver.recover("Ada")
    r.until(State.READY, 200)
