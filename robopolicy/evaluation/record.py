"""The record of an evaluation: every episode, the totals with intervals, and where the numbers came from."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.core.errors import ConfigError
from robopolicy.core.io import write_atomic
from robopolicy.evaluation.intervals import Mean, Rate, mean_interval, wilson
from robopolicy.sim.pool_episodes import EpisodeResult

FORMAT = 1


@dataclass(frozen=True)
class Timing:
    """Wall times of an evaluation: all of it in seconds, and the policy's calls in milliseconds.

    ``chunk_ms``: p50, p95, p99 of one batched call after the first; ``rows``: mean rows a call; ``policy_share``: share
    of the wall time spent in the policy; ``single_ms``: the same percentiles for one observation alone, measured after
    the episodes (empty unless asked for).
    """

    wall_s: float
    episodes_per_s: float
    steps_per_s: float
    policy_calls: int
    rows: float
    chunk_ms: dict[str, float]
    policy_share: float
    single_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation of one policy in one environment.

    ``env``: name and keyword arguments; ``task``, ``fps``, ``max_steps``: what the environment said; ``policy``: type,
    path, weight hash and chunk layout; ``step``: training step, if the policy came from a run.
    """

    env: dict[str, Any]
    task: str
    fps: float
    max_steps: int
    base_seed: int
    slots: int
    workers: int
    policy: dict[str, Any]
    episodes: tuple[EpisodeResult, ...]
    timing: Timing
    versions: dict[str, str]
    machine: dict[str, Any]
    git_commit: str | None
    created: str
    step: int | None = None
    videos: tuple[str, ...] = field(default=())
    execution: dict[str, Any] = field(default_factory=dict)
    """Mode, latency, counts and border jumps (``evaluation.execution``); empty: whole executed parts, no latency."""
    format: int = FORMAT

    @property
    def scored(self) -> tuple[EpisodeResult, ...]:
        """Episodes that count; those whose simulator failed do not."""
        return tuple(e for e in self.episodes if e.status == "ok")

    @property
    def errors(self) -> int:
        """Episodes lost to the simulator."""
        return len(self.episodes) - len(self.scored)

    @property
    def success(self) -> Rate:
        """Success rate with Wilson interval."""
        return wilson(sum(e.success for e in self.scored), len(self.scored))

    @property
    def max_reward(self) -> Mean:
        """Mean over episodes of the largest reward (the score of PushT in the literature)."""
        return mean_interval([e.max_reward for e in self.scored])

    @property
    def length(self) -> Mean:
        """Mean number of executed steps."""
        return mean_interval([e.length for e in self.scored])

    def summary(self) -> str:
        """One line for people; every number has its n and interval."""
        lost = f"; {self.errors} episodes lost to simulator errors, not scored" if self.errors else ""
        return f"success {self.success}, max reward {self.max_reward}{lost}"

    def scalars(self) -> dict[str, float]:
        """Totals as named numbers for ``metrics.jsonl`` and TensorBoard (NaN where there is no interval)."""
        rate, reward = self.success, self.max_reward
        return {
            "success_rate": rate.rate,
            "success_low": rate.low,
            "success_high": rate.high,
            "mean_max_reward": reward.mean,
            "max_reward_low": reward.low,
            "max_reward_high": reward.high,
            "n": float(rate.n),
            "errors": float(self.errors),
            "mean_length": self.length.mean,
            "wall_s": self.timing.wall_s,
            "chunk_ms_p50": self.timing.chunk_ms.get("p50", math.nan),
        }

    @property
    def info(self) -> dict[str, Mean]:
        """Means over episodes of what the policy told about its chunks, such as their energy."""
        keys = sorted({key for e in self.scored for key in e.info})
        return {key: mean_interval([e.info[key] for e in self.scored if key in e.info]) for key in keys}

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the fields and, for other programs, the totals."""
        body = dataclasses.asdict(self)
        if not self.execution:
            del body["execution"]
        body["totals"] = {
            "n": len(self.scored),
            "errors": self.errors,
            "success": {**dataclasses.asdict(self.success), "rate": _finite(self.success.rate)},
            **{
                k: {a: _finite(b) for a, b in dataclasses.asdict(getattr(self, k)).items()}
                for k in ("max_reward", "length")
            },
            "info": {k: {a: _finite(b) for a, b in dataclasses.asdict(m).items()} for k, m in self.info.items()},
        }
        return body

    def save(self, path: str | Path) -> Path:
        """Write the record, wholly or not at all; returns the path."""
        path = Path(path)
        write_atomic(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))
        return path

    @staticmethod
    def load(path: str | Path) -> EvaluationRecord:
        """Read a record.

        Raises:
            ConfigError: no such file, not a record, or of another format.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text())
        except OSError as e:
            raise ConfigError(f"{path}: cannot read the evaluation record ({e.strerror})") from e
        except ValueError as e:
            raise ConfigError(f"{path}: not an evaluation record (broken JSON: {e})") from e
        if not isinstance(data, dict) or data.get("format") != FORMAT or "episodes" not in data:
            raise ConfigError(
                f"{path}: not an evaluation record of format {FORMAT}; write one with 'robopolicy evaluate'"
            )
        data.pop("totals", None)
        try:
            data["episodes"] = tuple(EpisodeResult(**e) for e in data["episodes"])
            data["timing"] = Timing(**data["timing"])
            data["videos"] = tuple(data.get("videos", ()))
            return EvaluationRecord(**data)
        except (TypeError, KeyError) as e:
            raise ConfigError(f"{path}: not an evaluation record of format {FORMAT} ({e})") from e


def record_name(step: int | None, env: str, base_seed: int, episodes: int) -> str:
    """Name of a record in the ``eval`` folder of a run: of which step, where, from which seed, how many episodes."""
    what = f"step_{step:06d}" if step is not None else "policy"
    return f"{what}_{env.rpartition(':')[2]}_seed{base_seed}_n{episodes}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value
