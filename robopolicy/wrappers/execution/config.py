"""Options of chunk execution (no torch here: the command line reads this class)."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from robopolicy.core.configs import config_dataclass
from robopolicy.wrappers.execution.guide import Schedule

Mode = Literal["sync", "receding", "async", "ensemble", "rtc"]
MODES: tuple[Mode, ...] = get_args(Mode)
Steps = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]


@config_dataclass
class ExecutionConfig:
    """When the policy is asked again, and what becomes of the chunk in force.

    Steps are counted from the newest observation; a chunk has ``H = horizon - n_obs_steps + 1`` of them.
    """

    mode: Mode
    """sync: hold while it thinks; receding: ask after ``steps``; async: ask so that the answer comes in time; ensemble:
    ask always and average; rtc: ask after ``steps`` and let the new chunk continue the old one."""
    latency: NotNegative = 0.0
    """Seconds that an answer takes: injected in simulation, the first guess (and the preflight's number) on a robot."""
    steps: Steps | None = None
    """s, steps executed before the policy is asked again (sync, receding, rtc), or planned with each chunk (async);
    null: n_action_steps, with rtc at most half of H."""
    reach: Steps | None = None
    """Steps of a chunk that are handed over; those after ``steps`` are a reserve for late answers.
    null: ``steps`` for sync and async, all for the others."""
    decay: float = 0.01
    """m of ensemble: a prediction of age rank i weighs exp(-m i), i = 0 the oldest."""
    schedule: Schedule = "linear"
    """How the hold on the old chunk falls from the frozen steps to its end (rtc)."""
    lead: NotNegative = 0.0
    """Seconds before its date by which an action must have been handed over (a robot's latency and slack)."""
