"""Measure how far the arm and the hand are behind their targets; a policy's actions are then sent so much earlier.

  robopolicy robot calibrate --arm --operator ada                  writes calibration.yaml and calibration.png
  robopolicy robot calibrate --arm --operator ada --axis y --no-gripper --out lab.yaml
  robopolicy robot run --policy runs/lift --calibration calibration.yaml --arm --operator ada

The arm moves along one axis in a sine (0.05 m, 0.2 Hz; less where the limits want less), and the commanded and the
measured motion are cross-correlated.  The hand opens and closes by 3 cm, three times each.  Both are measured at the
tool, so the robot's controller, the bridge and the network are all in it: do it again after changing any of them.

exit codes: 0 done, 1 held, faulted, or no latency to be found, 2 wrong input or not armed, 130 Ctrl-C
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.cli._robot_options import add_arming_options, add_robot_options, operator_of, robot_config
from robopolicy.cli.robot_run import add_motion_options, armed_session, motion_maker
from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from robopolicy.real_robot.calibration import Lag
    from robopolicy.real_robot.driver.config import FrankaBridgeConfig
    from robopolicy.real_robot.driver.contract import Check, Driver, Status
    from robopolicy.real_robot.motions import Player

REST = 1.5  # s before the sine, and after it, in which both motions stand
STEP = 0.03  # m that the hand opens and closes
MOVE = 2.0  # s for each of its movements
MOVES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_robot_options(parser)
    add_arming_options(parser)
    add_motion_options(parser)
    parser.add_argument("--duration", type=float, default=25.0, metavar="S", help="of the sine (25)")
    parser.add_argument("--no-gripper", action="store_true", help="leave the hand alone")
    parser.add_argument("--out", default="calibration.yaml", metavar="FILE", help="(calibration.yaml)")


@dataclass
class Watched:
    """What was seen: (time, commanded, measured, its time) along one axis; the same of the hand, m and s."""

    axis: int
    times: list[float] = field(default_factory=list)
    commanded: list[float] = field(default_factory=list)
    seen_at: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    width_at: list[float] = field(default_factory=list)
    width: list[float] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)

    def look(self, status: Status) -> None:
        """Take one status."""
        if status.emitted is not None and status.measured is not None and "state" in status.ages:
            self.times.append(status.now)
            self.commanded.append(float(status.emitted.position[self.axis]))
            self.seen_at.append(status.now - status.ages["state"])
            self.measured.append(float(status.measured.position[self.axis]))
        if status.width is not None and "gripper" in status.ages:
            self.width_at.append(status.now - status.ages["gripper"])
            self.width.append(status.width)


@dataclass
class CalibrationPerformer:
    """The sine, then the hand's steps, while everything is watched."""

    driver: Driver
    make: Callable[[Status], Player]
    watched: Watched
    hand: bool
    player: Player | None = None
    steps: Player | None = None
    _last: float | None = None

    def prepare(self) -> list[Check]:
        """Refuses a sine that does not fit where the arm stands."""
        self.make(self.driver.status())
        return []

    def step(self, now: float, status: Status) -> None:
        """Watch, and leave the next chunk."""
        self.watched.look(status)
        if self.player is None:
            self.player = self.make(status)
        player = self.player
        if self.hand and player.done(now - REST):
            if self.steps is None:
                self.steps = self._hand_steps(status)
            player = self.steps
            self._note_request(now, status)
        chunk = player.chunk(now, status.epoch)
        if chunk is not None:
            self.driver.submit(chunk)

    def _hand_steps(self, status: Status) -> Player:
        from robopolicy.real_robot.motions import HandSteps, Player

        assert status.emitted is not None
        assert status.width is not None
        return Player(HandSteps(status.emitted, status.width, STEP, MOVE, MOVES))

    def _note_request(self, now: float, status: Status) -> None:
        """The setpoint of the hand changed: that is when it was asked."""
        asked = status.emitted_gripper
        if asked is not None and self._last is not None and abs(asked - self._last) > STEP / 2:
            self.watched.asked_at.append(status.now)
        if asked is not None:
            self._last = asked

    def pause(self, now: float) -> None:
        """A hold in the middle spoils the measurement; the session ends it."""

    def done(self, now: float) -> bool:
        """Whether both are over."""
        if self.hand:
            return self.steps is not None and self.steps.done(now - REST)
        return self.player is not None and self.player.done(now - REST)

    def lines(self) -> Mapping[str, str]:
        """How much was seen."""
        return {"samples": str(len(self.watched.times))}

    def close(self) -> None:
        """Nothing is kept open."""


def run(args: argparse.Namespace) -> int:
    """Move, measure, write; returns the exit code."""
    from robopolicy.cli._robot_driver import is_twin, opened_driver
    from robopolicy.real_robot.calibration import arm_lag, hand_lag
    from robopolicy.real_robot.motions import AXES

    if not args.arm:
        raise ConfigError("calibrate moves the arm: say --arm --operator NAME")
    config = without_grasping(args)
    twin = is_twin(config)
    operator = operator_of(args, sys.stdin.isatty(), twin)
    hand = config.gripper is not None and not args.no_gripper
    watched = Watched(AXES[args.axis])
    session = argparse.Namespace(**{**vars(args), "policy": "sine"})
    with opened_driver(config, in_process=args.in_process) as driver:
        performer = CalibrationPerformer(driver, motion_maker(session, config.safety()), watched, hand)
        session.policy, session.duration = "calibration", None
        code = armed_session(session, config, driver, performer, operator, not twin and args.holds_stop is None)
    if code:
        return code
    import numpy as np

    arm = arm_lag(*(np.array(v) for v in (watched.times, watched.commanded, watched.seen_at, watched.measured)))
    fingers = hand_lag(*(np.array(v) for v in (watched.asked_at, watched.width_at, watched.width))) if hand else None
    tell(args.out, arm, fingers, watched)
    return 0


def without_grasping(args: argparse.Namespace) -> FrankaBridgeConfig:
    """The set-up with a hand that goes where it is told: there is nothing to grasp, and an empty grasp is a failure."""
    from robopolicy.core.configs import dump_config

    config = robot_config(args)
    if config.gripper is None:
        return config
    return robot_config(args, gripper={**dump_config(config.gripper), "expect_object": False})


def tell(out: str, arm: Lag, hand: Lag | None, watched: Watched) -> None:
    """The YAML, the figure, and both numbers in words."""
    from robopolicy.core.io import write_atomic
    from robopolicy.real_robot.report.lag_figure import write_figure

    lines = [
        "# Written by `robopolicy robot calibrate`; give it to `robot run` with --calibration.",
        f"# Arm: correlation {arm.correlation:.4f}, amplitude {100 * arm.ratio:.0f} % of the commanded, "
        f"{arm.samples} states.",
        f"arm_latency: {arm.seconds:.3f}",
    ]
    print(f"arm: {1e3 * arm.seconds:.0f} ms behind (correlation {arm.correlation:.4f}, {arm.samples} states)")
    if hand is not None:
        lines += [f"# Hand: median of {hand.samples} movements.", f"gripper_latency: {max(0.0, hand.seconds):.3f}"]
        print(f"hand: {1e3 * hand.seconds:.0f} ms until it begins to move (median of {hand.samples} movements)")
    write_atomic(out, "\n".join(lines) + "\n")
    figure = write_figure(Path(out).with_suffix(".png"), watched, arm, hand)
    print(f"wrote {out} and {figure}")
