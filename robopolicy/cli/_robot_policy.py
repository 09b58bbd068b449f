"""A policy as the performer of a session: loaded, compared with the robot, warmed up, then asked in its own thread."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import ConfigError, RobopolicyError

if TYPE_CHECKING:
    from pathlib import Path

    from robopolicy.real_robot.control.plan import Waypoints
    from robopolicy.real_robot.deploy.adapters import Adapter
    from robopolicy.real_robot.deploy.runner import PolicyRunner
    from robopolicy.real_robot.driver.config import FrankaBridgeConfig
    from robopolicy.real_robot.driver.contract import Check, Driver, Status
    from robopolicy.real_robot.recording.recorder import Recorder

WARM_UP = 6  # questions before arming; the first ones are slow and do not count
COUNTED = 4
LOOK = 5.0  # s within which there must be an observation
JOIN = 10.0  # s that a question may take to end


class PolicyPerformer:
    """``prepare`` before arming; then ``step`` only looks after the thread that asks.

    Raises ``ConfigError`` for options that do not fit the policy, ``ActionSpaceMismatch`` with every difference between
    the checkpoint and the robot.
    """

    def __init__(self, args: argparse.Namespace, config: FrankaBridgeConfig, driver: Driver, episode: int = 0) -> None:
        from robopolicy.api import find_policy, load
        from robopolicy.real_robot.deploy.actions import ActionConfig
        from robopolicy.real_robot.deploy.adapters import make_adapter

        self.driver, self.config, self.args, self.episode = driver, config, args, episode
        self.path = find_policy(args.policy)
        self.policy: Any = load(self.path, device=args.device)
        if args.execution == "rtc":
            from robopolicy.wrappers.execution.policy import real_time

            self.policy = real_time(self.policy)
        spec = self.policy.action_spec
        self.adapter: Adapter = make_adapter(
            *(self.policy.observation_spec, spec, ActionConfig(snap=args.snap_gripper)),
            follows=args.follows,
            task=args.task,
        )
        self.runner: PolicyRunner | None = None
        self.error: Exception | None = None
        self.recorder: Recorder | None = None
        self.threaded = True
        """Whether the policy is asked in a thread of its own; not in lock-step."""
        self._began = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def record(self, root: Path, facts: Mapping[str, Any]) -> None:
        """Also write what is seen and done into the LeRobot dataset ``root``; call before ``prepare``."""
        from robopolicy.real_robot.recording.features import AdaptedFeatures
        from robopolicy.real_robot.recording.recorder import Recorder

        c, adapter = self.config, self.adapter
        self.recorder = Recorder(
            *(self.driver, root, adapter.fps, AdaptedFeatures(adapter)),
            latency=c.arm_latency,
            gripper_latency=c.gripper_latency,
            follows=adapter.follows,
            facts={**facts, "checkpoint": str(self.path)},
        )

    # -- before arming -------------------------------------------------------------------------------------------------

    def prepare(self) -> list[Check]:
        """Compare features, ask a few times on what the robot shows now, choose the execution mode.

        Returns the findings; the driver must be connected.  Raises as the class says.
        """
        from robopolicy.real_robot.control.checks import require_same_features
        from robopolicy.real_robot.control.observations import NoSnapshot
        from robopolicy.real_robot.deploy.runner import PolicyRunner, Slowness, hand_over
        from robopolicy.real_robot.driver.preflight_robot import policy_checks
        from robopolicy.wrappers.execution import make_executor
        from robopolicy.wrappers.execution.memory import check_stride

        args, spec, adapter = self.args, self.policy.action_spec, self.adapter
        seen = self._seen(1)
        objects = () if isinstance(seen, NoSnapshot) else seen.object_names
        offered = adapter.offered(self.config, objects)
        require_same_features(adapter.wanted, offered, spec, adapter.space, adapter.fps)
        latency = self._warmed_up() + args.inject_latency
        lead = hand_over(self.config.arm_latency, args.follows, self.config.times.tick)
        executor = make_executor(args.execution, spec, latency=latency, lead=lead, steps=args.steps, reach=args.reach)
        check_stride(self.policy, executor, latency)
        self.runner = PolicyRunner(
            *(self.driver if self.recorder is None else _Remembered(self), self.policy, executor, adapter),
            slowness=Slowness(args.inject_latency),
            lead=lead,
            usual=latency,
            seed=args.seed + self.episode,
        )
        # With sync nothing is late: the world waits.
        return policy_checks((), latency, spec.dt, executor.reach, lead=0.0 if args.execution == "sync" else lead)

    def _seen(self, steps: int) -> Any:
        """The newest observation, waited for; ``NoSnapshot`` if there is none in time."""
        from robopolicy.real_robot.control.observations import NoSnapshot

        end = self.driver.clock.now() + LOOK
        while True:
            seen = self.driver.snapshot(steps, self.policy.action_spec.dt)
            if not isinstance(seen, NoSnapshot) or self.driver.clock.now() > end:
                return seen
            time.sleep(0.02)

    def _warmed_up(self) -> float:
        """Seconds that an answer takes, the slowest of the counted ones; nothing is submitted."""
        from robopolicy.real_robot.control.observations import NoSnapshot
        from robopolicy.wrappers.execution.guide import whole_guide

        taken: list[float] = []
        how: dict[str, Any] = {}
        for i in range(WARM_UP):
            seen = self._seen(self.adapter.steps)
            if isinstance(seen, NoSnapshot):
                raise ConfigError(f"no observation for the policy: {seen.why}")
            began = time.perf_counter()
            chunk = self.policy.act(self.adapter.observation(seen), noise_keys=[(0, i)], observed_at=seen.time, **how)
            taken.append(time.perf_counter() - began)
            if self.args.execution == "rtc":  # what continues a chunk takes longer than what begins one
                how = {"guide": whole_guide(chunk.actions[0])}
        return max(taken[-COUNTED:])

    # -- the session ---------------------------------------------------------------------------------------------------

    def step(self, now: float, status: Status) -> None:
        """Begin to ask, if nobody does; raises what the policy raised."""
        if self.error is not None:
            raise RobopolicyError(f"the policy failed: {type(self.error).__name__}: {self.error}") from self.error
        if self.recorder is not None and not self._began:
            self._began = True
            self.recorder.begin(self.args.task or self.args.policy)
        self._record()
        if not self.threaded:
            assert self.runner is not None
            self.runner.poll()
        elif self._thread is None:
            self._thread = threading.Thread(target=self._ask, name="policy", daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        assert self.runner is not None
        try:
            self.runner.run()
        except Exception as e:  # told to the driver already; the session ends with it
            self.error = e

    def pause(self, now: float) -> None:
        """The runner sees by itself that nothing runs."""
        self._record()

    def _record(self) -> None:
        if self.recorder is not None:
            with self._lock:
                self.recorder.tick()

    def done(self, now: float) -> bool:
        """Never: the time or the operator ends it."""
        return False

    def lines(self) -> Mapping[str, str]:
        """Latency and counts."""
        if self.runner is None:
            return {}
        found = {"policy p95": f"{1e3 * self.runner.usual:.0f} ms"}
        found |= {f"chunks {name}": str(n) for name, n in sorted(self.runner.counters.items())}
        if self.runner.counters["blind"] and self.runner.why_blind:
            found["last without a picture"] = self.runner.why_blind
        return found

    def close(self) -> None:
        """End the asking."""
        if self.runner is not None:
            self.runner.stop()
        if self._thread is not None:
            self._thread.join(JOIN)
        if self.recorder is not None:
            self.recorder.end()
            self.recorder.close()
            why = self.recorder.ended or "; ".join(self.recorder.marks)
            kept = "one episode more" if self.recorder.kept else "nothing kept"
            print(f"dataset {self.recorder.root}: {kept}{f' (ended early: {why})' * bool(why)}")


class _Remembered:
    """The driver with ``submit`` told to the recorder; everything else is the driver's."""

    def __init__(self, performer: PolicyPerformer) -> None:
        self._performer = performer

    def submit(self, chunk: Waypoints) -> bool:
        """See ``Driver``."""
        performer = self._performer
        assert performer.recorder is not None
        with performer._lock:
            return performer.recorder.submit(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._performer.driver, name)
