"""A driver and the twin over a real websocket on one virtual clock, a control tick at a time, for tests."""

from __future__ import annotations

from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.local import LocalDriver
from robopolicy.real_robot.twin.runner import TwinRunner


class LockStep:
    """``runner``: of a twin in lock-step on ``clock``; ``step`` lets both sides do 10 ms at a time."""

    def __init__(self, runner: TwinRunner, config: FrankaBridgeConfig, clock: VirtualClock) -> None:
        self.runner, self.clock = runner, clock
        self.driver = LocalDriver(config, clock)
        self.driver.pass_time = self.step

    def step(self, seconds: float = 0.01) -> None:
        """Let time pass; what either side says has reached the other before the next tick."""
        for _ in range(max(1, round(seconds / 0.01))):
            self.driver.rendezvous()
            self.runner.advance(10)
            self.driver.rendezvous()
            self.driver.tick()

    def run(self, operator: str = "tester") -> None:
        """From connected to RUNNING; raises ``AssertionError`` with what is not green."""
        self.step(1.5)
        report = self.driver.preflight()
        assert report.green, report.failures()
        self.driver.tick()
        self.driver.ask_to_arm(operator)
        self.driver.confirm_arming(operator)
        self.step(0.1)
        self.driver.start()
        self.step(0.02)
