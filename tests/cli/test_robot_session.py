"""One armed stretch: its end, its keys, and what an operator must say before it."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from robopolicy.cli._robot_driver import NotArmed
from robopolicy.cli._robot_session import MotionPerformer, Session, arm, preflight
from robopolicy.cli._robot_teleop import FedKeys, Hand
from robopolicy.cli._signals import holding_signals
from robopolicy.core.errors import RobopolicyError
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Check
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.motions import Hold, Player, Sine
from robopolicy.real_robot.teleop.device import Reading
from robopolicy.testing.driver import FakeDriver, plain_board


def session(driver, make=None, **options):
    performer = MotionPerformer(driver, make or (lambda status: Player(Hold(status.emitted))))
    board, out = plain_board()
    made = Session(driver, performer, board, "Ada", **{"interactive": True, "sleep": driver.sleep, **options})
    return made, out


def running():
    driver = FakeDriver(State.RUNNING, "started")
    driver.epoch = 3
    return driver


def test_it_ends_when_its_time_is_over_and_the_arm_is_told_to_hold():
    driver = running()
    made, _ = session(driver, duration=3.0)
    assert made.run() == 0
    assert driver.calls[-1] == "pause the time is over"
    assert made.elapsed == pytest.approx(3.0, abs=0.05)
    assert driver.clock.now() == pytest.approx(13.0, abs=0.05)
    assert len(driver.chunks) == 6
    assert {c.epoch for c in driver.chunks} == {3}


def test_it_ends_with_its_motion():
    driver = running()
    made, _ = session(driver, lambda s: Player(Sine(s.emitted, duration=15.0)))
    assert made.run() == 0
    assert driver.calls[-1] == "pause done"
    assert driver.clock.now() == pytest.approx(25.35, abs=0.1)


def test_time_in_hold_does_not_count_and_a_motion_waits():
    driver = running()
    made, _ = session(driver, duration=3.0)
    driver.at = {11.0: lambda: made.on_key(" "), 16.0: lambda: made.on_key("r")}
    assert made.run() == 0
    assert driver.clock.now() == pytest.approx(18.0, abs=0.1)
    assert "resume" in driver.calls
    assert not any(11.1 < c.stamps[0] - 0.35 < 15.9 for c in driver.chunks)


@pytest.mark.parametrize("state", [State.HOLD, State.FAULT, State.ESTOP])
def test_without_anybody_at_the_keys_a_stop_ends_the_run_with_1(state):
    driver = running()
    made, _ = session(driver, interactive=False, duration=60.0)
    driver.at = {11.0: lambda: driver.be(state, "the cause")}
    assert made.run() == 1
    assert made.why == f"{state.value}: the cause"
    assert driver.clock.now() == pytest.approx(13.0, abs=0.1)


def test_with_somebody_there_it_waits_in_a_fault_and_quitting_says_1():
    driver = running()
    made, out = session(driver)
    driver.at = {11.0: lambda: driver.be(State.FAULT, "link lost"), 60.0: lambda: made.on_key("q")}
    assert made.run() == 1
    assert driver.clock.now() >= 60.0
    assert made.why == "link lost"
    assert "fault: link lost" in out.getvalue()


def test_quitting_a_run_that_is_well_is_0_and_holds():
    driver = running()
    made, _ = session(driver)
    driver.at = {12.0: lambda: made.on_key("q")}
    assert made.run() == 0
    assert driver.calls[-1] == "pause paused by the operator"


def test_keys_that_the_state_does_not_allow_are_noted_and_never_raised():
    driver = running()
    made, out = session(driver)
    for key in "rcayh":
        made.on_key(key)
    text = out.getvalue()
    assert "resume: not in state running" in text
    assert "no teleoperation device; name one with --teleop" in text
    assert driver.state is State.RUNNING
    made.on_key("x")
    made.on_key("e")
    assert driver.state is State.ESTOP


def test_h_takes_over_moves_by_the_keys_and_gives_back():
    driver = running()
    made, _ = session(driver, duration=2.0)
    made.hand = Hand(driver, FedKeys(), SafetyLimits())
    driver.at = {10.5: lambda: made.on_key("h"), 10.7: lambda: made.on_key("r"), 11.0: lambda: made.on_key("h")}
    driver.at[11.5] = lambda: made.on_key("r")
    assert made.run() == 0
    assert [c for c in driver.calls if c in ("intervene", "release", "resume")] == ["intervene", "release", "resume"]
    wishes = [(at, w.rate[2]) for at, w in driver.wishes]
    assert all(10.5 <= at <= 11.03 for at, _ in wishes)
    assert {rate > 0 for at, rate in wishes if 10.72 < at < 10.9} == {True}  # r is up, not resume, in a human's hand
    assert {rate for at, rate in wishes if at < 10.69} == {0.0}


def test_after_a_fault_it_takes_recovery_and_both_steps_of_arming_to_go_on():
    driver = running()
    made, out = session(driver, duration=2.0)
    driver.at = {11.0: lambda: driver.be(State.FAULT, "robot errors: joint_reflex")}
    driver.at |= {12.0 + i: (lambda k: lambda: made.on_key(k))(key) for i, key in enumerate("cayr")}
    assert made.run() == 0
    assert [c for c in driver.calls if not c.startswith("pause")] == ["recover Ada", "ask Ada", "confirm Ada", "start"]
    assert "y within ten seconds" in out.getvalue()


def test_arming_takes_two_words():
    def answers(*words):
        left = list(words)
        return lambda question: left.pop(0)

    driver = FakeDriver()
    arm(driver, "Ada", answers("arm", " YES "), "what will happen")
    assert driver.calls == ["ask Ada", "confirm Ada"]
    for words in (("",), ("yes",), ("arm", ""), ("arm", "y")):
        driver = FakeDriver()
        with pytest.raises(NotArmed, match="nothing was armed"):
            arm(driver, "Ada", answers(*words), "")
        assert not any(call.startswith("confirm") for call in driver.calls)
    driver = FakeDriver()
    arm(driver, "Ada", None, "")
    assert driver.calls == ["ask Ada", "confirm Ada"]


def test_arming_waits_until_the_operators_first_sign_is_heard():
    """A script is faster than the first heartbeat; an arm's preset needs that one."""
    driver = FakeDriver()
    driver.ages["operator"] = float("inf")
    driver.at = {10.5: lambda: driver.ages.update(operator=0.01)}
    arm(driver, "Ada", None, "", driver.sleep)
    assert driver.calls == ["ask Ada", "confirm Ada"]
    assert driver.clock.now() == pytest.approx(10.5, abs=0.05)
    driver = FakeDriver()
    driver.ages["operator"] = float("inf")
    arm(driver, "Ada", None, "", driver.sleep)  # not for ever: the driver itself refuses then
    assert driver.clock.now() == pytest.approx(12.0, abs=0.05)


