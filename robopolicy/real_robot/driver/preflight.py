"""Everything that is looked at before the arm may be armed: one ``Check`` an item, with what was found and the cure.

Source: our own list, one item for each thing that rosbridge, the robot or its settings get wrong without a word.
Nothing here moves anything: the only topic written to is a probe of its own.  It takes one to fifteen seconds, so it
belongs into a thread that is not the control loop's, and it must not hold the loop's lock meanwhile.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable
from typing import Protocol

from robopolicy.core.errors import BridgeError
from robopolicy.real_robot.clock import Clock, VirtualClock
from robopolicy.real_robot.control.clocks import SPREAD_LIMIT, WALL_LIMIT, Offset
from robopolicy.real_robot.driver.config import PATIENCE, FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Check, Report, Status
from robopolicy.real_robot.driver.guard_watch import SILENT, said
from robopolicy.real_robot.driver.preflight_robot import robot_checks
from robopolicy.real_robot.guard.lease import TOPIC_GUARD
from robopolicy.real_robot.wire.client import LinkState, RosbridgeClient
from robopolicy.real_robot.wire.client_config import warnings_of
from robopolicy.real_robot.wire.messages import header, stamp_key, zeros

POSE = "geometry_msgs/PoseStamped"
FIRST = 2.0  # s within which every subscription must have delivered
GHOST = 12.0  # s for which a publisher may be one that a lost client left behind
ASK = 0.5  # s between two looks at the graph
STATE_RATE = 25.0  # Hz
CAMERA_SHARE = 0.8  # of the nominal rate
PROBES, PROBE_P99, PROBE_LOST = 100, 0.050, 0.25  # number; s; s after which one counts as lost
ROUNDS = itertools.count(1)


class Inspected(Protocol):
    """What the preflight needs of a driver's core."""

    client: RosbridgeClient
    config: FrankaBridgeConfig
    clock: Clock

    @property
    def offset(self) -> Offset | None:
        """The measured offset to the robot's clock; ``None`` before the first burst."""
        ...

    @property
    def commanding(self) -> bool:
        """Whether this driver has advertised the command topic."""
        ...

    def status(self) -> Status:
        """The driver now."""
        ...

    def pause(self, seconds: float) -> None:
        """Let time pass: sleep, or advance the robot's time in lock-step."""
        ...


def run_preflight(core: Inspected, more: Iterable[Callable[[], Iterable[Check]]] = ()) -> Report:
    """Look at everything; ``more``: items of the caller's, for instance those of the policy (``policy_checks``).

    Raises nothing that the bridge says: a question that is not answered is a failed item.
    """
    if core.client.state is not LinkState.UP:
        cure = "start the bridge and the gateway, look at url, then connect again"
        return Report((Check("link", False, core.client.reason or "down", "up", cure),))
    found = list(_link(core))
    arrived = _first_messages(core)
    found += arrived
    for name, look in (
        ("topic types", _types),
        ("rates", _rates),
        ("clock", _clock),
        ("robot", robot_checks),
        ("guard", _guard),
        ("probe", _probe),
        *((f"item {i}", lambda core, make=make: make()) for i, make in enumerate(more, 1)),
    ):
        try:
            found += look(core)
        except BridgeError as e:
            found.append(Check(name, False, str(e), "an answer", "look at the bridge's log; is rosapi running?"))
    return Report(tuple(found))


# -- the link ----------------------------------------------------------------------------------------------------------


def _link(core: Inspected) -> Iterable[Check]:
    yield Check("link", True, "up")
    flavour, wanted = core.client.flavour, core.config.ros
    cure = f"set ros: {flavour}, or start the bridge of the other version"
    yield Check("server flavour", flavour == wanted, flavour, wanted, cure)
    for text in warnings_of(core.config.url):
        yield Check("address", False, text, "loopback", "use an ssh tunnel", warning=True)


def _subscriptions(core: Inspected) -> dict[str, str]:
    """Topic -> type of everything that the driver hears."""
    names, config = core.config.interface(), core.config
    topics = {names.state: names.state_type}
    if config.gripper is not None:
        topics[names.gripper_states] = "sensor_msgs/JointState"
    topics |= dict.fromkeys(names.cameras.values(), "sensor_msgs/CompressedImage")
    if config.objects is not None:
        topics[config.objects] = "sensor_msgs/JointState"
    if config.guard:
        topics[TOPIC_GUARD] = "std_msgs/String"
    return topics


def _first_messages(core: Inspected) -> list[Check]:
    """A bridge never says that a subscription failed: only its data prove it."""
    end, checks = core.clock.now() + FIRST, []
    for topic, kind in _subscriptions(core).items():
        slot = core.client.inbox.slots.get(topic)
        came = False
        for _ in range(math.ceil(FIRST / 0.05)):
            sample = slot.newest() if slot is not None else None
            came = sample is not None and sample.epoch == core.client.epoch
            if came or core.clock.now() >= end:
                break
            core.pause(0.05)
        found = "arrived" if came else "nothing came"
        if slot is not None and not came and slot.invalid:
            found = f"{slot.invalid} messages came, none valid: {slot.last_error}"
        cure = f"is the node up? does `rostopic echo {topic}` show {kind}?"
        checks.append(Check(f"data on {topic}", came, found, f"a message within {FIRST:g} s", cure))
    return checks


def _types(core: Inspected) -> Iterable[Check]:
    for topic, kind in _subscriptions(core).items():
        carried = core.client.topic_type(topic)
        cure = f"set the topic in the configuration to one that carries {kind}"
        yield Check(f"type of {topic}", carried == kind, carried or "nobody publishes it", kind, cure)


