"""Executors: when to ask the policy again, what it is told of the chunk in force, and what of its answer is executed.

Source: receding horizons and dated chunks as in Diffusion Policy (Chi et al. 2023, arXiv 2303.04137); temporal
ensembling as in ACT (Zhao et al. 2023, arXiv 2304.13705); real-time chunking, Black et al. 2025 (arXiv 2506.07339).
Differs: time comes from outside, every action has a date, and late ones are dropped, never executed late.

A caller with one policy call in flight at most does, for one robot or episode:

    if nothing in flight and executor.wants(now, plan_end, latency):
        t_ref = time of the newest observation; guide = executor.guide(t_ref)
        began = now; chunk = policy.act(observation, observed_at=t_ref[, guide=guide]); ended = now
        submit(executor.took(chunk, began, ended))      # its steps from exec_start on; the late ones are dropped there

``plan_end`` is when the plan in force ends (``None`` without one), ``latency`` the usual time of an answer (seconds,
95th percentile: ``core.latency``).  Executors hold no clock and no randomness: equal calls give equal answers.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, ClassVar

import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.configs import build_config
from robopolicy.core.errors import ConfigError, InvalidChunk
from robopolicy.core.latency import periods
from robopolicy.core.specs import ActionSpec
from robopolicy.wrappers.execution.averages import Averager, Mixer
from robopolicy.wrappers.execution.config import ExecutionConfig
from robopolicy.wrappers.execution.guide import Guide, falling_weights
from robopolicy.wrappers.execution.timeline import Timeline

TINY = 1e-6  # action periods; nearer than this is now


class Executor(ABC):
    """Base of all modes.  ``steps`` is s, ``room`` is H, the steps of a chunk from the newest observation on."""

    guides: ClassVar[bool] = False
    """Whether the policy must take a ``guide`` (``RealTimePolicy``)."""

    def __init__(self, config: ExecutionConfig, spec: ActionSpec) -> None:
        if not spec.dt > 0:
            raise ConfigError(
                "chunks of keyposes have no dates; execution modes need a policy whose actions have a rate"
            )
        self.config, self.spec, self.dt = config, spec, spec.dt
        self.room = spec.horizon - spec.exec_start
        self.steps = self._default_steps() if config.steps is None else config.steps
        self.reach = self._default_reach() if config.reach is None else config.reach
        if not self.steps <= self.reach <= self.room:
            raise ConfigError(
                f"expected steps <= reach <= {self.room} (the policy's horizon {spec.horizon} less "
                f"{spec.exec_start} past steps), got steps={self.steps} and reach={self.reach}"
            )
        self._asked: float | None = None  # the newest observation that was answered

    def _default_steps(self) -> int:
        return self.spec.n_action_steps

    def _default_reach(self) -> int:
        return self.room

    def delay(self, latency: float) -> int:
        """d: steps of the old chunk that pass before an answer can be executed."""
        return periods(latency + self.config.lead, self.dt)

    def check(self, latency: float) -> None:
        """Raise ``ConfigError`` where answers that take ``latency`` seconds cannot be executed in this mode."""
        delay = self.delay(latency)
        if delay >= self.reach:
            raise ConfigError(
                f"{self.config.mode}: an answer takes d = {delay} steps of {self.dt:g} s and only {self.reach} of "
                "a chunk are handed over, so all would be late; raise reach, or make the policy faster"
            )

    def interval(self, latency: float) -> int:
        """Steps from one question to the next, where answers take ``latency`` seconds."""
        return max(self.steps, periods(latency, self.dt), 1)

    def wants(self, now: float, plan_end: float | None, latency: float) -> bool:
        """Whether to ask the policy with what is observed at ``now``, given that it is not thinking already."""
        edge = now + TINY * self.dt
        if self._asked is not None and edge < self._asked + self.dt:
            return False  # nothing new to see
        return plan_end is None or plan_end <= edge or self._due(edge, plan_end, latency)

    @abstractmethod
    def _due(self, now: float, plan_end: float, latency: float) -> bool:
        """The mode's own reason to ask while there is still a plan; ``now`` includes the tolerance."""

    def guide(self, t_ref: float) -> Guide | None:
        """What the chunk asked for with the observation of ``t_ref`` shall continue; ``None``: nothing."""
        return None

    def took(self, chunk: ActionChunk, began: float, ended: float) -> ActionChunk:
        """What to submit of the answer ``chunk`` (one row), asked for at ``began`` and there at ``ended``."""
        if len(chunk.actions) != 1 or chunk.spec != self.spec:
            raise InvalidChunk(
                f"executor: expected one row of a chunk of {self.spec.horizon} steps as announced, got "
                f"{chunk.actions.shape}"
            )
        self._asked = float(chunk.stamps[0, self.spec.exec_start])
        return first_steps(chunk, self.reach)

    def reset(self) -> None:
        """Forget everything: a new episode, or a plan that was thrown away."""
        self._asked = None


