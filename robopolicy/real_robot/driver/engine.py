"""What runs a driver: what arrives, one control tick, what is sent; no threads, and no waiting in a tick.

``tick`` is called on a 100 Hz grid by whoever owns the time: a thread (``LocalDriver``), a process of its own, or a
test in lock-step.  Everything that touches the state machine or the loop is serialised by ``lock``.  What must wait for
an answer of the bridge (the time, the graph, preflight) is done by ``Errands``, elsewhere.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from robopolicy.core.errors import BridgeError, RequestRefused
from robopolicy.real_robot.clock import Clock, VirtualClock
from robopolicy.real_robot.control.loop import ControlLoop, Inputs, TickRecord
from robopolicy.real_robot.control.plan import Plan
from robopolicy.real_robot.control.policy_watch import PolicyWatch
from robopolicy.real_robot.control.states import ENGAGED, State, StateMachine
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.driver.clock_sync import ClockSync
from robopolicy.real_robot.driver.commands import Commands
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Report
from robopolicy.real_robot.driver.gripper import GripperWorker
from robopolicy.real_robot.driver.guard_watch import GuardWatch
from robopolicy.real_robot.driver.guarded_tap import GuardedTap
from robopolicy.real_robot.driver.realtime import Lateness
from robopolicy.real_robot.driver.sources import Sources
from robopolicy.real_robot.log.tap import Tap
from robopolicy.real_robot.log.tapped import TappedLoop
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import Setpoint
from robopolicy.real_robot.wire.client import LinkState, RosbridgeClient
from robopolicy.real_robot.wire.client_actions import ActionClient, GoalHandle

LOG = logging.getLogger(__name__)


class Engine:
    """See the module.

    Args:
        config: the set-up.
        client: a fresh client, not connected; the core connects and closes it.
        clock: time of this machine, the same that the client has.

    ``sources.sink`` gets every sample that is taken.
    """

    def __init__(self, config: FrankaBridgeConfig, client: RosbridgeClient, clock: Clock) -> None:
        self.config, self.client, self.clock = config, client, clock
        self.names, self.times, self.limits = config.interface(), config.times, config.safety()
        self.lock = threading.RLock()
        self.machine = StateMachine(self.times, recovery=self._ask_recovery)
        arm = SafetyFilter(self.limits, self.times, config.kinematics(), config.hardware())
        self.loop = ControlLoop(arm, Plan(self.limits, config.arm_latency, config.gripper_latency), self.machine)
        self.sources, self.sync = Sources(config), ClockSync(client, clock)
        self.commands, self.guard = Commands(client, self.names, clock), GuardWatch(config.guard)
        self.gripper: GripperWorker | None = None
        if config.gripper is not None:
            self.gripper = GripperWorker(client, self.names, clock, config.gripper, self.limits, self.times)
        self.policy = PolicyWatch(self.times)
        self.guarded = GuardedTap()
        self.tapped = TappedLoop(self.loop, self.guarded)
        self.report: Report | None = None
        self.record: TickRecord | None = None
        self.monitor_only = True
        self.lateness = Lateness()
        self._late = (-1, (0.0, 0.0))
        self.reconnects = 0
        self.pass_time: Callable[[float], None] = self._sleep
        self._recovery: ActionClient | None = None
        self._recovering: GoalHandle | None = None
        self._epoch = 0
        self._green: int | None = None
        self._armed: int | None = None
        self._voided = 0
        self._again = False
        self._operator_at = -math.inf
        self._teleop: tuple[Setpoint, float] | None = None
        self._linked = False
        self._dt = 0.1
        self._recorded_in = ""
        self.ticking, self.leaving, self.closed, self.over = False, "", False, False

    @property
    def tap(self) -> Tap | None:
        """Who is told everything that the loop is given and returns."""
        return self.guarded.tap

    @tap.setter
    def tap(self, tap: Tap | None) -> None:
        self.guarded.tap, self.guarded.ended = tap, ""

    @property
    def recording(self) -> str:
        """Folder of the log in progress, as whoever keeps it has set it; or why it ended."""
        return self.guarded.ended or self._recorded_in

    @recording.setter
    def recording(self, text: str) -> None:
        self._recorded_in = text

    @property
    def ticks(self) -> int:
        """So far."""
        return self.loop.counters.ticks

    # -- the link ------------------------------------------------------------------------------------------------------

    def connect(self, monitor_only: bool = True, timeout: float = 5.0) -> None:
        """Connect, subscribe, and, unless only watching, advertise; raises ``LinkDown``."""
        if self._epoch:
            raise RequestRefused("connect: this driver was connected before; make a new one")
        self.client.connect(timeout)
        with self.lock:
            self.monitor_only, self._epoch, self._linked = monitor_only, self.client.epoch, True
            self.sources.subscribe(self.client)
            self.guard.subscribe(self.client)
            if not monitor_only:
                self.commands.open()
                if self.gripper is not None:
                    self.gripper.open()
                if self.names.recovery is not None:
                    self._recovery = ActionClient(self.client, self.names.recovery, "franka_msgs/ErrorRecovery")
        self.sync.probe()
        self.look()

    def _follow_link(self) -> bool:
        """Whether the link is up and the one of the last tick; a new one begins with nothing known."""
        up, epoch = self.client.state is LinkState.UP, self.client.epoch
        if up and epoch == self._epoch:
            self._linked = True
            if self.client.inbox.bad_burst(self.clock.now()):
                self.client.drop_link("more than 20 unreadable frames a second")
            return True
        if self._linked:
            self._linked = False
            self.guarded.noted("link lost", self.clock.now(), why=self.client.reason)
            if self._recovery is not None:
                self._recovery.link_lost()
        if up:
            # Lost and made anew between two ticks, or just come back: the tick after this one sees it up.
            self._epoch, self.reconnects = epoch, self.reconnects + 1
            self.sources.restart()
            self.commands.restart()
            self.sync.want()
            self._void(again=True)
            self.guarded.noted("link up", self.clock.now(), epoch=epoch)
        return False

    def _void(self, again: bool = False) -> None:
        """What preflight saw is no longer so."""
        self._green = None
        self._voided += 1
        self._again |= again and self.report is not None

    # -- one tick ------------------------------------------------------------------------------------------------------

    def tick(self, now: float | None = None) -> TickRecord:
        """Take in what arrived, decide, send; ``now`` is that of the clock unless given."""
        with self.lock:
            if self.over and self.record is not None:
                return self.record
            now, self.ticking = self.clock.now() if now is None else now, True
            try:
                inputs = self._inputs(now, self._follow_link())
                record = self.record = self.tapped.tick(now, inputs)
                self._send(record, now)
                self._after(record)
                # A trouble that came up since is for the next tick to see, not to be forgotten here.
                if inputs.health.clock is not None and self.sync.told():
                    self.sources.restart(clock_set=True)
                    self.commands.clock_set()
            finally:
                self.ticking = False
        if self.leaving:
            self.leave()
        return record

    def leave(self) -> None:
        """What a signal's handler asked for in the middle of a tick."""

    def look(self, *forgiven: str) -> None:
        """Have the state machine look at things now, between two ticks, but not at what is ``forgiven`` (fields of
        ``Health``): the hand's last goal that is about to be tried again, say."""
        with self.lock:
            now, count = self.clock.now(), len(self.machine.events)
            health = self._inputs(now, self._follow_link()).health
            nothing: dict[str, Any] = dict.fromkeys(forgiven)
            self.tapped.look(now, dataclasses.replace(health, **nothing))
            for event in self.machine.events[count:]:
                self._follow_event(event.before, event.after)

    def _inputs(self, now: float, link: bool) -> Inputs:
        self.take_in(now)
        age = self.commands.age(now)
        return Inputs(
            measured=self.sources.measured,
            health=self._health(now, link, age),
            loopback_at=None if age is None else now - age,
            operator_at=self._operator_at if self.config.dead_man else None,
            teleop=self._teleop,
        )

    def take_in(self, now: float) -> None:
        """Read what arrived since (also between ticks, for the freshest observation)."""
        with self.lock:
            if self.sync.ready:
                future = self.sources.counters["state.future"]
                trouble = self.sources.drain(now, self.sync.theta(now), self._epoch)
                if trouble is not None:
                    self.sync.distrust(trouble)
                elif self.sources.counters["state.future"] > future:
                    self.sync.hurry()

    def _health(self, now: float, link: bool, loopback: float | None) -> Health:
        observer, arm, worker = self.sources.observer, self.sources.arm, self.gripper
        hand = worker.problem if worker is not None else None
        return Health(
            link=link,
            preflight=link and self._green == self.client.epoch,
            state_age=observer.state_age(now),
            state_rate=observer.state_rate(),
            loopback_age=loopback,
            camera_age=observer.camera_age(now),
            operator_age=now - self._operator_at if self.config.dead_man else None,
            mode=arm.mode if arm is not None else 0,
            errors=arm.errors if arm is not None else (),
            clock=self.sync.trouble,
            policy=self.policy.problem(now, self._hungry(now)),
            rivals=self.commands.rivals(now),
            gripper=hand or self.sources.gripper_problem(now, self.times.gripper_reading),
            gripper_fault=worker is not None and worker.fault,
            guard=self.guard.problem(now, self.client.epoch),
        )

    def _hungry(self, now: float) -> float:
        """Seconds since the plan ended."""
        end = self.loop.plan.end
        running = self.machine.state is State.RUNNING and self.machine.epoch == self.loop.plan.epoch
        return max(0.0, now - end) if running and end is not None else 0.0

    def _send(self, record: TickRecord, now: float) -> None:
        if record.publish is not None and self._armed is not None and self.sync.ready:
            self.commands.send(record.publish, now + self.sync.theta(now), self._armed)
        if self.gripper is not None and self._linked and not self.monitor_only:
            ages = self.sources.observer.ages(now)
            fresh = ages.get("gripper", math.inf) <= self.times.gripper_reading
            self.gripper.wish(record.gripper)
            self.gripper.tick(now, self.sources.width if fresh else None)

    def _after(self, record: TickRecord) -> None:
        for event in record.events:
            self._follow_event(event.before, event.after)
        done = self._recovering
        if done is not None and done.outcome.done():
            self._recovering = None
            error = done.outcome.exception()
            text = str(error) if error is not None else done.outcome.result().text
            self.guarded.noted("recovery", record.at, answer=text or "done")

    def _follow_event(self, before: State, after: State) -> None:
        """After a stop, a fault or a return to LINKED somebody may have changed the robot: look at it again."""
        if after in (State.FAULT, State.ESTOP, State.LINKED) and before is not State.OFF and before is not after:
            self._void(again=after is State.LINKED)
        if after not in ENGAGED:
            self._teleop = None
            self.guard.began(None, self.clock.now())  # nothing is sent, so it ends the session by itself
        if after is State.ESTOP and self.gripper is not None:
            self.gripper.halt()

    def _ask_recovery(self) -> None:
        """``StateMachine.recovery``.  ROS 2 offers none: there the operator has cleared the errors in Desk."""
        if self._recovery is not None:
            self._recovering = self._recovery.send()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _sleep(self, seconds: float) -> None:
        # In lock-step only the sockets need time, the robot's stands still: whoever steps it sets ``pass_time``.
        time.sleep(min(seconds, 0.01) if isinstance(self.clock, VirtualClock) else seconds)

    def close(self) -> None:
        """Take the topics back and disconnect."""
        with self.lock:
            try:
                self.commands.close()
            except BridgeError as e:
                LOG.info("driver: %s", e)
            self._armed = self._green = None
            self.over = True
        self.client.close()
