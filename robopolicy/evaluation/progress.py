"""Progress of an evaluation on the terminal: a bar with ETA and the running success rate."""

from __future__ import annotations

import sys

from tqdm import tqdm

from robopolicy.evaluation.intervals import wilson
from robopolicy.sim.pool import EpisodeResult


class Progress:
    """Counts results and shows them; a context manager.  Silent unless ``show``."""

    def __init__(self, total: int, show: bool) -> None:
        pause = 0.1 if sys.stderr.isatty() else 10.0  # a log file wants few lines
        self._bar = tqdm(
            desc="evaluate", total=total, unit="ep", disable=not show, mininterval=pause, dynamic_ncols=True
        )
        self._successes = self._scored = self._errors = 0

    def add(self, result: EpisodeResult) -> None:
        """Count one finished episode."""
        if result.status == "ok":
            self._scored += 1
            self._successes += result.success
        else:
            self._errors += 1
        lost = f", errors {self._errors}" if self._errors else ""
        self._bar.set_postfix_str(f"success {wilson(self._successes, self._scored)}{lost}", refresh=False)
        self._bar.update()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()
