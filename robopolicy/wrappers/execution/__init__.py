"""How chunks are executed while the next one is being worked out; executors are pure and need no torch.

``make_executor`` for a robot or a simulation; ``policy.RealTimePolicy`` (torch) is the policy that continues a chunk.
"""

from robopolicy.wrappers.execution.config import MODES, ExecutionConfig, Mode
from robopolicy.wrappers.execution.executors import Executor, make_executor
from robopolicy.wrappers.execution.guide import Guide

__all__ = ["MODES", "ExecutionConfig", "Executor", "Guide", "Mode", "make_executor"]
