"""Execution modes in simulation: the environment goes on with the old plan while the policy thinks.

Source: the latency protocol of real-time chunking (Black et al. 2025, arXiv 2506.07339, section 5): an answer that is
asked for at step k is there at step ``k + d``, ``d = ceil(latency * fps)``.
Differs: the executors are those of the robot (``wrappers.execution``), fed with simulated time.  An episode's clock
starts when its first chunk is there.  Where the plan has run dry the arm holds: the last action is repeated (position
modes), or no motion is commanded (delta modes).

Since the answer is known at once and only counts later, a row goes from one question to the next in one piece: the
batches, the seeds and the pool are those of every evaluation, and results are as reproducible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.configs import dump_config
from robopolicy.core.errors import MissingCapability
from robopolicy.core.latency import periods
from robopolicy.core.specs import ActionSpace, ChannelKind
from robopolicy.sim.pool import Batch, EpisodeResult
from robopolicy.training.chunk_planner import BatchedPolicy
from robopolicy.wrappers.execution import ExecutionConfig, Executor, make_executor
from robopolicy.wrappers.execution.guide import whole_guide
from robopolicy.wrappers.execution.memory import check_stride
from robopolicy.wrappers.execution.timeline import Timeline

HELD = -1  # instead of a chunk's number: the plan had run dry
IDENTITY_6D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def resting(space: ActionSpace, last: np.ndarray) -> np.ndarray:
    """The action that holds after ``last`` ``(D,)``: itself, or in delta modes no motion (switches stay)."""
    if space.mode not in ("delta", "joint_delta"):
        return last
    kinds = np.array([kind.value for kind in space.channel_kinds])
    held = np.where(kinds == ChannelKind.EUCLIDEAN.value, 0.0, last).astype(last.dtype)
    turned = kinds == ChannelKind.ROT6D.value
    held[turned] = np.resize(IDENTITY_6D, int(turned.sum()))
    return held


@dataclass
class Track:
    """One episode: its executor, the plan in force, and what was sent.

    ``actions``, ``chunks``: one entry a control step; ``late``, ``over_budget``: (step, dropped actions) of answers.
    """

    executor: Executor
    plan: Timeline
    actions: list[np.ndarray] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    late: list[tuple[int, int]] = field(default_factory=list)
    over_budget: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The present control step."""
        return len(self.actions)

    @property
    def now(self) -> float:
        """Seconds of the episode."""
        return self.step * self.executor.dt

    def issue(self) -> None:
        """Send the action that is due now, or hold."""
        i = self.plan.at(self.now)
        if i is None:
            self.actions.append(resting(self.executor.spec.space, self.actions[-1]))
            self.chunks.append(HELD)
        else:
            self.actions.append(self.plan.actions[i])
            self.chunks.append(int(self.plan.chunks[i]))

    def segment(self, chunk: ActionChunk, latency: float, most: int) -> np.ndarray:
        """What is executed ``(n, D)`` from the question that ``chunk`` answers to the next; ``most`` steps in all."""
        executor, began = self.executor, self.step
        delay = 0 if not self.asked else periods(latency, executor.dt)
        asked_at = self.now
        self.asked.append(began)
        for _ in range(delay):
            self.issue()
        submitted = executor.took(chunk, asked_at, self.now)
        first = submitted.spec.exec_start
        stamps, actions = submitted.stamps[0, first:], submitted.actions[0, first:]
        late = self.plan.merge(stamps, actions, self.now, len(self.asked))
        if late:
            self.late.append((self.step, late))
        if late == len(stamps):
            self.over_budget.append(self.step)
        while self.step < most or self.step == began:
            if self.step > began and executor.wants(self.now, self.plan.end, latency):
                break
            self.issue()
        return np.stack(self.actions[began:])


