"""What a fine-tuning run tells: metrics.jsonl and TensorBoard over environment steps, and a bar for who watches.

A line of metrics.jsonl has the environment steps collected so far as ``step`` (and again as ``env_steps``) and one of
these kinds: ``collect`` (a round's episodes), ``train`` (means over a round's updates), ``eval`` (rollouts on fixed
seeds; numbers of candidates other than the first carry their name), and ``offline``, whose ``step`` counts updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.core.intervals import wilson
from robopolicy.rl.replay_files import EpisodeRecord
from robopolicy.training.config import LoggingConfig
from robopolicy.training.finetune_state import FinetuneProgress
from robopolicy.training.loggers import Loggers, Sink, TensorBoardSink, WandbSink
from robopolicy.training.metrics import MetricsFile
from robopolicy.training.progress import ProgressBar, Rates

LAST = 20  # episodes over which the bar shows the success rate


class FinetuneLog:
    """The sinks of a run; on a resumed run they forget what comes after its checkpoint."""

    def __init__(self, run: Path, config: LoggingConfig, settings: dict[str, Any], progress: FinetuneProgress) -> None:
        self.progress = progress
        self.rates = Rates(progress.elapsed)
        self._file = MetricsFile(run, 0, progress.records)
        offline = progress.total_updates if progress.stage == "offline" else _offline_updates(run)
        self._offline = TensorBoardSink(run, offline, "tensorboard/offline")
        curves: list[Sink] = [TensorBoardSink(run, progress.env_steps)]
        if config.wandb:
            curves.append(WandbSink(run, config, settings))
        self._curves = Loggers(curves)

    def log(self, kind: str, scalars: Mapping[str, float]) -> None:
        """A line over environment steps."""
        p = self.progress
        told = {"round": float(p.round), "env_steps": float(p.env_steps), **scalars}
        self._file.log(p.env_steps, kind, told)
        self._curves.log(p.env_steps, kind, scalars)
        p.records = self._file.count

    def log_offline(self, scalars: Mapping[str, float]) -> None:
        """A line of the offline stage, over updates."""
        p = self.progress
        self._file.log(p.total_updates, "offline", {"env_steps": 0.0, **scalars})
        self._offline.log(p.total_updates, "offline", scalars)
        p.records = self._file.count

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        self._offline.close()
        self._curves.close()


def _offline_updates(run: Path) -> int:
    from robopolicy.training.metrics import NAME, read_metrics

    return max((r["step"] for r in read_metrics(run / NAME) if r["kind"] == "offline"), default=0)


class Means:
    """Means of scalars since the last line; the sums are part of the counters, so that they survive a kill."""

    def __init__(self, sums: dict[str, list[float]]) -> None:
        self._sums = sums

    def add(self, scalars: Mapping[str, float]) -> None:
        """Count one update's scalars."""
        for name, value in scalars.items():
            held = self._sums.setdefault(name, [0.0, 0])
            held[0] += float(value)
            held[1] += 1

    def read(self) -> dict[str, float]:
        """The means; begins anew."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means

    def peek(self) -> dict[str, float]:
        """The means so far."""
        return {name: total / count for name, (total, count) in self._sums.items()}


def round_scalars(episodes: Sequence[EpisodeRecord]) -> dict[str, float]:
    """What a round's episodes were: success with its 95 % interval, lengths, counts."""
    n, good = len(episodes), sum(e.success for e in episodes)
    if not n:
        return {"episodes": 0.0}
    interval = wilson(good, n)
    return {
        "success_rate": good / n,
        "success_low": interval.low,
        "success_high": interval.high,
        "episodes": float(n),
        "transitions": float(sum(e.transitions for e in episodes)),
        "round_env_steps": float(sum(e.env_steps for e in episodes)),
        "mean_length": sum(e.env_steps for e in episodes) / n,
    }


class FinetuneBar:
    """Environment steps of the budget with ETA (rounds where there is none), success of the last episodes, losses."""

    def __init__(
        self,
        progress: FinetuneProgress,
        rounds: int | None,
        max_env_steps: int | None,
        seen: Sequence[bool],
        show: bool,
    ) -> None:
        self._by_steps = max_env_steps is not None
        if max_env_steps is not None:
            self._bar = ProgressBar(progress.env_steps, max_env_steps, show, "env step")
        else:
            self._bar = ProgressBar(progress.round, rounds or 0, show, "round")
        self._seen, self._progress = list(seen), progress
        self._losses: dict[str, str] = {}

    def episode(self, record: EpisodeRecord) -> None:
        """An episode has come."""
        self._seen.append(record.success)
        if self._by_steps:
            self._bar.advance(record.env_steps)
        self._tell("collect", len(self._seen))

    def update(self, number: int, total: int, means: Mapping[str, float]) -> None:
        """``number`` of a stage's ``total`` updates are done."""
        shown = [k for k in means if "loss" in k] or list(means)
        self._losses = {k: f"{means[k]:.3g}" for k in shown[:3] if math.isfinite(means[k])}
        self._tell("learn", number, total)

    def round_done(self) -> None:
        """A round is over."""
        if not self._by_steps:
            self._bar.advance()

    def stage(self, name: str) -> None:
        """Say what goes on."""
        self._tell(name)

    def _tell(self, stage: str, *counts: int) -> None:
        last = self._seen[-LAST:]
        told = {"round": str(self._progress.round), stage: "/".join(map(str, counts)) or "..."}
        if last:
            told["success"] = f"{sum(last) / len(last):.2f} of last {len(last)}"
        self._bar.tell(told | {"episodes": str(len(self._seen))} | self._losses)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