def _guard(core: Inspected) -> Iterable[Check]:
    """What the guard says: with one in the set-up it must wait for a driver, without one there should be none."""
    slot, epoch = core.client.inbox.slots.get(TOPIC_GUARD), core.client.epoch
    for _ in range(math.ceil(FIRST / 0.1)):  # a session of ours that has just ended is still told
        sample = slot.newest() if slot is not None else None
        fresh = sample is not None and sample.epoch == epoch and core.clock.now() - sample.arrival <= SILENT
        text = said(sample) if sample is not None and fresh else ""
        if not core.config.guard or (text and not text.startswith("held by")):
            break
        core.pause(0.1)
    if core.config.guard:
        free = bool(text) and not text.startswith("held by")
        cure = "start `robopolicy guard` on the robot's computer, stop other drivers, or set guard: false"
        yield Check("guard", free, text or "not heard", "one that waits for a driver", cure)
    else:
        found = f"not in this set-up, but heard ({text})" if text else "not in this set-up, none heard"
        yield Check("guard", not text, found, "as in the set-up", "set guard: true", warning=bool(text))


def _rates(core: Inspected) -> Iterable[Check]:
    wanted = {"state": STATE_RATE}
    wanted |= {f"camera.{name}": CAMERA_SHARE * camera.fps for name, camera in core.config.cameras.items()}
    # Right after the connection nothing has a rate yet.
    for _ in range(math.ceil(FIRST / 0.1)):
        rates = core.status().rates
        if all(rates.get(name, 0.0) >= least for name, least in wanted.items()):
            break
        core.pause(0.1)
    for name, least in wanted.items():
        rate = rates.get(name, 0.0)
        cure = (
            "raise publish_rate of the state controller to 100 or more"
            if name == "state"
            else "look at the camera node"
        )
        yield Check(f"rate of {name}", rate >= least, f"{rate:.1f} Hz", f"{least:g} Hz or more", cure)


def _clock(core: Inspected) -> Iterable[Check]:
    offset = core.offset
    if offset is None:
        cure = "is /rosapi/get_time served?"
        yield Check("clock offset", False, "not measured yet", f"within {WALL_LIMIT:g} s", cure)
        return
    cure = "synchronise both clocks to one time server"
    near = abs(offset.wall) <= WALL_LIMIT
    yield Check("clock offset", near, f"{offset.wall:+.3f} s", f"within {WALL_LIMIT:g} s", cure)
    steady, found = offset.spread <= SPREAD_LIMIT, f"{1e3 * offset.spread:.1f} ms"
    cure = "look for load on the network or the robot's computer"
    yield Check("clock spread", steady, found, f"{1e3 * SPREAD_LIMIT:g} ms or less", cure)


# -- there and back ----------------------------------------------------------------------------------------------------


def _probe(core: Inspected) -> list[Check]:
    """Round trips of a topic of our own, never of the command topic; it also tells our name on the graph."""
    client = core.client
    topic = f"/robopolicy/probe_{os.getpid()}_{next(ROUNDS)}"
    slot = client.subscribe(topic, POSE)
    client.advertise(topic, POSE)
    try:
        own = _own_names(core, topic)
        delays, wall = [], core.clock.wall()
        # Where time stands still, a busy machine is no slow link.
        patience = PATIENCE if isinstance(core.clock, VirtualClock) else PROBE_LOST
        for i in range(PROBES):
            message = zeros(POSE, client.flavour)
            message["header"] = header(wall + 1e-6 * i, "probe", client.flavour, i)
            message["pose"]["orientation"]["w"] = 1.0
            key, seen, sent = stamp_key(message), slot.newest(), client.clock.now()
            client.publish(topic, message)
            back = slot.wait(patience, after=seen.count if seen is not None else 0)
            mine = back is not None and stamp_key(back.message) == key
            delays.append(back.arrival - sent if back is not None and mine else math.inf)
            if delays.count(math.inf) > 3:
                break
    finally:
        client.unadvertise(topic)
        client.unsubscribe(topic)
    lost, ranked = delays.count(math.inf), sorted(delays)
    p99 = ranked[math.ceil(0.99 * len(ranked)) - 1]
    found = f"p99 {1e3 * p99:.1f} ms of {len(delays)}" + f", {lost} lost" * bool(lost)
    cure = "look for load, a wireless link, or topic globs of the bridge that do not let /robopolicy/* pass"
    fast = p99 < PROBE_P99
    return [Check("round trip", fast, found, f"p99 below {1e3 * PROBE_P99:g} ms", cure), _command_topic(core, own)]


def _own_names(core: Inspected, topic: str) -> tuple[str, ...]:
    for _ in range(math.ceil(FIRST / ASK)):
        if names := core.client.publishers(topic):
            return tuple(names)
        core.pause(ASK)
    return ()


def _command_topic(core: Inspected, own: tuple[str, ...]) -> Check:
    """One controller hears it and nobody else writes; a publisher that goes away within 12 s was a ghost."""
    topic = core.config.interface().command
    for _ in range(math.ceil(GHOST / ASK) + 1):
        problems = core.client.topic_problems(topic, POSE, own, core.commanding)
        if not problems or not all("already publishes" in problem for problem in problems):
            break
        core.pause(ASK)
    cure = "start exactly one controller that hears it, as PoseStamped, and stop every other publisher"
    expected = "one subscriber, no other publisher"
    return Check("command topic", not problems, "; ".join(problems) or "one controller hears it", expected, cure)
