"""How the episode pool talks to the working side: in this process, or over a socket to a worker process."""

from __future__ import annotations

import multiprocessing.connection
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection

from robopolicy.sim.pool_parcels import make_depot, unpack
from robopolicy.sim.pool_slots import Advance, Command, Reply, SlotRunner
from robopolicy.sim.pool_worker import spawn_worker
from robopolicy.sim.registry import EnvConfig


class WorkerLost(Exception):
    """The worker process ended or hung; the message says which."""


class Link(ABC):
    """A queue of commands to one worker; replies come in the order of the commands."""

    def __init__(self) -> None:
        self.pending: deque[Command] = deque()  # sent and not answered, oldest first

    @abstractmethod
    def send(self, command: Command) -> None:
        """Queue a command."""

    @abstractmethod
    def receive(self) -> list[Reply]:
        """Replies that are ready, possibly none; raises ``WorkerLost``."""

    @abstractmethod
    def close(self) -> None:
        """End the worker."""


class LocalLink(Link):
    """Runs commands here, when their replies are asked for (debugging, and the reference for the others)."""

    def __init__(self, config: EnvConfig) -> None:
        super().__init__()
        self._runner = SlotRunner(config)

    def send(self, command: Command) -> None:
        """Queue a command; it runs in ``receive``."""
        self.pending.append(command)

    def receive(self) -> list[Reply]:
        """Carry out the oldest command."""
        return [self._runner.handle(self.pending.popleft())] if self.pending else []

    def close(self) -> None:
        """Close the environments and forget what was pending."""
        self._runner.close()
        self.pending.clear()


class ProcessLink(Link):
    """A worker process; started at the first command, ended by ``close`` or by losing its socket.

    ``timeout_s`` bounds one chunk, ``startup_timeout_s`` any other command (it may build the simulator first).
    """

    def __init__(self, config: EnvConfig, timeout_s: float, startup_timeout_s: float) -> None:
        super().__init__()
        self._config, self._timeout, self._startup_timeout = config, timeout_s, startup_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._head_since = 0.0
        self._depot: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def connection(self) -> Connection | None:
        """The parent's end, for waiting on several links at once."""
        return self._connection

    def send(self, command: Command) -> None:
        """Send a command; a worker that just died is noticed by ``receive``."""
        if self._connection is None:
            self._start()
        if not self.pending:
            self._head_since = time.monotonic()
        self.pending.append(command)
        try:
            assert self._connection is not None
            self._connection.send(command)
        except OSError:
            return

    def receive(self) -> list[Reply]:
        """Replies that lie ready, without waiting."""
        if self._connection is None:
            return []
        replies = []
        try:
            while self.pending and self._connection.poll(0):
                replies.append(unpack(self._connection.recv(), self._depot_name))
                self.pending.popleft()
                self._head_since = time.monotonic()
        except (EOFError, OSError) as e:
            if replies:  # hand these out first; the end of the stream will be met again
                return replies
            raise WorkerLost(f"worker process ended (exit code {self._exit_code()})") from e
        if not replies:
            self._check_clock()
        return replies

    def close(self) -> None:
        """Kill the worker (its environments hold nothing that must be saved) and forget what was pending."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=0.5)  # it ends by itself when the socket closes
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._depot is not None:
            self._depot.cleanup()
        self._process = self._connection = self._depot = None
        self.pending.clear()

    @property
    def _depot_name(self) -> str:
        assert self._depot is not None
        return self._depot.name

    def _start(self) -> None:
        self._depot = make_depot()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = spawn_worker(theirs.fileno())
        self._connection = Connection(ours.detach())
        try:
            self._connection.send((self._config, sys.path, self._depot.name))
        except OSError:
            return

    def _exit_code(self) -> int | None:
        assert self._process is not None
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return None

    def _check_clock(self) -> None:
        if not self.pending:
            return
        limit = self._timeout if isinstance(self.pending[0], Advance) else self._startup_timeout
        if time.monotonic() - self._head_since > limit:
            raise WorkerLost(f"worker process gave no answer for {limit:g} s")


def wait_for_any(links: Sequence[Link], seconds: float = 0.2) -> None:
    """Sleep until one of the links with pending commands has something to say, at most ``seconds``."""
    waiting = [c for x in links if x.pending and isinstance(x, ProcessLink) and (c := x.connection) is not None]
    if waiting:
        multiprocessing.connection.wait(waiting, timeout=seconds)