class Sync(Executor):
    """Executes ``steps``, then holds while the policy thinks: the world waits, so no action is late.  For debugging."""

    def _default_reach(self) -> int:
        return self.steps

    def check(self, latency: float) -> None:
        """Nothing can be late."""

    def interval(self, latency: float) -> int:
        """The thinking comes on top."""
        return self.steps + periods(latency, self.dt)

    def _due(self, now: float, plan_end: float, latency: float) -> bool:
        return False

    def took(self, chunk: ActionChunk, began: float, ended: float) -> ActionChunk:
        """The first ``reach`` steps, dated from ``ended`` on."""
        kept = super().took(chunk, began, ended)
        start = ended + self.config.lead
        return dataclasses.replace(kept, stamps=kept.stamps + (start - kept.stamps[:, [self.spec.exec_start]]))


class Receding(Executor):
    """Asks when ``steps`` of the newest chunk have been executed; the rest of it goes on until the answer is there."""

    def _due(self, now: float, plan_end: float, latency: float) -> bool:
        return self._asked is None or now >= self._asked + self.steps * self.dt


class Async(Executor):
    """Asks when no more than d + 1 of the planned steps remain, so that the plan does not run dry."""

    def _default_reach(self) -> int:
        return self.steps

    def interval(self, latency: float) -> int:
        """Never shorter than the thinking itself."""
        return max(self.steps - periods(latency, self.dt) - 1, periods(latency, self.dt), 1)

    def _due(self, now: float, plan_end: float, latency: float) -> bool:
        reserve = (self.reach - self.steps) * self.dt
        return plan_end - reserve - now <= (periods(latency, self.dt) + 1) * self.dt


class Ensemble(Executor):
    """Asks whenever it may, and executes the weighted mean of all that was said about each instant."""

    def __init__(self, config: ExecutionConfig, spec: ActionSpec) -> None:
        super().__init__(config, spec)
        self._averager = Averager(spec.space, config.decay)
        self._said: deque[tuple[np.ndarray, np.ndarray]] = deque()

    def interval(self, latency: float) -> int:
        """As often as the thinking allows."""
        return max(periods(latency, self.dt), 1)

    def _due(self, now: float, plan_end: float, latency: float) -> bool:
        return True

    def took(self, chunk: ActionChunk, began: float, ended: float) -> ActionChunk:
        """The means; a chunk asked between the others' instants is compared by interpolating those."""
        first = self.spec.exec_start
        own = chunk.stamps[0]
        while self._said and self._said[0][0][-1] < own[first] - TINY * self.dt:
            self._said.popleft()
        self._said.append((own[first:].copy(), chunk.actions[0, first:].copy()))
        mixed = chunk.actions[0].copy()
        for i in range(first, len(own)):
            told = (value_at(s, v, own[i], self.dt, self._averager) for s, v in self._said)
            mixed[i] = self._averager.mean(np.stack([a for a in told if a is not None]))
        return super().took(dataclasses.replace(chunk, actions=mixed[None]), began, ended)

    def reset(self) -> None:
        """Forget all chunks."""
        super().reset()
        self._said.clear()


