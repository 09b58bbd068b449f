"""What comes in: subscriptions, judged by their stamps, read, and kept for observations and for the control loop.

The client's thread only queues what arrived (``Slot.on_sample``); everything else happens in ``drain``, which the tick
calls.  A sample whose stamp lies in the future, went back or stands still is dropped and counted: it then ages, and the
watchdogs act on the age.  Pictures stay JPEG bytes (``pictures`` decodes them on use).
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from robopolicy.core.errors import InvalidMessage
from robopolicy.real_robot.control.clocks import STEP, StampWatch
from robopolicy.real_robot.control.observations import Frame, NoSnapshot, Observer, Snapshot, StateSample
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.pictures import picture_problem
from robopolicy.real_robot.driver.state_messages import ArmState, arm_state, finger_width
from robopolicy.real_robot.safety.types import WIDTH_MOST, Measured
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.slot import Sample, Slot

QUEUE = 64  # samples of a source that may wait for the next tick


class Sink(Protocol):
    """Whoever wants every sample that was taken as well (another process's ``Observer``, for one); called in the tick,
    so it must be quick."""

    def state(self, sample: StateSample) -> object:
        """A state."""
        ...

    def gripper(self, time: float, width: float) -> object:
        """A reading of the hand."""
        ...

    def frame(self, camera: str, frame: Frame) -> object:
        """A picture."""
        ...

    def bad_frame(self, camera: str) -> object:
        """A picture that was none."""
        ...

    def objects(self, time: float, names: tuple[str, ...], values: tuple[float, ...]) -> object:
        """Where the objects are."""
        ...

    def restart(self) -> object:
        """All before is void: a new link, or a clock that was set."""
        ...


class Source:
    """One subscription: what waits, and the judge of its stamps.  ``key`` names it in counters."""

    def __init__(self, key: str, latency: float = 0.0, stampless: bool = False) -> None:
        self.key, self.stampless = key, stampless
        self.watch = StampWatch(latency)
        self.queue: deque[Sample] = deque(maxlen=QUEUE)
        self.slot: Slot | None = None

    def subscribe(self, client: RosbridgeClient, topic: str, kind: str, **how: object) -> None:
        """Hear ``topic``."""
        self.slot = client.subscribe(topic, kind, on_sample=self.queue.append, **how)  # type: ignore[arg-type]

    def restart(self, clock_set: bool) -> None:
        """Forget what waits, and the order of stamps; that of the slot only if the robot's clock was set (a new link
        may begin with an old message, which the slot knows how to tell)."""
        self.watch.restart()
        self.queue.clear()
        if self.slot is not None:
            self.slot.last_stale = None
            if clock_set:
                self.slot.restart()


class Sources:
    """All of them.  Not locked: whoever owns the loop serialises the calls.

    ``observer``: what observations are made of.  ``measured``: the newest state for the control loop, ``arm`` the same
    as the robot told it.  ``width``: between the fingers, m.  ``counters``: samples dropped, by source and reason.
    ``pictures``: camera -> what was wrong with its last picture, if anything was.
    """

    def __init__(self, config: FrankaBridgeConfig) -> None:
        self.config, self.names, self._arm_model = config, config.interface(), config.kinematics()
        self.counters: Counter[str] = Counter()
        self.pictures: dict[str, str] = {}
        self.sink: Sink | None = None
        self.state = Source("state")
        self.hand = Source("gripper") if config.gripper is not None else None
        self.tracker = Source("objects") if config.objects is not None else None
        self.cameras = {
            name: Source(f"camera.{name}", config.cameras[name].latency, stampless=True) for name in config.camera_names
        }
        self._forget()

    def _forget(self) -> None:
        c = self.config
        self.observer = Observer(c.camera_names, c.times, c.gripper_reading, self.hand is not None, bool(c.objects))
        nowhere = np.array((0.0, 0.0, 0.0, 1.0))
        self.measured = Measured(-math.inf, nowhere[:3], nowhere)
        self.arm: ArmState | None = None
        self.width: float | None = None
        self._back = math.inf, -math.inf

    def restart(self, clock_set: bool = False) -> None:
        """A new link, or a clock that was set: what is known is void."""
        for source in self.all():
            source.restart(clock_set)
        self._forget()
        if self.sink is not None:
            self.sink.restart()

    def all(self) -> list[Source]:
        """Every source of this set-up."""
        return [s for s in (self.state, self.hand, self.tracker, *self.cameras.values()) if s is not None]

    def subscribe(self, client: RosbridgeClient) -> None:
        """Hear everything (once; the client repeats it after a reconnect)."""
        names, c = self.names, self.config
        self.state.subscribe(client, names.state, names.state_type, throttle_ms=c.state_throttle_ms)
        if self.hand is not None:
            self.hand.subscribe(client, names.gripper_states, "sensor_msgs/JointState")
        if self.tracker is not None and c.objects is not None:
            self.tracker.subscribe(client, c.objects, "sensor_msgs/JointState")
        for name, source in self.cameras.items():
            source.subscribe(client, names.cameras[name], "sensor_msgs/CompressedImage", binary=True)

    # -- taking in -----------------------------------------------------------------------------------------------------

    def drain(self, now: float, theta: float, epoch: int) -> str | None:
        """Take in what arrived on the connection ``epoch``; ``theta``: robot's clock minus local monotonic clock.

        Returns why stamps cannot be trusted, if a state showed that a clock was set.
        """
        trouble = self._set_back(epoch) or self._states(theta, epoch)
        if trouble is not None:
            return trouble
        for source, take in self._others():
            for sample, time, assumed in self._dated(source, theta, epoch):
                take(sample, time, assumed)
        return None

    def _others(self) -> list[tuple[Source, Callable[[Sample, float, bool], None]]]:
        found: list[tuple[Source, Callable[[Sample, float, bool], None]]] = []
        if self.hand is not None:
            found.append((self.hand, self._take_width))
        if self.tracker is not None:
            found.append((self.tracker, self._take_objects))
        for name, source in self.cameras.items():
            found.append((source, lambda s, t, a, name=name: self._take_picture(name, s, t, a)))  # type: ignore[misc]
        return found

    def _set_back(self, epoch: int) -> str | None:
        """The robot's clock was set back: its slot drops every state as old, although each is newer than the one
        before.  A single old one is only late."""
        slot = self.state.slot
        if slot is None or slot.last_stale is None or (newest := slot.newest()) is None or newest.stamp is None:
            return None
        (stamp, arrival), slot.last_stale = slot.last_stale, None
        (before, then), self._back = self._back, (stamp, arrival)
        back = stamp - newest.stamp
        if back < -STEP and before < stamp and newest.arrival < then and newest.epoch == epoch:
            self.state.queue.clear()
            return f"clock: the robot's stamps jumped by {back:+.3f} s"
        return None

    def _dated(self, source: Source, theta: float, epoch: int) -> list[tuple[Sample, float, bool]]:
        """What waits and can be believed, with the time of its content."""
        found = []
        while source.queue:
            sample = source.queue.popleft()
            if sample.epoch != epoch:
                self.counters[f"{source.key}.old_link"] += 1
                continue
            dated = source.watch.judge(sample.stamp or 0.0, sample.arrival, theta)
            if dated.fault is not None:
                self.counters[f"{source.key}.{dated.fault.name.lower()}"] += 1
            elif dated.assumed and not source.stampless:
                self.counters[f"{source.key}.no_stamp"] += 1
            else:
                found.append((sample, dated.time, dated.assumed))
        return found

    def _states(self, theta: float, epoch: int) -> str | None:
        for sample in list(self.state.queue):
            jump = self.state.watch.step(sample.stamp or 0.0, sample.arrival, theta)
            if jump is not None and sample.epoch == epoch:
                self.state.queue.clear()
                self.counters["state.clock_step"] += 1
                return f"clock: the robot's stamps jumped by {jump:+.3f} s"
        newest: tuple[ArmState, float] | None = None
        for sample, time, _ in self._dated(self.state, theta, epoch):
            try:
                arm = arm_state(sample.message, self.names.ros, self.config.arm_id)
            except InvalidMessage:
                self.counters["state.invalid"] += 1
                continue
            state = StateSample(time, arm.pose, arm.q, arm.dq, arm.force)
            if not self.observer.state(state):
                self.counters["state.refused"] += 1
                continue
            newest = arm, time
            if self.sink is not None:
                self.sink.state(state)
        if newest is not None:
            self._measure(*newest)
        return None

    def _measure(self, arm: ArmState, time: float) -> None:
        # The state has no measured twist: it is the joints' speeds through the Jacobian.
        twist = self._arm_model.jacobian(arm.q) @ arm.dq
        width = self.width if self.width is not None else (WIDTH_MOST if self.hand is not None else 0.0)
        self.arm = arm
        self.measured = Measured(time, arm.pose.position, arm.pose.quaternion, twist, arm.q, arm.force, width)

    def _take_width(self, sample: Sample, time: float, assumed: bool) -> None:
        try:
            width = finger_width(sample.message, self.config.arm_id)
        except InvalidMessage:
            self.counters["gripper.invalid"] += 1
            return
        if self.observer.gripper(time, width):
            self.width = width
            if self.sink is not None:
                self.sink.gripper(time, width)

    def _take_objects(self, sample: Sample, time: float, assumed: bool) -> None:
        names, values = tuple(sample.message["name"]), tuple(sample.message["position"])
        if not self.observer.objects(time, names, values):
            self.counters["objects.refused"] += 1
        elif self.sink is not None:
            self.sink.objects(time, names, values)

    def _take_picture(self, name: str, sample: Sample, time: float, assumed: bool) -> None:
        data: bytes = sample.message["data"]
        why = picture_problem(sample.message["format"], data, self.config.cameras[name].size)
        if why is not None:
            self.pictures[name] = why
            self.counters[f"camera.{name}.bad"] += 1
            self.observer.bad_frame(name)
            if self.sink is not None:
                self.sink.bad_frame(name)
            return
        frame = Frame(time, data, assumed)
        self.pictures.pop(name, None)
        if self.observer.frame(name, frame) and self.sink is not None:
            self.sink.frame(name, frame)

    # -- asked -----------------------------------------------------------------------------------------------------

    def snapshot(self, now: float, steps: int, dt: float) -> Snapshot | NoSnapshot:
        """See ``Observer.snapshot``."""
        return self.observer.snapshot(now, steps, dt)

    def gripper_problem(self, now: float, limit: float) -> str | None:
        """Why the hand's reading is not to be relied on, or ``None``."""
        if self.hand is None:
            return None
        age = self.observer.ages(now)["gripper"]
        return None if age <= limit else f"its reading is {age:.2f} s old, limit {limit:g} s"
