"""``LocalDriver`` with threads of its own, in real time; nothing here is timed more tightly than in seconds."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("websockets", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")
pytest.importorskip("cbor2", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.states import ENGAGED, State
from robopolicy.real_robot.driver import core
from robopolicy.real_robot.driver.config import bridge_config
from robopolicy.real_robot.driver.contract import Check, Report
from robopolicy.real_robot.driver.local import LocalDriver
from robopolicy.real_robot.limits import Timeouts
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.runner import running_twin
from robopolicy.real_robot.wire.gateway_config import GatewayConfig

# The machine that runs the tests may be busy: the longest times that the caps allow.
PATIENT = Timeouts(
    tick_hold=0.2, state_soft=0.25, state_hard=0.5, ping_timeout=1.0, service=5.0, loopback_soft=0.3, loopback_hard=0.6
)


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.01)


@pytest.fixture
def live(monkeypatch):
    # A busy machine does not pass the real preflight; lock-step tests do.
    monkeypatch.setattr(core, "run_preflight", lambda inspected: Report((Check("of this test", True, "nothing"),)))
    with running_twin(TwinConfig(cameras=()), GatewayConfig(port=0)) as (runner, gateway):
        config = bridge_config("twin", url=gateway.url, cameras={}, anchor=None, timeouts=PATIENT)
        with LocalDriver(config) as driver:
            driver.connect(monitor_only=False)
            driver.run_thread()
            yield driver, runner, gateway


def armed(driver):
    def done():
        try:
            driver.preflight()
            driver.ask_to_arm("Ada")
            driver.confirm_arming("Ada")
        except RequestRefused:
            return False
        return True

    until(done, 60)


def test_threads_tick_and_arm_and_end(live):
    driver, _, _ = live
    armed(driver)
    until(lambda: driver.commands.counters["published"] > 20)
    assert driver.status().state in ENGAGED or driver.status().state is State.FAULT
    assert driver.late()[1] >= 0.0
    driver.disconnect()
    assert driver.machine.state is not State.RUNNING
    names = {t.name for t in threading.enumerate()}
    assert not names & {"control", "errands"}
    ticks = driver.ticks
    time.sleep(0.05)
    assert driver.ticks == ticks


def test_F02_a_frozen_server_is_a_hold_or_a_fault_before_the_arm_has_gone_far(live):
    driver, runner, gateway = live
    armed(driver)
    here = runner.twin.pose.position
    gateway.freeze(4.0)
    until(lambda: driver.status().state is State.FAULT, 20)
    assert np.linalg.norm(runner.twin.pose.position - here) < 0.05


def test_an_error_in_the_loop_holds_and_closes(live, monkeypatch):
    driver, _, _ = live
    armed(driver)

    def broken(record):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(driver, "_after", broken)
    until(lambda: driver.closed and driver.over)
    assert "a bug" in driver.error
    assert "error in the control loop" in [e.why for e in driver.machine.events][-1]


def test_calls_from_many_threads_do_not_tear(live):
    driver, _, _ = live
    armed(driver)
    refused, errors = [], []

    def mischief(seed):
        rng = np.random.default_rng(seed)
        calls = (driver.start, driver.pause, driver.resume, driver.intervene, driver.release, driver.status)
        for _ in range(60):
            try:
                calls[rng.integers(len(calls))]()
            except RequestRefused as e:
                refused.append(str(e))
            except Exception as e:
                errors.append(e)

    threads = [threading.Thread(target=mischief, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not errors
    assert refused
    events = driver.machine.events
    assert all(a.after is b.before for a, b in itertools.pairwise(events))
