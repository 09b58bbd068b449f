"""Keys and the dead-man of a terminal, on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import pytest

from robopolicy.cli._keyboard import Keyboard
from robopolicy.core.errors import LinkDown

pty = pytest.importorskip("pty")
WAIT = 20.0  # s; generous, the machine may be loaded


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.fixture
def terminal(monkeypatch):
    """(master, slave) of a pseudo-terminal in whose foreground this program is said to be."""
    master, slave = pty.openpty()
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp())
    yield master, slave
    for fd in (master, slave):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_keys_arrive_one_by_one_without_enter_and_are_not_shown(terminal):
    master, slave = terminal
    keys, beats = [], []
    with Keyboard(keys.append, lambda: beats.append(1), slave) as keyboard:
        assert keyboard.terminal
        os.write(master, b" rq")
        until(lambda: len(keys) == 3)
        until(lambda: len(beats) > 3)
    assert keys == [" ", "r", "q"]
    assert not keyboard.lost


def test_F25_a_closed_terminal_ends_the_heartbeats(terminal):
    master, slave = terminal
    beats = []
    with Keyboard(lambda key: None, lambda: beats.append(1), slave) as keyboard:
        until(lambda: beats)
        os.close(master)
        until(lambda: keyboard.lost)
        count = len(beats)
        time.sleep(0.3)
        assert len(beats) == count
    assert "terminal" in keyboard.lost


def test_F25_a_program_in_the_background_has_no_operator(terminal, monkeypatch):
    _, slave = terminal
    beats = []
    with Keyboard(lambda key: None, lambda: beats.append(1), slave) as keyboard:
        until(lambda: beats)
        monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)
        until(lambda: keyboard.lost)
    assert keyboard.lost == "this program is not in the terminal's foreground"


def test_lines_can_be_typed_in_between_while_the_heart_beats_on(terminal):
    import termios

    master, slave = terminal
    keys, beats = [], []
    with Keyboard(keys.append, lambda: beats.append(1), slave) as keyboard:
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        with keyboard.lines():
            assert termios.tcgetattr(slave)[3] & termios.ICANON
            time.sleep(0.15)
            os.write(master, b"arm\n")
            count = len(beats)
            assert os.read(slave, 64) == b"arm\n"
            until(lambda: len(beats) > count)
        os.write(master, b"r")
        until(lambda: keys == ["r"])
    assert termios.tcgetattr(slave)[3] & termios.ICANON


def test_without_a_terminal_the_heart_beats_while_the_program_runs_and_stops_with_the_driver():
    read, write = os.pipe()
    gone = threading.Event()
    beats = []

    def beat():
        if gone.is_set():
            raise LinkDown("the driver is gone")
        beats.append(1)

    with Keyboard(lambda key: None, beat, read) as keyboard:
        assert not keyboard.terminal
        until(lambda: len(beats) > 2)
        gone.set()
        until(lambda: keyboard.lost)
    assert keyboard.lost == "the driver is gone"
    os.close(read)
    os.close(write)


def test_F25_keys_that_died_are_a_lost_operator(terminal):
    master, slave = terminal
    beats = []

    def on_key(key):
        raise ZeroDivisionError("a bug")

    with Keyboard(on_key, lambda: beats.append(1), slave) as keyboard:
        until(lambda: beats)
        os.write(master, b" ")
        until(lambda: keyboard.lost)
        assert "ZeroDivisionError" in keyboard.lost
