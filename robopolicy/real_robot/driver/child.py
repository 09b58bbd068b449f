"""A process of our own that answers calls: started, asked, listened to, and brought to its end.

Used by ``remote``.  Messages are JSON over a socket pair; a call has a number, and its answer that number.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import robopolicy
from robopolicy.core.errors import ControlProcessLost, RobopolicyError, ServiceFailed
from robopolicy.real_robot.driver.packing import error_of, pack_json
from robopolicy.real_robot.driver.realtime import one_thread

MODULE = "robopolicy.real_robot.driver.process"
END, KILL = 15.0, 5.0  # s to end in good order, and after a signal


class Child:
    """The control process, from this side.

    Args:
        memory: descriptor of the shared memory, which it inherits.
        first: what it is told first; answered as call 0 (``ready``).
        lost: called once, in a thread, when it has gone, before anybody else learns of it; returns what is known of its
            last moments.
    """

    def __init__(self, memory: int, first: Mapping[str, Any], lost: Callable[[], str]) -> None:
        self._lost_call, self.lost = lost, ""
        self.lock = threading.RLock()  # a signal's handler may come in the middle of a call of its own thread
        self._waiting: dict[int, Future[Any]] = {0: Future()}
        self._calls = 0
        self._ready = self._waiting[0]
        self.process, self._channel = _started(memory)
        self._reader = threading.Thread(target=self._listen, name="control-process", daemon=True)
        self._reader.start()
        with contextlib.suppress(ControlProcessLost):  # ``ready`` says so
            self._send(first)

    def ready(self, seconds: float) -> None:
        """Wait until it is; raises what kept it from that."""
        self._wait(self._ready, "start", seconds)

    def call(self, name: str, seconds: float, arguments: Mapping[str, Any]) -> Any:
        """Have it done and wait for the value; raises what it raised, ``ServiceFailed`` after ``seconds``, or
        ``ControlProcessLost``."""
        future: Future[Any] = Future()
        with self.lock:
            self.check()
            self._calls += 1
            number = self._calls
            self._waiting[number] = future
        self._send({"id": number, "call": name, "arguments": arguments})
        return self._wait(future, name, seconds)

    def tell(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Have it done without waiting."""
        self.check()
        self._send({"id": 0, "call": name, "arguments": arguments})

    def check(self) -> None:
        """Raise ``ControlProcessLost`` if it is gone."""
        if self.lost:
            raise ControlProcessLost(self.lost)

    def close(self) -> None:
        """Wait for its end, make one if it takes too long, and give everything back.  Safe to call twice."""
        for seconds, more in ((END, self.process.terminate), (KILL, self.process.kill), (KILL, self.process.kill)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
                break
            more()
        self._reader.join(KILL)
        if not self._reader.is_alive():
            self._channel.close()

    # -- the channel ---------------------------------------------------------------------------------------------------

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            with self.lock:
                self._channel.send_bytes(pack_json(message))
        except OSError:
            self._gone()
            self.check()

    def _wait(self, future: Future[Any], name: str, seconds: float) -> Any:
        try:
            return future.result(seconds)
        except FutureTimeout:
            raise ServiceFailed(
                f"{name}: the control process {self.process.pid} did not answer within {seconds:g} s; disconnect() "
                "ends it"
            ) from None

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = json.loads(self._channel.recv_bytes())
                future = self._waiting.pop(message["id"], None)
                if future is None:
                    continue
                if "error" in message:
                    future.set_exception(error_of(message["error"]))
                else:
                    future.set_result(message["value"])
        self._gone()

    def _gone(self) -> None:
        """Its end of the channel is closed: find out why, and let everybody know."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(KILL)
        code = self.process.returncode
        how = "closed its channel" if code is None else f"ended ({_spoken(code)})"
        with self.lock:
            if not self.lost:
                self.lost = (
                    f"the control process {self.process.pid} {how}{self._lost_call()}. The controller keeps the last "
                    "target: look at the arm, then make a new FrankaBridgeRobot"
                )
            waiting, self._waiting = self._waiting, {}
        error: RobopolicyError = ControlProcessLost(self.lost)
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)


def _started(memory: int) -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        environment = one_thread(os.environ)
        # The same package, from wherever this one came.
        root = str(Path(robopolicy.__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(theirs.fileno()), str(memory), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), memory),
            env=environment,
            start_new_session=True,  # Ctrl-C, Ctrl-Z and a closing terminal are for this process only
        )
    return process, Connection(ours.detach())


def _spoken(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
