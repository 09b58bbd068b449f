"""What a runner needs of a policy and of an executor; both live in rooms that this one does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.specs import ActionSpec


class ActingPolicy(Protocol):
    """What the runner asks of a policy (every head and wrapper has it)."""

    action_spec: ActionSpec

    def act(
        self,
        obs: Mapping[str, Any],
        noise_keys: Any = None,
        observed_at: float | np.ndarray = 0.0,
        episodes: Any = None,
    ) -> ActionChunk:
        """A chunk for one observation; with an executor that ``guides`` it also takes ``guide``."""
        ...


class ChunkExecutor(Protocol):
    """What the runner asks of an executor (``robopolicy.wrappers.execution`` has them)."""

    guides: ClassVar[bool]

    def wants(self, now: float, plan_end: float | None, latency: float) -> bool:
        """Whether to ask now."""
        ...

    def guide(self, t_ref: float) -> Any:
        """What the next chunk shall continue."""
        ...

    def took(self, chunk: ActionChunk, began: float, ended: float) -> ActionChunk:
        """What to submit of an answer."""
        ...

    def reset(self) -> None:
        """Forget the plan."""
        ...
