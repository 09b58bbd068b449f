"""A progress bar with ETA, steps per second, loss and the share of time spent waiting for data."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm


class ProgressBar:
    """Thin wrapper so that the loop does not know tqdm; silent when ``show`` is false."""

    def __init__(self, start: int, total: int, show: bool, unit: str = "step") -> None:
        # A log file gets a line now and then, a terminal a live bar.
        interval = 0.2 if sys.stderr.isatty() else 15.0
        self._bar = tqdm(
            total=total, initial=start, disable=not show, unit=unit, mininterval=interval, dynamic_ncols=True
        )

    def advance(self, by: int = 1) -> None:
        self._bar.update(by)

    def show(self, scalars: Mapping[str, float]) -> None:
        """Display selected scalars after the bar."""
        shown = {k: f"{scalars[k]:.4g}" for k in ("loss", "lr", "data_wait") if k in scalars}
        self._bar.set_postfix(shown, refresh=False)

    def tell(self, told: Mapping[str, str]) -> None:
        """Display ``told`` after the bar."""
        self._bar.set_postfix(told, refresh=False)
        self._bar.update(0)

    def close(self) -> None:
        self._bar.close()


class Rates:
    """Steps per second and data-wait share between readings, and the seconds of the whole run."""

    def __init__(self, elapsed: float = 0.0) -> None:
        self._origin = time.perf_counter() - elapsed
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @property
    def elapsed(self) -> float:
        """Seconds of this run, earlier sessions included."""
        return time.perf_counter() - self._origin

    def read(self, steps: int, waited: float) -> dict[str, float]:
        """Scalars since the last reading; ``steps`` and ``waited`` (s) are totals of this session."""
        now = time.perf_counter()
        span = max(now - self._since, 1e-9)
        scalars = {"steps_per_s": (steps - self._steps) / span, "data_wait": (waited - self._waited) / span}
        self._since, self._waited, self._steps = now, waited, steps
        return scalars | {"elapsed_s": self.elapsed}

    def exclude(self, seconds: float) -> None:
        """Leave time that was no training (validation, evaluation, saving) out of the next rates."""
        self._since += seconds
