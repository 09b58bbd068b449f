"""Record demonstrations by teleoperation, as a LeRobot dataset that `robopolicy train` reads.

  robopolicy robot record demos/ --teleop keyboard --task "lift the cube" --arm --operator ada
  robopolicy robot record demos/ --teleop gamepad --task "lift the cube" --episodes 50 --arm --operator ada

keyboard: space takes the arm and lets go; w s, a d, r f move; q e turn; o p open and close the hand; + - speed; enter
begins an episode, y and n end it (success, failure), x throws it away; b holds, c goes on, ! stops, Q quits.  A gamepad
has the same on its buttons (docs/recording.md).  The human's wishes pass the same safety filter as a policy's.

Without --arm nothing is sent and nothing is recorded: use `robot monitor` to look.

exit codes: 0 done, 1 held or faulted at the end, 2 wrong input or not armed, 130 Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import TYPE_CHECKING

from robopolicy.cli._robot_options import add_arming_options, add_robot_options, operator_of, robot_config
from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from robopolicy.cli._robot_teleop import Hand
    from robopolicy.real_robot.driver.contract import Driver
    from robopolicy.real_robot.recording.recorder import Recorder
    from robopolicy.real_robot.report.dashboard import Dashboard
    from robopolicy.real_robot.teleop.keyboard import Keys

PERIOD = 0.02  # s between two looks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("root", metavar="DIR", help="dataset folder; one of this command is continued")
    parser.add_argument("--teleop", default="keyboard", metavar="DEVICE", help="keyboard or gamepad (keyboard)")
    parser.add_argument("--task", required=True, metavar="TEXT", help="sentence that goes with every frame")
    parser.add_argument("--fps", type=float, default=10.0, help="frames a second (10)")
    parser.add_argument(
        "--gap", type=float, metavar="S", help="seconds without an observation that end an episode (0.5, or two frames)"
    )
    parser.add_argument("--episodes", type=int, metavar="N", help="leave after so many (until Q)")
    add_robot_options(parser)
    add_arming_options(parser)


def run(args: argparse.Namespace) -> int:
    """Arm, teleoperate, record; returns the exit code."""
    from robopolicy.cli._keyboard import Keyboard
    from robopolicy.cli._robot_driver import connect, is_twin, opened_driver
    from robopolicy.cli._robot_session import arm, preflight
    from robopolicy.cli._robot_teleop import opened_hand
    from robopolicy.cli._signals import holding_signals
    from robopolicy.real_robot.recording.features import demonstration_features
    from robopolicy.real_robot.recording.recorder import Recorder
    from robopolicy.real_robot.report.dashboard import Dashboard
    from robopolicy.real_robot.teleop.keyboard import HELP, Keys

    if not args.arm:
        raise ConfigError("record moves the arm by your hand: say --arm --operator NAME")
    config = robot_config(args)
    twin = is_twin(config)
    operator = operator_of(args, sys.stdin.isatty(), twin)
    if args.teleop == "keyboard" and not sys.stdin.isatty():
        raise ConfigError("--teleop keyboard: the standard input is no terminal; run in one, or use a gamepad")
    sizes = {name: config.cameras[name].size for name in config.camera_names}
    with contextlib.ExitStack() as stack:
        driver = stack.enter_context(opened_driver(config, in_process=args.in_process))
        stack.enter_context(holding_signals(driver))
        connect(driver, monitor_only=False)
        preflight(driver)
        recorder = stack.enter_context(
            Recorder(
                *(driver, args.root, args.fps, demonstration_features(sizes)),
                latency=config.arm_latency,
                gripper_latency=config.gripper_latency,
                gap=args.gap,
                facts={"operator": operator, "robot": args.robot, "limits": config.limits},
            )
        )
        hand = stack.enter_context(opened_hand(args.teleop, driver, config.safety(), alone=True))
        assert hand is not None
        keys = hand.fed.keys if hand.fed is not None else Keys()
        keyboard = stack.enter_context(
            Keyboard(lambda key: keys.feed(key.encode(), driver.clock.now()), driver.heartbeat)
        )
        if hand.fed is not None:
            hand.fed.source = keyboard

        def ask(question: str) -> str:
            with keyboard.lines():
                return input(question)

        title = f"recording {args.root}: {args.task}"
        arm(driver, operator, ask if not twin and args.holds_stop is None else None, title)
        board = stack.enter_context(Dashboard(title, config.safety(), config.times, HELP))
        code = teleoperate(args, driver, hand, keys, recorder, board)
    early = "; ".join((*recorder.marks, *filter(None, (recorder.ended,))))
    print(f"dataset {args.root}: {recorder.kept} episodes more{f' (ended early: {early})' * bool(early)}")
    return code


def teleoperate(
    args: argparse.Namespace,
    driver: Driver,
    hand: Hand,
    keys: Keys,
    recorder: Recorder,
    board: Dashboard,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Until the operator leaves or there are enough episodes; returns the exit code."""
    from robopolicy.real_robot.control.states import State

    kept, marks = 0, 0
    while True:
        reading = hand.step()
        if hand.operator.wish is not None:
            recorder.wished(hand.operator.wish, hand.operator.wished_at)
        recorder.tick()
        # With a gamepad the keyboard still begins and ends episodes.
        own = () if hand.fed is not None else keys.reading(driver.clock.now()).commands
        for command in (*reading.commands, *own):
            kept += obey(command, args.task, recorder, board)
        for mark in recorder.marks[marks:]:
            board.note(f"episode ended: {mark}")
        marks = len(recorder.marks)
        status = driver.status()
        state = f"{recorder.frames} frames" if recorder.recording else "none under way"
        trouble = {"refused": hand.operator.trouble} if hand.operator.trouble else {}
        board.show(status, {"episode": state, "kept": str(kept), **trouble})
        enough = args.episodes is not None and kept >= args.episodes
        if enough or reading.lost or "quit" in (*reading.commands, *own) or recorder.ended:
            if recorder.ended:
                board.note(f"recording ended: {recorder.ended}")
            driver.pause("recording is over")
            stopped = status.state in (State.FAULT, State.ESTOP, State.OFF)
            return 1 if stopped or reading.lost or recorder.ended else 0
        sleep(PERIOD)


def obey(command: str, task: str, recorder: Recorder, board: Dashboard) -> int:
    """Begin or end an episode; how many were kept by it."""
    if command == "begin" and not recorder.recording:
        recorder.begin(task)
        board.note("episode: begun")
    elif command in ("success", "failure") and recorder.recording:
        kept = recorder.end(command == "success")
        board.note(f"episode: {command}" if kept else "episode: nothing in it")
        return int(kept)
    elif command == "discard" and recorder.recording:
        recorder.discard()
        board.note("episode: thrown away")
    return 0
