"""panda_recall: a lamp shows for half a second where to go; the way is free only later, when the lamp is dark.

The toy that separates policies with a memory from those without (horizon scaling, the recall probes of recurrent
imitation).  The tool comes down to the middle pad and waits; some time after the lamp went out the ring around that pad
turns green; then the tool goes to the pad that the lamp had marked.  The first pad it touches decides, so whoever has
forgotten the lamp succeeds in one of ``choices`` episodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.seeding import generator
from robopolicy.sim.tasks.base import PandaTask

MAX_CHOICES = 4  # pads in the scene
REACH = 0.15  # m from the middle pad to the others
LAMP = 0.075  # m from a pad outwards to its lamp
TOUCH = 0.035  # m, radius of a pad
LOW = 0.06  # m, the tool touches a pad below this height
AWAY = (0.0, 0.0, -1.0)  # pads that are not used lie under the floor
CUE_STREAM = 1  # the cue's own generator: nothing else of the episode depends on it


class PandaRecall(PandaTask):
    """Remember which lamp was lit.

    Environment state: the lamps (one 1 while lit, all 0 after), the green ring, the pads relative to the tool.

    Args:
        choices: number of pads to choose from, 2..4, in a fan from left to right; chance is ``1 / choices``.
        delay: least and largest number of steps from the lamp's end to the green ring, drawn uniformly.  The ring waits
            for the tool to be on the middle pad.
        cue_steps: number of observations that show the lamp (10 are half a second).
        cue: always this pad, for tests and films; drawn from the seed if None.
        options: those of ``PandaTask``.
    """

    SCENE = "recall"
    TASK = "Wait on the middle pad for green, then go to the pad whose lamp was lit."
    MAX_STEPS = 160
    ENVIRONMENT_NAMES = (
        *("cue_0", "cue_1", "go", "to_middle_x", "to_middle_y", "to_middle_z"),
        *("to_pad0_x", "to_pad0_y", "to_pad0_z", "to_pad1_x", "to_pad1_y", "to_pad1_z"),
    )

    def __init__(
        self,
        choices: int = 2,
        delay: Sequence[int] = (8, 40),
        cue_steps: int = 10,
        cue: int | None = None,
        **options: Any,
    ) -> None:
        if not 2 <= choices <= MAX_CHOICES:
            raise ConfigError(f"choices: expected 2..{MAX_CHOICES}, got {choices}")
        if len(delay) != 2 or not 0 <= delay[0] <= delay[1]:
            raise ConfigError(f"delay: expected a least and a largest number of steps, got {tuple(delay)}")
        if cue_steps < 1 or not (cue is None or 0 <= cue < choices):
            raise ConfigError(f"expected cue_steps >= 1 and cue in 0..{choices - 1} or None, got {cue_steps} and {cue}")
        self.choices, self.delay, self.cue_steps = int(choices), (int(delay[0]), int(delay[1])), int(cue_steps)
        self._fixed_cue = cue
        super().__init__(**options)

    @property
    def environment_names(self) -> tuple[str, ...]:
        """Names of the environment state's channels for this number of pads."""
        pads = [f"to_pad{i}_{axis}" for i in range(self.choices) for axis in "xyz"]
        return (*(f"cue_{i}" for i in range(self.choices)), *self.ENVIRONMENT_NAMES[2:6], *pads)

    def reset(self, seed: int) -> None:
        """See ``Env.reset``; the cue comes from a generator of its own."""
        drawn = int(generator("env", seed, CUE_STREAM).integers(self.choices))
        self.cue = drawn if self._fixed_cue is None else self._fixed_cue
        super().reset(seed)

    def _start(self, rng: np.random.Generator) -> None:
        x, y, turn = rng.uniform((0.43, -0.03, -0.12), (0.49, 0.03, 0.12))
        self._due = self.cue_steps + int(rng.integers(self.delay[0], self.delay[1] + 1))
        self.middle = np.array((x, y, 0.0))
        self.data.mocap_pos[:] = AWAY
        self.data.mocap_pos[0] = self.middle
        self.pads = np.zeros((self.choices, 3))
        for i in range(self.choices):
            angle = math.pi / 2 - math.pi * i / (self.choices - 1) + turn  # from the left, +y, to the right
            outwards = np.array((math.cos(angle), math.sin(angle), 0.0))
            self.pads[i] = self.middle + REACH * outwards
            self.data.mocap_pos[1 + i] = self.pads[i]
            self.data.mocap_pos[1 + MAX_CHOICES + i] = self.pads[i] + LAMP * outwards
        self.go, self.lit, self.chosen, self._too_early = False, True, -1, False
        self._show()

    def _show(self) -> None:
        """Give lamps and ring the material of their present state."""
        model = self.model
        for i in range(MAX_CHOICES):
            bright = self.lit and i == self.cue
            model.geom(f"lamp{i}").matid = model.material("lamp_on" if bright else "lamp_off").id
        model.geom("ring").matid = model.material("go_on" if self.go else "go_off").id

    def _advance(self) -> None:
        self.lit = self._steps < self.cue_steps
        if self._steps >= self._due and self._touches(self.middle):
            self.go = True
        if self.chosen < 0:
            touched = [i for i, pad in enumerate(self.pads) if self._touches(pad)]
            self.chosen = touched[0] if touched else -1
            self._too_early = not self.go
        self._show()

    def _touches(self, pad: np.ndarray) -> bool:
        tcp = self.arm.tcp
        return float(tcp[2]) < LOW and math.hypot(tcp[0] - pad[0], tcp[1] - pad[1]) < TOUCH

    def _environment_state(self) -> Sequence[float]:
        cue = [float(self.lit and i == self.cue) for i in range(self.choices)]
        tcp = self.arm.tcp
        return (*cue, float(self.go), *(self.middle - tcp), *(self.pads - tcp).ravel())

    def _goal_holds(self) -> bool:
        return self.chosen == self.cue and not self._too_early and self._touches(self.pads[self.cue])

    def _failed(self) -> bool:
        return self.chosen >= 0 and (self.chosen != self.cue or self._too_early)

    def _progress(self) -> float:
        tcp = self.arm.tcp
        if not self.go:
            return 0.3 * max(0.0, 1.0 - float(np.linalg.norm(tcp - self.middle)) / 0.3)
        return 0.3 + 0.6 * max(0.0, 1.0 - float(np.hypot(*(tcp - self.pads[self.cue])[:2])) / REACH)
