"""Devices: what keys and sticks mean, and what is said when they are gone."""

from __future__ import annotations

import os
import sys

import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.teleop.device import COMMANDS, Reading
from robopolicy.real_robot.teleop.gamepad import AXES, BUTTONS, Gamepad, Pad
from robopolicy.real_robot.teleop.keyboard import GRIPS, MOVES, ORDERS, RELEASE, Keyboard, Keys
from robopolicy.real_robot.teleop.scripted import ScriptedDevice


def test_a_key_moves_until_a_quarter_of_a_second_after_its_last_repetition():
    keys = Keys()
    keys.feed(b" w", 1.0)
    assert keys.reading(1.0).move == (1, 0, 0)
    assert keys.reading(1.0 + RELEASE - 1e-6).move == (1, 0, 0)
    assert keys.reading(1.0 + RELEASE + 1e-6).move == (0, 0, 0)
    for k in range(10):
        keys.feed(b"w", 2.0 + 0.03 * k)
        assert keys.reading(2.0 + 0.03 * k).move == (1, 0, 0)
    assert RELEASE <= 0.25


def test_nothing_moves_before_space_and_after_it_again():
    keys = Keys()
    keys.feed(b"w", 0.0)
    assert keys.reading(0.0) == Reading()
    keys.feed(b" ", 0.5)
    assert keys.reading(0.5).held
    keys.feed(b"   ", 0.6)  # the bar is still down: repetitions are no second press
    assert keys.reading(0.6).held
    keys.feed(b" ", 1.5)
    assert not keys.reading(1.5).held


def test_every_key_has_one_meaning_and_opposites_cancel():
    assert not set(MOVES) & set(GRIPS)
    assert not (set(MOVES) | set(GRIPS)) & set(ORDERS)
    assert set(ORDERS.values()) == set(COMMANDS)
    keys = Keys()
    keys.feed(b" wsq", 0.0)
    reading = keys.reading(0.0)
    assert reading.move == (0, 0, 0)
    assert reading.turn == (0, 0, 1)
    keys.feed(b"p", 0.1)
    assert keys.reading(0.1).gripper == 0.0
    keys.feed(b"o", 0.2)
    assert keys.reading(0.2).gripper == 1.0


def test_an_order_to_the_hand_ends_with_the_hold():
    """Who takes the arm again finds the hand as it is, not as it was wanted the last time."""
    keys, pad = Keys(), Pad()
    keys.feed(b" p", 0.0)
    assert keys.reading(0.0).gripper == 0.0
    keys.feed(b" ", 1.0)
    assert not keys.reading(1.0).held
    keys.feed(b" ", 2.0)
    assert keys.reading(2.0).held
    assert keys.reading(2.0).gripper is None
    press(pad, "right")
    press(pad, "a")
    assert pad.reading().gripper == 0.0
    press(pad, "right", 0)
    assert not pad.reading().held
    press(pad, "right")
    assert pad.reading().held
    assert pad.reading().gripper is None


def test_orders_are_given_once():
    keys = Keys()
    keys.feed(b"\ny", 0.0)
    assert keys.reading(0.0).commands == ("begin", "success")
    assert keys.reading(0.0).commands == ()


@pytest.mark.parametrize("pieces", [[b"\x1b[A"], [b"\x1b[", b"A"], [b"\x1bOB"], [b"\x1b[1;5C"]])
def test_arrow_keys_are_no_orders(pieces):
    keys = Keys()
    keys.feed(b" ", 0.0)
    for piece in pieces:
        keys.feed(piece, 0.0)
    assert keys.reading(0.0) == Reading(held=True)
    keys.feed(b"w\x1b", 0.0)
    reading = keys.reading(0.0)
    assert reading.move == (1, 0, 0)
    assert reading.commands == ("pause",)


def test_a_strict_keyboard_is_a_dead_man():
    keys = Keys(strict=True)
    keys.feed(b" ", 0.0)
    assert keys.reading(0.1).held
    assert keys.reading(0.1).attended
    reading = keys.reading(RELEASE + 0.01)
    assert not reading.held
    assert not reading.attended
    keys.feed(b"w", 1.0)
    assert not keys.reading(1.0).held  # taking the arm is a press of its own


