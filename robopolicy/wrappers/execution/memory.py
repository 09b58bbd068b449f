"""Policies with a memory: it takes one step a chunk, so chunks must be asked for as far apart as in training."""

from __future__ import annotations

from typing import Any

from robopolicy.core.errors import ConfigError
from robopolicy.wrappers.execution.executors import Executor


def check_stride(policy: Any, executor: Executor, latency: float) -> None:
    """Raise ``ConfigError`` where ``executor`` with answers of ``latency`` s asks a policy with a memory at another
    interval than its own."""
    stride = getattr(getattr(policy, "needs", None), "chain_stride", 0)
    asks, mode = executor.interval(latency), executor.config.mode
    if stride and asks != stride:
        raise ConfigError(
            f"the policy carries a memory from chunk to chunk, {stride} steps apart, and {mode} with {latency:g} s "
            f"asks every {asks} steps; choose mode and steps so that it asks every {stride}"
        )
