"""What a driver shows of itself: its status, what is counted, and what is not as it should be."""

from __future__ import annotations

import dataclasses
import math

from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Status
from robopolicy.real_robot.driver.engine import Engine
from robopolicy.real_robot.driver.preflight import CAMERA_SHARE, STATE_RATE
from robopolicy.real_robot.safety.types import SafetyFlag
from robopolicy.real_robot.wire.client import LinkState


class Showing(Engine):
    """An engine that can be looked at; nothing here changes it but for taking in what arrived."""

    def status(self) -> Status:
        """The driver now."""
        with self.lock:
            now = self.clock.now()
            self.take_in(now)
            observer, arm, record, offset = self.sources.observer, self.sources.arm, self.record, self.sync.offset
            ages = observer.ages(now)
            if (loopback := self.commands.age(now)) is not None:
                ages["loopback"] = loopback
            if self.config.dead_man:
                ages["operator"] = now - self._operator_at
            if (guard := self.guard.heard(self.client.epoch)) is not None:
                ages["guard"] = now - guard.arrival
            emitted = record.emitted if record is not None else None
            late = self.late()
            running = self.machine.state is State.RUNNING
            return Status(
                now=now,
                state=self.machine.state,
                why=self.machine.why,
                epoch=self.machine.epoch,
                link=self.client.state is LinkState.UP,
                plan_end=self.loop.plan.end if running and self.loop.plan.epoch == self.machine.epoch else None,
                starved=self._hungry(now),
                measured=arm.pose if arm is not None else None,
                q=tuple(arm.q.tolist()) if arm is not None else (),
                width=self.sources.width,
                force=math.hypot(*arm.force.tolist()) if arm is not None else 0.0,
                emitted=record.publish if record is not None else None,
                emitted_gripper=emitted.gripper if emitted is not None else None,
                flags=record.flags if record is not None else SafetyFlag.NONE,
                mode=arm.mode if arm is not None else 0,
                errors=arm.errors if arm is not None else (),
                ages=ages,
                rates=observer.rates(),
                clock_offset=offset.wall if offset is not None else None,
                late_p50=late[0],
                late_p99=late[1],
                counters=self.counters(),
                preflight=self.report,
                recording=self.recording,
                extra=self._extra(now),
                problem=self.guard.problem(now, self.client.epoch) or "",
            )

    def counters(self) -> dict[str, int]:
        """Everything that is counted."""
        found: dict[str, int] = dict(dataclasses.asdict(self.loop.counters))
        found |= self.sources.counters | self.commands.counters
        found |= {"reconnects": self.reconnects, "sent": self.client.sent, "discarded": self.client.discarded}
        found |= {f"wire.{name}": n for name, n in (self.client.counters | self.client.inbox.counters).items()}
        if self.gripper is not None:
            found |= {f"gripper.{name}": n for name, n in self.gripper.counters.items()}
        return found

    def late(self) -> tuple[float, float]:
        """Median and 99th percentile of how late the last ticks began, s; made anew every hundred ticks."""
        if self._late[0] != self.ticks // 100:
            self._late = self.ticks // 100, self.lateness.percentiles()
        return self._late[1]

    def _extra(self, now: float) -> dict[str, object]:
        found: dict[str, object] = {"monitor_only": self.monitor_only, "operator": self.machine.operator}
        found |= {"clock_trouble": self.sync.trouble, "pictures": dict(self.sources.pictures)}
        found |= {"warnings": self._warnings()}
        found |= {"least_delay": self.sources.state.watch.least_delay, "rtt": self.client.rtt}
        if (guard := self.guard.heard(self.client.epoch)) is not None:
            found["guard"] = guard.message["data"]
        if self.gripper is not None:
            found |= {"gripper_problem": self.gripper.problem, "gripper_holding": self.gripper.holding}
        return found

    def _warnings(self) -> list[str]:
        """What is not as it should be, and no reason to hold."""
        found, rates = [], self.sources.observer.rates()
        wanted = {"state": STATE_RATE} | {
            f"camera.{name}": CAMERA_SHARE * camera.fps for name, camera in self.config.cameras.items()
        }
        for name, least in wanted.items():
            if 0 < rates[name] < least:
                found.append(f"{name} at {rates[name]:.1f} Hz, expected {least:g} or more")
        if self.sync.failure:
            found.append(f"the robot's time is not told: {self.sync.failure}")
        return found