class RealTime(Receding):
    """Real-time chunking: as ``Receding``, and the policy is told what it must continue (``guide``)."""

    guides = True

    def __init__(self, config: ExecutionConfig, spec: ActionSpec) -> None:
        super().__init__(config, spec)
        self._latency = config.latency
        self._plan, self._mixer = self._empty(), Mixer(spec.space)

    def _empty(self) -> Timeline:
        return Timeline(self.spec.dim, self.dt, self.spec.n_obs_steps)

    def _default_steps(self) -> int:
        return max(1, min(self.spec.n_action_steps, self.room // 2))

    def check(self, latency: float) -> None:
        """Raise ``ConfigError`` unless ``d <= s <= H - d``."""
        delay, steps, room = self.delay(latency), self.steps, self.reach
        if not delay <= steps <= room - delay:
            raise ConfigError(
                f"rtc needs d <= s <= H - d, got d = {delay} (latency {latency + self.config.lead:g} s at "
                f"{1 / self.dt:g} Hz), s = {steps}, H = {room}, so {delay} <= {steps} <= {room - delay} does not hold; "
                + (f"set steps within {delay}..{room - delay}" if 2 * delay <= room else "make the policy faster")
            )

    def wants(self, now: float, plan_end: float | None, latency: float) -> bool:
        """As of every executor; the newest ``latency`` decides how much ``guide`` freezes."""
        self._latency = latency
        return super().wants(now, plan_end, latency)

    def guide(self, t_ref: float) -> Guide | None:
        """Steps that will have been executed are frozen; the hold on the rest falls to 0 where the old chunk ends."""
        spec, plan = self.spec, self._plan
        previous = np.zeros((spec.horizon, spec.dim), np.float32)
        told = np.zeros(spec.horizon, bool)
        for i in range(spec.horizon):
            due = t_ref + (i - spec.exec_start) * self.dt
            value = value_at(plan.stamps, plan.actions, due, self.dt, self._mixer)
            if value is not None:
                previous[i], told[i] = value, True
        ahead = int(told[spec.exec_start :].sum())
        if not ahead:
            return None
        delay = min(self.delay(self._latency), ahead)
        start, end = spec.exec_start + delay, spec.exec_start + ahead
        weights = falling_weights(self.config.schedule, start, end, spec.horizon) * told
        return Guide(previous, weights.astype(np.float32), delay)

    def took(self, chunk: ActionChunk, began: float, ended: float) -> ActionChunk:
        """All of it, remembered as the plan that the next chunk continues."""
        kept = super().took(chunk, began, ended)
        first = self.spec.exec_start
        self._plan.merge(kept.stamps[0, first:], kept.actions[0, first:], ended + self.config.lead)
        return kept

    def reset(self) -> None:
        """Forget the plan."""
        super().reset()
        self._plan, self._latency = self._empty(), self.config.latency


EXECUTORS: dict[str, type[Executor]] = {
    "sync": Sync,
    "receding": Receding,
    "async": Async,
    "ensemble": Ensemble,
    "rtc": RealTime,
}


def make_executor(mode: str | ExecutionConfig, spec: ActionSpec, **options: Any) -> Executor:
    """Executor of a mode (``sync | receding | async | ensemble | rtc``) for chunks of ``spec``.

    ``options`` are those of ``ExecutionConfig``.  Raises ``ConfigError`` for unknown or impossible ones, and where the
    latency among them does not fit (``Executor.check``; call it again with the measured one).
    """
    if isinstance(mode, ExecutionConfig):
        config = dataclasses.replace(mode, **options) if options else mode  # type: ignore[type-var]
    else:
        config = build_config(ExecutionConfig, {"mode": mode, **options}, "execution")
    executor = EXECUTORS[config.mode](config, spec)
    executor.check(config.latency)
    return executor


def first_steps(chunk: ActionChunk, count: int) -> ActionChunk:
    """``chunk`` with the first ``count`` steps from the newest observation on, and those before it."""
    spec = chunk.spec
    horizon = spec.exec_start + count
    if horizon == spec.horizon:
        return chunk
    kept = dataclasses.replace(spec, horizon=horizon, n_action_steps=min(spec.n_action_steps, count))
    return ActionChunk(chunk.actions[:, :horizon], chunk.stamps[:, :horizon], kept, chunk.info)


def value_at(stamps: np.ndarray, values: np.ndarray, time: float, dt: float, mixer: Mixer) -> np.ndarray | None:
    """``values`` ``(n, D)`` at ``time``, between two of the rising ``stamps`` interpolated; ``None`` beyond them."""
    slack = TINY * dt
    if not len(stamps) or time < stamps[0] - slack or time > stamps[-1] + slack:
        return None
    after = min(int(np.searchsorted(stamps, time - slack)), len(stamps) - 1)
    if abs(stamps[after] - time) <= slack or after == 0:
        found: np.ndarray = values[after]
        return found
    share = (time - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
    return mixer.mix(values[after - 1 : after + 1], np.array((1 - share, share)), base=int(share >= 0.5))
