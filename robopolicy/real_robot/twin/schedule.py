"""What happens how often, counted in ticks of a millisecond, so that every run of it is the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class _Repeated:
    rate: float
    action: Callable[[], None]
    origin: int
    count: int = 0

    @property
    def due(self) -> int:
        """Tick of the next call; rates that do not divide 1000 get periods of unequal length, never a drift."""
        return self.origin + math.ceil((self.count + 1) * 1000 / self.rate)


@dataclass
class Schedule:
    """Repeated and single actions; the order of actions at one tick is that of their registration."""

    now: int = 0
    _repeated: dict[str, _Repeated] = field(default_factory=dict)
    _later: list[tuple[int, Callable[[], None]]] = field(default_factory=list)

    def every(self, name: str, rate: float, action: Callable[[], None]) -> None:
        """Call ``action`` ``rate`` times a second from now on; the same ``name`` again replaces it."""
        self._repeated[name] = _Repeated(rate, action, self.now)

    def cancel(self, name: str) -> None:
        """No more of it."""
        self._repeated.pop(name, None)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call ``action`` once."""
        self._later.append((self.now + max(1, math.ceil(seconds * 1000 - 1e-6)), action))

    def until_next(self) -> int:
        """Ticks until something is due, at least 1."""
        ticks = [r.due for r in self._repeated.values()] + [tick for tick, _ in self._later]
        return max(1, min(ticks) - self.now) if ticks else 1000

    def advance(self, ticks: int) -> None:
        """Let ``ticks`` pass (no more than ``until_next``) and do what is due."""
        self.now += ticks
        ready = [action for tick, action in self._later if tick <= self.now]
        self._later = [(tick, action) for tick, action in self._later if tick > self.now]
        for action in ready:
            action()
        for repeated in list(self._repeated.values()):
            if repeated.due <= self.now:
                repeated.count += 1
                repeated.action()
