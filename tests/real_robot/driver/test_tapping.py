"""A recorder may be slow, full or broken; the loop does not notice."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

from robopolicy.real_robot.driver.tapping import QueuedTap
from robopolicy.real_robot.log.tap import Call, Tap


class Recorder:
    """Keeps what it is told, once ``gate`` is open."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.told: list[tuple] = []
        self.gate, self.fails_at = threading.Event(), fails_at

    def __getattr__(self, name: str):
        def tell(*what: object, **facts: object) -> None:
            assert self.gate.wait(30)
            if len(self.told) == self.fails_at:
                raise OSError(28, "No space left on device")
            self.told.append((name, *what, facts) if facts else (name, *what))

        return tell


def test_F39_a_recorder_that_hangs_never_delays_a_tick_and_overflow_ends_the_recording():
    recorder = Recorder()  # the gate stays shut: an encoder that hangs
    tap = QueuedTap(recorder, depth=100)
    longest = 0.0
    for i in range(10_000):
        began = time.thread_time()
        tap.ticked(i, i)
        longest = max(longest, time.thread_time() - began)
    assert longest < 0.005
    assert tap.ended.startswith("the recorder is too slow: 100 ticks and calls")
    assert tap.waiting == 0  # and nothing is kept for it
    recorder.gate.set()
    assert tap.close()
    assert len(recorder.told) <= 1


def test_F39_a_full_disk_ends_the_recording_and_is_marked():
    recorder = Recorder(fails_at=5)
    recorder.gate.set()
    tap = QueuedTap(recorder)
    for i in range(20):
        tap.ticked(i, i)
    assert tap.close()
    assert tap.ended == "the recorder failed: OSError: [Errno 28] No space left on device"
    assert [t[1] for t in recorder.told] == list(range(5))
    tap.ticked(21, 21)
    assert tap.waiting == 0


def test_everything_is_passed_on_in_its_order():
    recorder = Recorder()
    recorder.gate.set()
    tap = QueuedTap(recorder)
    assert isinstance(tap, Tap)
    call, chunk = Call("start", 1.0), SimpleNamespace()
    tap.looked(0.5, "health")
    tap.called(call)
    tap.submitted(chunk, True, 1.5)
    tap.ticked("inputs", "record")
    tap.noted("clock", 2.0, offset=0.1)
    assert tap.close()
    assert not tap.ended
    assert recorder.told == [
        ("looked", 0.5, "health"),
        ("called", call),
        ("submitted", chunk, True, 1.5),
        ("ticked", "inputs", "record"),
        ("noted", "clock", 2.0, {"offset": 0.1}),
    ]
