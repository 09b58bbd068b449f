"""The working side of the episode pool: environments in slots, driven by whole action chunks.

The same code runs inside a worker process and in the parent (``workers=0``), so the two cannot differ.  Torch-free.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError, RobopolicyError
from robopolicy.core.specs import ActionSpace, ObservationSpec
from robopolicy.sim.gl import renderer_name
from robopolicy.sim.protocol import Env, Observation, StepResult, checked_action
from robopolicy.sim.registry import EnvConfig


@dataclass(frozen=True)
class Watch:
    """What is observed: the last ``n_obs_steps`` steps of ``keys``.

    ``lazy``: observe only the last ``n_obs_steps`` steps of a chunk, which are all that a policy reads; otherwise
    observe every step (same results, more rendering).  ``record``: keys whose every step comes back as a ``Trace``
    (which observes every step, whatever ``lazy`` says); empty for none.  ``final``: also observe what an episode ended
    in.  Lazily, steps before a time limit are observed as before the end of a chunk; where the task ended the episode
    inside a chunk, only the newest of its last ``n_obs_steps`` is of that chunk.
    """

    n_obs_steps: int = 1
    keys: tuple[str, ...] = ()
    lazy: bool = True
    record: tuple[str, ...] = ()
    final: bool = False

    def __post_init__(self) -> None:
        if self.n_obs_steps < 1:
            raise ConfigError(f"n_obs_steps must be >= 1, got {self.n_obs_steps}")


@dataclass(frozen=True)
class Describe:
    """Ask for the environment's specs."""

    slot: int = 0


@dataclass(frozen=True)
class Reset:
    """Begin the episode of ``seed`` in ``slot``; ``film`` is the (height, width) of video frames, or None."""

    slot: int
    seed: int
    watch: Watch = Watch()
    film: tuple[int, int] | None = None


@dataclass(frozen=True)
class Advance:
    """Execute ``actions`` ``(n_action_steps, D)`` in ``slot``, stopping early when the episode ends."""

    slot: int
    actions: np.ndarray


@dataclass(frozen=True)
class Call:
    """Call one method of the environment in ``slot``; what it returns is ``Reply.value``."""

    slot: int
    method: str
    arguments: tuple[Any, ...] = ()


Command = Describe | Reset | Advance | Call


@dataclass(frozen=True)
class Description:
    """What an environment offers, without the environment.

    ``renderer`` is the worker's ``MUJOCO_GL``, chosen by the first picture (``robopolicy.sim.gl``), and ``drawn_by``
    the name of what drew (a GPU, or "llvmpipe ..." for software); both are "" before.
    """

    observation_spec: ObservationSpec
    action_space: ActionSpace
    fps: float
    max_steps: int
    task: str
    renderer: str = ""
    drawn_by: str = ""


@dataclass
class Trace:
    """What the ``T`` executed steps of a chunk began from and did, for recordings.

    ``observation``: key -> ``(T, ...)``, seen right before each step; ``actions`` ``(T, D)`` as they were executed,
    physical and clipped to the bounds.
    """

    observation: Observation
    actions: np.ndarray


@dataclass
class Reply:
    """Answer to one command.

    ``observation``: key -> ``(n_obs_steps, ...)``, None once the episode is ``done`` (unless ``Watch.final``).
    ``rewards``, ``successes``: one entry an executed step.  ``terminated``: the episode is done because of the task,
    not because of the time limit.
    ``frames``: ``(H, W, 3)`` uint8, the frame of the reset or one a step, empty unless filmed.  ``trace``: what a chunk
    did, where it is recorded.
    ``seconds``: wall time of the command.  ``error``: what went wrong in the environment; its episode is lost.
    """

    slot: int
    observation: Observation | None = None
    rewards: list[float] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    done: bool = False
    terminated: bool = False
    frames: list[np.ndarray] = field(default_factory=list)
    trace: Trace | None = None
    seconds: float = 0.0
    error: str | None = None
    description: Description | None = None
    raised: RobopolicyError | None = None
    value: Any = None


