"""Run a log again: offline, through the same filter, bit for bit; or its motion on the arm.

  robopolicy robot replay out/episode_000                     the control loop, given the same, decides the same?
  robopolicy robot replay out/episode_000 --page run.html     and a page of it; --rerun run.rrd for the Rerun viewer
  robopolicy robot replay out/episode_000 --arm --operator ada --speed 0.25

Offline, the loop is built from the log and given every input of every tick again; it says "identical", or which tick
and which number came out otherwise.  With --arm the poses that were published are played as a plan, at --speed of their
own speed, through preflight, safety filter and state machine like any other motion.  The arm must stand within 2 cm and
0.1 rad of where the record begins; --approach takes it there first, in a straight line.

exit codes: 0 identical, or played to the end; 1 different, held or faulted; 2 wrong input or not armed; 130 Ctrl-C
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.cli._robot_options import add_arming_options, add_robot_options, operator_of, robot_config
from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from robopolicy.real_robot.driver.contract import Status
    from robopolicy.real_robot.limits import SafetyLimits
    from robopolicy.real_robot.log.reader import LoggedRun
    from robopolicy.real_robot.motions import Player

NEAR, NEAR_TURN = 0.02, 0.1  # m and rad between the arm and the beginning of the record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("log", metavar="LOG", help="folder of a run's log (run.json, ticks.bin...)")
    parser.add_argument("--page", metavar="FILE", help="also write the HTML page of the run")
    parser.add_argument("--rerun", metavar="FILE", help="also write a recording for the Rerun viewer (.rrd)")
    parser.add_argument("--speed", type=float, default=0.25, help="with --arm: share of the recorded speed (0.25)")
    parser.add_argument("--approach", action="store_true", help="with --arm: go to the beginning in a straight line")
    add_robot_options(parser)
    add_arming_options(parser)


def run(args: argparse.Namespace) -> int:
    """Replay; returns the exit code."""
    from robopolicy.real_robot.log.reader import read_log

    logged = read_log(args.log)
    if args.page or args.rerun:
        write_views(args, logged)
    return play(args, logged) if args.arm else offline(logged)


def write_views(args: argparse.Namespace, logged: LoggedRun) -> None:
    """The page and the recording that were asked for."""
    from robopolicy.real_robot.report.page import write_page
    from robopolicy.real_robot.report.series import series_of
    from robopolicy.real_robot.report.to_rerun import write_recording

    series = series_of(logged)
    if args.page:
        print(write_page(series, args.page))
    if args.rerun:
        print(write_recording(series, Path(args.rerun)))


def offline(logged: LoggedRun) -> int:
    """The control loop again."""
    from robopolicy.real_robot.log.replay import replay

    if not logged.whole:
        print(f"the log is not whole: {logged.why}; what is whole of it is replayed")
    result = replay(logged)
    print(f"{logged.folder}: {result.ticks} ticks replayed, {result.setpoints} setpoints in the log")
    if result.identical:
        print("identical: every decision, bit for bit")
        return 0
    print(f"different: {result.difference}")
    return 1


def play(args: argparse.Namespace, logged: LoggedRun) -> int:
    """The recorded motion on the arm."""
    from robopolicy.cli._robot_driver import is_twin, opened_driver
    from robopolicy.cli._robot_session import MotionPerformer
    from robopolicy.cli.robot_run import armed_session

    config = robot_config(args)
    twin = is_twin(config)
    operator = operator_of(args, sys.stdin.isatty(), twin)
    make = path_maker(logged, args.speed, args.approach, config.safety())
    session = argparse.Namespace(**{**vars(args), "policy": f"replay of {args.log}", "duration": None})
    with opened_driver(config, in_process=args.in_process) as driver:
        confirm = not twin and args.holds_stop is None
        return armed_session(session, config, driver, MotionPerformer(driver, make), operator, confirm)


def path_maker(logged: LoggedRun, speed: float, approach: bool, limits: SafetyLimits) -> Callable[[Status], Player]:
    """Builds the path from where the arm stands; raises ``ConfigError`` if that is not where the record begins."""
    import numpy as np

    from robopolicy.real_robot.frames import Pose, difference
    from robopolicy.real_robot.log.format import Has
    from robopolicy.real_robot.motions import Path as MotionPath
    from robopolicy.real_robot.motions import Player, joined

    times, track = logged.published()
    if len(times) < 2:
        raise ConfigError(f"{logged.folder}: nothing was published in this run, there is no motion to play")
    sent = logged.rows[(logged.rows["has"] & Has.PUBLISHED) > 0]
    widths = np.where((sent["has"] & Has.EMITTED_GRIPPER) > 0, sent["emitted_width"], np.nan)
    # The hand follows sooner than the arm: where the tool then is, is what was sent a little earlier.
    sooner = logged.settings.latency - logged.settings.gripper_latency
    then = np.maximum(np.searchsorted(times, times + sooner + 1e-6, side="right") - 1, 0)
    path = MotionPath(times - times[0], track, widths[then], speed)

    def make(status: Status) -> Player:
        here = status.emitted or status.measured
        if here is None:
            raise ConfigError("replay: it is not known where the arm is")
        begin = Pose(track.position[0], track.quaternion[0])
        away = float(np.linalg.norm(begin.position - here.position))
        turn = float(np.linalg.norm(difference(here.quaternion, begin.quaternion)))
        if approach:
            return Player(joined(here, path, limits))
        if away > NEAR or turn > NEAR_TURN:
            raise ConfigError(
                f"the arm is {1e3 * away:.0f} mm and {turn:.2f} rad from where the record begins, limits "
                f"{1e3 * NEAR:.0f} mm and {NEAR_TURN} rad; guide it there, or let it go there with --approach"
            )
        return Player(path)

    return make