@pytest.fixture
def terminal():
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    open_ends = [ours, theirs]
    yield ours, theirs, open_ends
    for fd in open_ends:
        os.close(fd)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_a_terminal_is_read_without_echo_and_set_back_even_after_an_error(terminal):
    import termios

    ours, theirs, _ = terminal
    before = termios.tcgetattr(theirs)

    def use():
        with Keyboard(fd=theirs) as keyboard:
            raw = termios.tcgetattr(theirs)[3]
            assert not raw & (termios.ECHO | termios.ICANON)
            assert raw & termios.ISIG  # Ctrl-C still interrupts
            assert keyboard.read(0.0) == Reading()
            os.write(ours, b" d")
            assert keyboard.read(0.1).move == (0, -1, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert termios.tcgetattr(theirs) == before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_F25_a_closed_terminal_is_a_lost_device(terminal):
    ours, theirs, open_ends = terminal
    with Keyboard(fd=theirs) as keyboard:
        os.write(ours, b" w")
        assert keyboard.read(0.0).move == (1, 0, 0)
        os.close(ours)
        open_ends.remove(ours)
        reading = keyboard.read(0.05)
        assert reading.lost.startswith("the terminal is gone")
        assert not reading.held
        assert not reading.attended
        assert keyboard.read(5.0).lost


def test_no_terminal_is_told_in_one_line():
    read, write = os.pipe()
    try:
        with pytest.raises(ConfigError, match="no terminal"), Keyboard(fd=read):
            pass
    finally:
        os.close(read)
        os.close(write)


RANGES = {0: (-32768, 32767), 1: (-32768, 32767), 3: (-32768, 32767), 4: (-32768, 32767), 16: (-1, 1), 17: (-1, 1)}


def press(pad, name, value=1):
    pad.event(1, next(c for c, n in BUTTONS.items() if n == name), value, RANGES)


def push(pad, name, value):
    pad.event(3, next(c for c, n in AXES.items() if n == name), value, RANGES)


def test_sticks_count_while_the_shoulder_button_is_held():
    pad = Pad()
    push(pad, "left_y", -32768)
    assert pad.reading() == Reading()
    press(pad, "right")
    reading = pad.reading()
    assert reading.held
    assert reading.move == pytest.approx((1.0, 0.0, 0.0))
    push(pad, "left_x", 32767)
    push(pad, "right_y", -32768)
    push(pad, "right_x", -32768)
    reading = pad.reading()
    assert reading.move == pytest.approx((1.0, -1.0, 1.0))
    assert reading.turn == pytest.approx((0.0, 0.0, 1.0))
    press(pad, "right", 0)
    assert not pad.reading().held


def test_a_stick_near_its_middle_is_in_its_middle_and_starts_from_zero():
    pad = Pad()
    press(pad, "right")
    push(pad, "left_y", -0.11 * 32768)
    assert pad.reading().move[0] == 0.0
    push(pad, "left_y", -0.13 * 32768)
    assert 0 < pad.reading().move[0] < 0.02
    push(pad, "left_y", -9e9)
    assert pad.reading().move[0] == 1.0


def test_buttons_are_orders_once_a_press():
    pad = Pad()
    press(pad, "start")
    press(pad, "start", 2)  # a repetition
    push(pad, "cross_y", -1)
    push(pad, "cross_y", -1)
    assert pad.reading().commands == ("begin", "faster")
    press(pad, "right")
    press(pad, "a")
    assert pad.reading().gripper == 0.0
    press(pad, "b")
    assert pad.reading().gripper == 1.0
    press(pad, "guide")
    assert pad.reading().commands == ("estop",)
    pad.event(1, 999, 1, RANGES)
    pad.event(4, 4, 1, RANGES)
    assert pad.reading().commands == ()


class Source:
    def __init__(self):
        self.gone = self.closed = False

    def poll(self, pad):
        if self.gone:
            raise OSError(19, "No such device")
        pad.button("right", True)

    def close(self):
        self.closed = True


def test_F25_a_gamepad_that_was_unplugged_is_a_lost_device():
    source = Source()
    with Gamepad(source) as gamepad:
        assert gamepad.read(0.0).held
        source.gone = True
        reading = gamepad.read(0.1)
        assert "No such device" in reading.lost
        assert not reading.held
        assert not reading.attended
        source.gone = False
        assert gamepad.read(0.2).lost  # plugged in again it is another one
    assert source.closed


def test_a_missing_library_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "evdev", None)
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ConfigError, match="pip install evdev"), Gamepad():
        pass


def test_a_script_that_ends_is_a_lost_device():
    with ScriptedDevice(lambda now: Reading(held=True) if now < 1 else None) as device:
        assert device.read(0.5).held
        assert device.read(1.5).lost