def test_a_red_preflight_is_printed_with_its_cures_and_refused(capsys):
    checks = (Check("link", True, "up"), Check("tool (F_T_EE)", False, "9 mm off", "1 mm", "set it in Desk"))
    driver = FakeDriver(checks=checks)
    with pytest.raises(NotArmed, match="speaks against arming"):
        preflight(driver, MotionPerformer(driver, lambda s: Player(Hold(s.emitted))))
    out = capsys.readouterr().out
    assert "FAILED   tool (F_T_EE)  9 mm off   (expected 1 mm)" in out
    assert "cure: set it in Desk" in out


def test_a_performers_finding_counts_like_any_other():
    driver = FakeDriver()

    class Slow(MotionPerformer):
        def prepare(self):
            return [Check("policy latency", False, "p95 2000 ms", "2 or more left", "a faster machine")]

    with pytest.raises(NotArmed):
        preflight(driver, Slow(driver, lambda s: Player(Hold(s.emitted))))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", None)])
def test_F40_signals_hold_first_and_end_with_their_code(name, code):
    driver = running()
    before = signal.getsignal(getattr(signal, name))

    def killed():
        with holding_signals(driver):
            os.kill(os.getpid(), getattr(signal, name))
            for _ in range(1000):
                pass

    with pytest.raises(SystemExit if code else KeyboardInterrupt) as ended:
        killed()
    assert code is None or ended.value.code == code
    assert driver.calls == [f"pause signal {name}"]
    assert driver.state is State.HOLD
    assert signal.getsignal(getattr(signal, name)) is before


def test_F25_a_gamepad_that_lies_there_is_no_operator():
    class Lying:
        def read(self, now):
            return Reading(attended=True)

    driver = running()
    hand = Hand(driver, Lying(), SafetyLimits())
    assert hand.step().attended
    assert "heartbeat" not in driver.calls


def test_ctrl_z_holds_and_the_program_stays():
    driver = running()
    with holding_signals(driver):
        os.kill(os.getpid(), signal.SIGTSTP)
    assert driver.calls == ["pause Ctrl-Z: the arm holds; q leaves"]


def test_a_failing_policy_ends_the_session_with_its_message():
    from robopolicy.cli._robot_policy import PolicyPerformer

    performer = PolicyPerformer.__new__(PolicyPerformer)
    performer.error, performer._thread, performer.runner = ValueError("no such tensor"), None, None
    driver = running()
    made = Session(driver, performer, plain_board()[0], "Ada", True, sleep=driver.sleep)
    with pytest.raises(RobopolicyError, match="the policy failed: ValueError: no such tensor"):
        made.run()


def test_the_drift_of_a_hold_is_told():
    driver = running()
    made, _ = session(driver, duration=1.0)
    made.run()
    assert made.performer.lines() == {"farthest from the start": "0.0 mm"}
    assert np.isfinite(made.performer.drift)
