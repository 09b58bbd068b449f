"""Run a policy or a built-in motion on the arm, or on the twin.

  robopolicy robot run --policy hold --duration 10 --arm --operator ada       stand still; measures the drift
  robopolicy robot run --policy sine --axis y --arm --operator ada            a slow sine of 5 cm, 0.2 Hz
  robopolicy robot run --policy runs/lift --limits first-run --record out/ --arm --operator ada
  robopolicy robot run --policy runs/lift --execution rtc --inject-latency 0.2 --episodes 10 --arm ...
  robopolicy robot run --policy runs/lift                                     without --arm: look, ask, send nothing

PATH is a run (its best checkpoint), a checkpoint, a policy directory, or the YAML of a nesting.  Before anything is
armed the checkpoint is compared with what the robot offers (names, order, units, picture sizes, rate); every
difference is shown, and one is enough to refuse.  Without --arm a policy is asked as it would be, its latency is told,
and nothing is sent.

keys: space hold   r run/resume   q quit   e stop (latched)   h take over/give back   c clear errors   a, y arm again
Ctrl-Z holds.  With a dead-man in the set-up (the arms' presets) a closed terminal or a program in the background counts
as the operator's absence: the arm holds.  An ssh session that merely hangs does not: sit at this machine.

exit codes: 0 done, 1 held or faulted (one line says why), 2 wrong input, no link or not armed, 130 Ctrl-C, 143 SIGTERM,
            129 terminal closed
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.cli._robot_options import add_arming_options, add_robot_options, operator_of, robot_config
from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.cli._robot_session import Performer
    from robopolicy.real_robot.driver.config import FrankaBridgeConfig
    from robopolicy.real_robot.driver.contract import Driver, Status
    from robopolicy.real_robot.limits import SafetyLimits
    from robopolicy.real_robot.motions import Player

MOTIONS = ("hold", "sine")
MODES = ("sync", "receding", "async", "ensemble", "rtc")
SINE = 25.0  # s of a sine unless --duration says otherwise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--policy", required=True, metavar="PATH|hold|sine", help="checkpoint, nesting, or motion")
    add_common_arguments(parser)
    add_motion_options(parser)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """All but what is run."""
    add_robot_options(parser)
    add_arming_options(parser)
    group = parser.add_argument_group("what to run")
    group.add_argument("--duration", type=float, metavar="S", help="seconds in motion, of each episode (to the end)")
    group.add_argument("--episodes", type=int, default=1, metavar="N", help="one after another, armed anew (1)")
    group.add_argument("--record", metavar="DIR", help="new folder for the log, its page, and a LeRobot dataset")
    group.add_argument("--task", default="", metavar="TEXT", help="sentence for the dataset, and for language policies")
    add_policy_options(parser)


def add_motion_options(parser: argparse.ArgumentParser) -> None:
    """Of the sine."""
    group = parser.add_argument_group("sine")
    group.add_argument("--axis", choices=("x", "y", "z"), default="x", help="of the base frame (x)")
    group.add_argument("--amplitude", type=float, default=0.05, metavar="M", help="largest excursion (0.05)")
    group.add_argument("--frequency", type=float, default=0.2, metavar="HZ", help="(0.2)")


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """Of a policy."""
    group = parser.add_argument_group("policy")
    group.add_argument("--execution", choices=MODES, default="async", help="when to ask, what to execute (async)")
    group.add_argument(
        "--inject-latency", type=float, default=0.0, metavar="S", help="make the policy this much slower"
    )
    group.add_argument("--steps", type=int, metavar="S", help="actions executed before it is asked again (its own)")
    group.add_argument(
        "--reach", type=int, metavar="S", help="actions of a chunk that are handed over, for late answers"
    )
    group.add_argument(
        "--follows", type=float, default=0.0, metavar="S", help="by which the demonstrations' tool was behind (0)"
    )
    group.add_argument(
        "--snap-gripper", action="store_true", help="hand wholly open or closed, for policies taught with a switch"
    )
    group.add_argument("--device", default="cpu", help="where the policy runs: cpu or cuda (cpu)")
    group.add_argument("--seed", type=int, default=0, help="of the policy's noise; episode i takes seed + i (0)")
    group.add_argument("--teleop", metavar="DEVICE", help="what takes over after h: keyboard or gamepad")


def run(args: argparse.Namespace) -> int:
    """Check, arm, run; returns the exit code."""
    from robopolicy.cli._robot_driver import is_twin

    if args.episodes < 1 or (args.duration is not None and args.duration <= 0):
        raise ConfigError(
            f"expected --episodes of at least 1 and a --duration above 0 s, got {args.episodes}, {args.duration}"
        )
    if args.record is not None and Path(args.record).exists() and any(Path(args.record).iterdir()):
        raise ConfigError(f"--record {args.record}: not empty; name a new folder")
    config = robot_config(args)
    if not args.arm:
        return look_only(args, config)
    twin = is_twin(config)
    operator = operator_of(args, sys.stdin.isatty(), twin)
    confirm = not twin and args.holds_stop is None
    code = 0
    for episode in range(args.episodes):
        code = max(code, run_episode(args, config, operator, confirm, episode, twin))
        if code:
            break
    return code


def run_episode(
    args: argparse.Namespace, config: FrankaBridgeConfig, operator: str, confirm: bool, episode: int, twin: bool
) -> int:
    """One episode, from connecting to taking the command topic back."""
    from robopolicy.cli._robot_driver import ask_twin, opened_driver
    from robopolicy.cli._robot_policy import PolicyPerformer

    folder = None if args.record is None else Path(args.record) / f"episode_{episode:03d}"
    facts = {"policy": args.policy, "operator": operator, "robot": args.robot, "url": config.url, "episode": episode}
    if twin and args.episodes > 1:
        ask_twin(config, "reset", seed=args.seed + episode)
    with opened_driver(config, folder, facts, args.in_process) as driver:
        performer = performer_of(args, config, driver, episode)
        if args.record is not None and isinstance(performer, PolicyPerformer):
            performer.record(Path(args.record) / "dataset", facts)
        code = armed_session(args, config, driver, performer, operator, confirm)
    if twin and args.policy not in MOTIONS and (solved := (ask_twin(config) or {}).get("succeeded")) is not None:
        print(f"twin: the task is {'solved' if solved else 'not solved'}")
    if folder is not None:
        write_report(folder)
    return code


def performer_of(args: argparse.Namespace, config: FrankaBridgeConfig, driver: Driver, episode: int = 0) -> Performer:
    """What ``--policy`` names."""
    from robopolicy.cli._robot_policy import PolicyPerformer
    from robopolicy.cli._robot_session import MotionPerformer

    if args.policy not in MOTIONS:
        return PolicyPerformer(args, config, driver, episode)
    return MotionPerformer(driver, motion_maker(args, config.safety()))


def motion_maker(args: argparse.Namespace, limits: SafetyLimits) -> Callable[[Status], Player]:
    """Builds the motion where the arm stands when it begins."""
    from robopolicy.real_robot.motions import Hold, Player, fitting_sine

    # Read now: who calls may use the same arguments for something else afterwards.
    still, sine = args.policy == "hold", (args.axis, args.amplitude, args.frequency, args.duration or SINE)

    def make(status: Status) -> Player:
        here = status.emitted or status.measured
        assert here is not None  # an armed driver knows where the arm is
        return Player(Hold(here) if still else fitting_sine(here, limits, *sine))

    return make


def armed_session(
    args: argparse.Namespace,
    config: FrankaBridgeConfig,
    driver: Driver,
    performer: Performer,
    operator: str,
    confirm: bool,
) -> int:
    """Preflight, both steps of arming, the session, its outcome in one line."""
    from robopolicy.cli._keyboard import Keyboard
    from robopolicy.cli._robot_driver import connect
    from robopolicy.cli._robot_session import KEYS, Session, arm, preflight
    from robopolicy.cli._robot_teleop import opened_hand
    from robopolicy.cli._signals import holding_signals
    from robopolicy.real_robot.report.dashboard import Dashboard

    with contextlib.ExitStack() as stack:
        stack.enter_context(holding_signals(driver))
        connect(driver, monitor_only=False)
        preflight(driver, performer)
        limits = config.safety()
        hand = stack.enter_context(opened_hand(getattr(args, "teleop", None), driver, limits))
        title = f"{args.policy} on {config.url} ({args.robot}, limits {config.limits}), {operator}"
        board = Dashboard(title, limits, config.times, KEYS + "   h take over / give back" * (hand is not None))
        session = Session(driver, performer, board, operator, sys.stdin.isatty(), args.duration, hand)
        try:
            with Keyboard(session.on_key, driver.heartbeat) as keyboard:
                if hand is not None and hand.fed is not None:
                    hand.fed.source = keyboard

                def ask(question: str) -> str:
                    with keyboard.lines():
                        return input(question)

                arm(driver, operator, ask if confirm else None, title)
                driver.start()
                with board:
                    code = session.run()
        except BaseException as e:
            driver.pause(f"the program ended: {type(e).__name__}")
            raise
        finally:
            performer.close()
    text = "".join(f", {name} {value}" for name, value in performer.lines().items())
    how = "done" if code == 0 else f"stopped: {session.why}"
    print(f"{how}; {session.elapsed:.1f} s in motion{text}")
    return code


def look_only(args: argparse.Namespace, config: FrankaBridgeConfig) -> int:
    """Without ``--arm``: everything but sending; a policy is compared with the robot and asked, its answers dropped."""
    from robopolicy.cli import robot_monitor
    from robopolicy.cli._robot_driver import connect, opened_driver
    from robopolicy.cli.robot_doctor import print_report
    from robopolicy.real_robot.driver.contract import Report

    with opened_driver(config, in_process=True) as driver:
        connect(driver, monitor_only=True)
        report = Report((*driver.preflight().checks, *performer_of(args, config, driver).prepare()))
    print_report(report)
    if not report.green:
        return 1
    seconds = args.duration if args.duration is not None else 5.0
    code = robot_monitor.run(argparse.Namespace(**{**vars(args), "duration": seconds}))
    print("nothing was sent: --arm --operator NAME lets it move")
    return code


def write_report(folder: Path) -> None:
    """The page of a log, beside it."""
    from robopolicy.real_robot.log.reader import read_log
    from robopolicy.real_robot.report.page import write_page
    from robopolicy.real_robot.report.series import series_of

    print(f"log {folder}, page {write_page(series_of(read_log(folder)), folder / 'report.html')}")
