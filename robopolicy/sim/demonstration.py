"""One scripted demonstration: what an expert saw and meant to do, as arrays; and the process that makes them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from robopolicy.core.errors import RobopolicyError
from robopolicy.sim.experts import make_expert
from robopolicy.sim.protocol import Env, Observation, checked_action
from robopolicy.sim.registry import EnvConfig

BOOT = "import sys; from robopolicy.sim.demonstration import main; main(int(sys.argv[1]))"


@dataclass(frozen=True)
class Demonstration:
    """An episode of ``T`` steps: observations before each step, the clean actions, the rewards after each step."""

    seed: int
    success: bool
    observations: list[Observation]
    actions: np.ndarray  # (T, D) float32, physical: what the expert meant, not what noise made of it
    rewards: np.ndarray  # (T,) float32

    def __len__(self) -> int:
        return len(self.actions)


def demonstrate(env: Env, seed: int, noise: float, keys: Collection[str] | None = None) -> Demonstration:
    """Run the environment's expert from ``reset(seed)``; a function of its arguments alone."""
    env.reset(seed)
    expert = make_expert(env, seed, noise)
    observations, actions, rewards = [], [], []
    while True:
        observations.append(env.observe(keys))
        clean = checked_action(expert.act(), env.action_space)
        outcome = env.step(expert.disturb(clean))
        actions.append(clean)
        rewards.append(outcome.reward)
        if outcome.done:
            break
    return Demonstration(
        seed, outcome.success, observations, np.array(actions, np.float32), np.array(rewards, np.float32)
    )


def main(fd: int) -> None:
    """Worker: the first message is ``(EnvConfig, noise, sys.path)``; then a seed in, a demonstration (or text) out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; its end closes the socket
    connection = Connection(fd)
    config, noise, path = connection.recv()
    sys.path.extend(p for p in path if p not in sys.path)
    try:
        env = _make(config, connection)
        while env is not None:
            connection.send(demonstrate(env, connection.recv(), noise))
    except (EOFError, OSError):
        return
    except RobopolicyError as e:
        connection.send(str(e))


def _make(config: EnvConfig, connection: Connection) -> Env | None:
    try:
        return config.make()
    except RobopolicyError as e:
        connection.send(str(e))
        return None
