"""The last look at an action before anything moves: non-finite or misshapen commands are refused, never clamped."""

from __future__ import annotations

from typing import Any

import numpy as np

from robopolicy.core.errors import InvalidAction
from robopolicy.core.specs import ActionSpace


def ensure_finite_action(action: Any, space: ActionSpace) -> np.ndarray:
    """Return ``action`` as a new float64 ``(D,)`` array, or raise ``InvalidAction``.

    Refused: another shape than ``(space.dim,)``, another type than numbers, NaN and infinity.  Values beyond
    ``low``/``high`` pass: limits are the business of the environment or of the safety filter, and clamping
    here would hide NaN (clamping infinity turns a broken command into full speed).
    """
    array = np.asarray(action)
    if array.dtype.kind not in "fiu":
        raise InvalidAction(f"action: expected numbers, got dtype {array.dtype}")
    if array.shape != (space.dim,):
        raise InvalidAction(f"action: expected shape ({space.dim},), got {array.shape}; pass one step, not a chunk")
    command = array.astype(np.float64)
    finite = np.isfinite(command)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        label = f"{bad} ({space.names[bad]})" if space.names else str(bad)
        raise InvalidAction(f"action channel {label} is not finite ({array[bad]}); refused, nothing moves")
    return command
