"""Expert for panda_recall: down to the middle pad, wait for green, across to the pad whose lamp was lit.

Until the ring turns green the label looks at the tool and the middle pad only, never at the cue.
"""

from __future__ import annotations

import numpy as np

from robopolicy.sim.experts.base import CLOSED, PandaExpert
from robopolicy.sim.protocol import Env


class RecallExpert(PandaExpert):
    """Knows the cue throughout, which an observer of one moment does not."""

    def __init__(self, env: Env, seed: int, noise: float = 0.0) -> None:
        super().__init__(env, seed, noise)
        self.height = self.rng.uniform(0.025, 0.035)  # m, of the tool on a pad

    def act(self) -> np.ndarray:
        """See ``Expert.act``."""
        pad = self.env.pads[self.env.cue] if self.env.go else self.env.middle
        return self.towards(np.array((pad[0], pad[1], self.height)), 0.0, CLOSED)