class Slot:
    """One environment, built when first needed, and the last observations of its episode."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        self._env: Env | None = None
        self._watch = Watch()
        self._history: deque[Observation] = deque()
        self._film: tuple[int, int] | None = None
        self._steps = 0

    @property
    def env(self) -> Env:
        """The environment of this slot."""
        if self._env is None:
            self._env = self._config.make()
        return self._env

    def describe(self) -> Description:
        """Specs of the environment."""
        env = self.env
        return Description(
            env.observation_spec,
            env.action_space,
            float(env.fps),
            int(env.max_steps),
            env.task,
            os.environ.get("MUJOCO_GL", ""),
            renderer_name(),
        )

    def reset(self, command: Reset, reply: Reply) -> None:
        """Start an episode; the first observation stands for the steps before it (Diffusion Policy's convention)."""
        self._film, self._watch = command.film, command.watch
        self.env.reset(command.seed)
        self._steps = 0
        steps = self._watch.n_obs_steps
        self._history = deque([self._observe()] * steps, maxlen=steps)
        self._shoot(reply)
        reply.observation = self._stacked()

    def advance(self, actions: np.ndarray, reply: Reply) -> None:
        """Execute a chunk and keep the observations a policy will read."""
        lazy = self._watch.lazy and not self._watch.record
        left = self.env.max_steps - self._steps if self._watch.final else len(actions)
        first_kept = min(len(actions), left) - self._watch.n_obs_steps if lazy else 0
        before: list[Observation] = []
        for i, action in enumerate(actions):
            before.append(self._history[-1])
            result = self.env.step(action)
            self._note(result, reply)
            self._shoot(reply)
            self._steps += 1
            reply.done, reply.terminated = result.done, bool(result.terminated)
            if (self._watch.final and result.done) or (i >= first_kept and not result.done):
                self._history.append(self._observe())
            if result.done:
                break
        if self._watch.record:
            reply.trace = self._trace(before, actions)
        if self._watch.final or not reply.done:
            reply.observation = self._stacked()

    def close(self) -> None:
        """Release the environment; the next reset builds a new one."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _note(self, result: StepResult, reply: Reply) -> None:
        reward = float(result.reward)
        if not np.isfinite(reward):
            raise ValueError(f"the environment returned the reward {reward}")
        reply.rewards.append(reward)
        reply.successes.append(bool(result.success))

    def _observe(self) -> Observation:
        return self.env.observe(tuple(dict.fromkeys((*self._watch.keys, *self._watch.record))))

    def _trace(self, before: list[Observation], actions: np.ndarray) -> Trace:
        """``before``: what was seen before each executed step, the first ones of ``actions``."""
        space = self.env.action_space
        executed = [checked_action(action, space) for action in actions[: len(before)]]
        return Trace({key: np.stack([o[key] for o in before]) for key in self._watch.record}, np.stack(executed))

    def _stacked(self) -> Observation:
        return {key: np.stack([o[key] for o in self._history]) for key in self._watch.keys}

    def _shoot(self, reply: Reply) -> None:
        if self._film is not None:
            reply.frames.append(np.ascontiguousarray(self.env.render(size=self._film)))


class SlotRunner:
    """Answers commands over any number of slots."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        self._slots: dict[int, Slot] = {}

    def handle(self, command: Command) -> Reply:
        """Carry out one command; whatever the environment raises becomes ``Reply.error``."""
        reply = Reply(command.slot)
        slot = self._slots.setdefault(command.slot, Slot(self._config))
        start = time.perf_counter()
        try:
            if isinstance(command, Describe):
                reply.description = slot.describe()
            elif isinstance(command, Reset):
                slot.reset(command, reply)
            elif isinstance(command, Call):
                reply.value = getattr(slot.env, command.method)(*command.arguments)
            else:
                slot.advance(command.actions, reply)
        except Exception as e:  # simulators raise anything; the episode must not be scored
            if not (isinstance(command, Call) and isinstance(e, RobopolicyError)):  # a refusal breaks nothing
                self._forget(command.slot)
            reply.error = f"{type(e).__name__}: {e}"
            reply.raised = e if isinstance(e, RobopolicyError) else None
        reply.seconds = time.perf_counter() - start
        return reply

    def close(self) -> None:
        """Close every environment."""
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()

    def _forget(self, index: int) -> None:
        slot = self._slots.pop(index)
        try:
            slot.close()
        except Exception:  # a broken simulator may not even close; the episode is lost anyway
            return