class ExecutingPlanner(BatchedPolicy):
    """A policy executed in one of the modes, as the pool's planner; it remembers what every episode did."""

    def __init__(self, policy: Any, base_seed: int, task: str, config: ExecutionConfig, most: int) -> None:
        """``most``: control steps of an episode.

        Raises ``ConfigError`` where mode, latency and chunk do not fit, ``MissingCapability`` where the policy cannot
        be guided.
        """
        super().__init__(policy, base_seed, task)
        self.config, self._most = config, most
        self._executor = make_executor(config, policy.action_spec)
        if self._executor.guides and not getattr(policy, "continues", False):
            raise MissingCapability(
                f"mode {config.mode} needs a policy that continues chunks, and {type(policy).__name__} does not; wrap "
                "the policy inside it (type: real_time)"
            )
        check_stride(policy, self._executor, config.latency)
        self._tracks: dict[int, Track] = {}
        self._guides: list[Any] = []
        self._unit = _unit(policy)
        self._totals = Totals()

    def __call__(self, batch: Batch) -> Sequence[np.ndarray]:
        """Actions ``(n, D)`` a row, from this question to the next one of the row."""
        tracks = [self._track(e.index, number) for e, number in zip(batch.episodes, batch.chunks, strict=True)]
        self._guides = [track.executor.guide(track.now) for track in tracks]
        chunk = self.plan(batch)
        rows = []
        for i, track in enumerate(tracks):
            own = ActionChunk.stamped(chunk.actions[i : i + 1], chunk.spec, track.now)
            rows.append(track.segment(own, self.config.latency, self._most))
        return rows

    def _act(
        self, batch: Batch, obs: dict[str, Any], keys: list[tuple[int, ...]], carried: dict[str, Any]
    ) -> ActionChunk:
        if not self._executor.guides:
            return super()._act(batch, obs, keys, carried)
        chunk: ActionChunk = self._policy.act(obs, noise_keys=keys, guide=self._guides, **carried)
        return chunk

    def _alone(self, key: tuple[int, ...]) -> ActionChunk:
        if not self._executor.guides:
            return super()._alone(key)
        held = whole_guide(np.zeros((self._policy.action_spec.horizon, self._policy.action_spec.dim), np.float32))
        chunk: ActionChunk = self._policy.act(self._example, noise_keys=[key], guide=held)
        return chunk

    def _track(self, episode: int, number: int) -> Track:
        """That of ``episode``; chunk 0 begins it, or begins it anew."""
        if number == 0:
            spec = self._policy.action_spec
            executor = make_executor(self.config, spec)
            self._tracks[episode] = Track(executor, Timeline(spec.dim, spec.dt, spec.n_obs_steps))
        return self._tracks[episode]

    def settle(self, result: EpisodeResult) -> None:
        """Count what an episode really executed (its last piece may have been cut short)."""
        track = self._tracks.pop(result.index, None)
        if track is not None and result.status == "ok":
            self._totals.add(track, result.length, self._unit)

    def report(self) -> dict[str, Any]:
        """What the record keeps: the settings, the counts over all scored episodes, and the borders of chunks."""
        executor = self._executor
        settings = {
            **dump_config(self.config),
            "steps": executor.steps,
            "reach": executor.reach,
            "delay_steps": periods(self.config.latency, executor.dt),
        }
        return {**settings, **self._totals.told(), "jump_unit": "physical" if self._unit is None else "normalised"}


@dataclass
class Totals:
    """Counts over episodes, and sizes of the steps from action to action, at borders of chunks and inside them."""

    executed: int = 0
    inferences: int = 0
    starved: int = 0
    late: int = 0
    over_budget: int = 0
    border: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)

    def add(self, track: Track, length: int, unit: np.ndarray | None) -> None:
        """Enter the first ``length`` steps of an episode."""
        chunks = np.array(track.chunks[:length])
        self.executed += length
        self.starved += int((chunks == HELD).sum())
        self.inferences += sum(step < length for step in track.asked)
        self.late += sum(count for step, count in track.late if step < length)
        self.over_budget += sum(step < length for step in track.over_budget)
        if length < 2:
            return
        space = track.executor.spec.space
        moves = np.diff(np.stack(track.actions[:length]).astype(np.float64), axis=0)
        moves = moves / unit if unit is not None else moves
        counted = [kind not in (ChannelKind.BINARY, ChannelKind.PADDING) for kind in space.channel_kinds]
        sizes = np.linalg.norm(moves[:, counted], axis=1)
        new = chunks[1:] != chunks[:-1]
        held = chunks[1:] == HELD
        self.border += sizes[new & ~held].tolist()
        self.inside += sizes[~new & ~held].tolist()

    def told(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "executed_steps": self.executed,
            "inferences": self.inferences,
            "starved_steps": self.starved,
            "late_steps": self.late,
            "over_budget": self.over_budget,
            "border_jump": _spread(self.border),
            "inside_step": _spread(self.inside),
        }


def _spread(sizes: Sequence[float]) -> dict[str, float]:
    """``n``, and the percentiles where there is any."""
    told: dict[str, float] = {"n": len(sizes)}
    return {**told, **{f"p{q}": round(float(np.percentile(sizes, q)), 5) for q in (50, 99)}} if sizes else told


def _unit(policy: Any) -> np.ndarray | None:
    """Physical size of one normalised unit a channel ``(D,)``, infinite for constant channels; ``None`` if unknown."""
    norm = getattr(policy, "norm", None)
    if norm is None:
        return None
    scale, free = (getattr(norm, name).detach().cpu().numpy().astype(np.float64) for name in ("scale", "free"))
    return np.where(free > 0, np.abs(scale), np.inf)


def summary(told: Mapping[str, Any]) -> str:
    """One line for people."""
    border, inside = told["border_jump"], told["inside_step"]
    jumps = (
        f", step at borders p50/p99 {border['p50']:g}/{border['p99']:g} (n {border['n']}) against "
        f"{inside['p50']:g}/{inside['p99']:g} inside (n {inside['n']}), {told['jump_unit']}"
        if border["n"] and inside["n"]
        else ""
    )
    return (
        f"{told['mode']}, latency {told['latency']:g} s (d = {told['delay_steps']}), s = {told['steps']}: "
        f"{told['inferences']} chunks, starved {told['starved_steps']} of {told['executed_steps']} steps, "
        f"late {told['late_steps']}, over budget {told['over_budget']}{jumps}"
    )
