"""A driver and a twin in lock-step over a real websocket: virtual time, equal runs for equal seeds, no sleeping.

Everything that would run on an arm does: client, gateway, safety filter, state machine, hand, watchdogs.  Only time is
ours: between two control ticks the twin is stepped by its service, and nobody goes on before what was said has arrived.
Runs of fresh worlds are equal to the last bit; a second episode of one world begins at another time of its clock, where
roundings fall otherwise and a chunk may come a tick later.

    with LockStep("panda_lift") as world, world.episode(seed=100000) as episode:
        runner = PolicyRunner(episode.driver, policy, executor, adapter)
        while episode.now < 10 and not episode.succeeded:
            runner.poll()
            episode.tick()
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robopolicy.core.errors import BridgeError
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.loop import TickRecord
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.local import LocalDriver
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.runner import running_twin
from robopolicy.real_robot.twin.twin import Twin
from robopolicy.real_robot.wire.gateway_config import GatewayConfig

TICK_MS = 10
ROUND = 100  # ms after which the rates of all topics (10, 20, 30, 100 Hz) begin anew
SETTLE = 0.3  # s before the preflight: rates are measured over it
OPERATOR = "lock-step"
STEP_TIMEOUT = 60.0  # real seconds that a step of the twin may take


@dataclass(eq=False)
class Episode:
    """One run of a fresh driver on a fresh scene, from READY on.

    ``driver``: for the runner.  ``twin``: the robot's side, for pictures and for its verdict.  ``started``: time at
    which it began to run.
    """

    driver: LocalDriver
    twin: Twin
    clock: VirtualClock
    started: float = 0.0
    records: list[TickRecord] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Seconds since it started."""
        return self.clock.now() - self.started

    @property
    def succeeded(self) -> bool:
        """Whether the task was solved at some moment so far."""
        return self.twin.succeeded

    def tick(self, count: int = 1) -> TickRecord:
        """So many control ticks, each followed by 10 ms of the robot."""
        for _ in range(count):
            record = self.driver.tick()
            self.records.append(record)
            self._step()
            self.speeds.append(float(np.linalg.norm(self.twin.arm.twist[:3])))
        return record

    def arm_and_start(self) -> None:
        """Two steps of arming and the start, as an operator does them; raises ``BridgeError`` if preflight is red."""
        report = self.driver.preflight()
        if not report.green:
            raise BridgeError("preflight: " + "; ".join(report.failures()))
        self.driver.ask_to_arm(OPERATOR)
        self.driver.confirm_arming(OPERATOR)
        self.tick(2)
        self.driver.start()
        self.started = self.clock.now()
        self.records.clear()
        self.speeds.clear()

    def pass_time(self, seconds: float) -> None:
        """Let time pass while nothing moves (preflight asks for it)."""
        self.tick(max(1, round(1000 * seconds / TICK_MS)))

    def _step(self) -> None:
        if not self.driver.rendezvous():
            raise BridgeError("lock-step: the link was lost")
        answer = self.driver.client.call_service(
            "/twin/step", "robopolicy_msgs/Step", {"ticks": TICK_MS}, timeout=STEP_TIMEOUT
        )
        if not answer["success"]:
            raise BridgeError(f"lock-step: {answer['message']}")
        if not self.driver.rendezvous():
            raise BridgeError("lock-step: the link was lost")


@dataclass(eq=False)
class LockStep:
    """A twin behind its gateway, for many episodes; use it with ``with``.

    ``robot``: settings of the driver, whose url is set here.  ``options``: of the task.  ``twin``: other settings of
    the twin.
    """

    task: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    robot: FrankaBridgeConfig = field(default_factory=lambda: FrankaBridgeConfig(objects="/twin/objects"))
    twin: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> LockStep:
        self.clock = VirtualClock()
        cameras = tuple(self.robot.camera_names)
        sizes = {self.robot.cameras[name].size for name in cameras} or {(96, 96)}
        config = TwinConfig(
            **{
                "task": self.task,
                "options": {"cameras": (), **self.options} if self.task else None,
                "cameras": cameras,
                "image_size": sizes.pop(),
                "camera_rate": min((self.robot.cameras[n].fps for n in cameras), default=10.0),
                "state_rate": self.robot.state_rate,
                "ros": self.robot.ros,
                "lock_step": True,
                **self.twin,
            }
        )
        self._stack = contextlib.ExitStack()
        self.runner, self.gateway = self._stack.enter_context(
            running_twin(config, GatewayConfig(port=0), clock=self.clock)
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def episode(self, seed: int, change: Callable[[LocalDriver], None] | None = None) -> Iterator[Episode]:
        """The scene of ``seed`` and a fresh driver that runs in it; ``change`` sees the driver before it connects."""
        twin = self.runner.twin
        self._forget_the_last()
        twin.reset(seed)
        config = dataclasses.replace(self.robot, url=self.gateway.url)  # type: ignore[type-var]
        with LocalDriver(config, self.clock) as driver:
            if change is not None:
                change(driver)
            episode = Episode(driver, twin, self.clock)
            driver.pass_time = episode.pass_time
            driver.connect(monitor_only=False)
            episode.pass_time(SETTLE)
            episode.arm_and_start()
            yield episode

    def _forget_the_last(self) -> None:
        """Wait (real time) until the driver before is gone; its last target must not be heard in the new scene."""
        face = self.runner.twin.face
        assert face is not None
        end = time.monotonic() + STEP_TIMEOUT
        while face.bus.publishers(face.names.command):
            if time.monotonic() > end:
                raise BridgeError(f"lock-step: the driver before still publishes on {face.names.command}")
            time.sleep(0.001)
        # On a round number of ticks, so that every topic's next message is as far away as in every other episode.
        self.runner.advance(ROUND - self.runner.twin.ticks % ROUND)


def running(episode: Episode) -> bool:
    """Whether the arm still follows the policy."""
    return episode.driver.machine.state is State.RUNNING
