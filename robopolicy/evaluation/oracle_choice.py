"""The best of K by trial: every candidate chunk is tried in the simulator, and the one that turned out best executed.

The ceiling of V-GPS (specification, sections 7 and 9): what a perfect critic could make of the same candidates.  The
difference between this and the policy alone is what there is to gain; between this and a critic's choice, what the
critic misses.  Needs a simulator that can go back (``sim.snapshot``); never a method for a robot.
Candidates, seeds and noise keys are those of ``ValueGuidedPolicy``: with one candidate this is ``evaluate``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError, EnvUnavailable, PolicyInterfaceError
from robopolicy.evaluation.checks import calibrated, check_fits
from robopolicy.evaluation.progress import Progress
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.evaluation.rollout import describe_policy, new_record, record_stem, timing
from robopolicy.sim.branches import Tried, branching
from robopolicy.sim.pool import Batch, Episode, EpisodeResult, episode_list
from robopolicy.sim.pool_links import Link, LocalLink, ProcessLink, WorkerLost, wait_for_any
from robopolicy.sim.pool_slots import Call, Command, Describe, Description, Reply
from robopolicy.sim.registry import EnvConfig, env_config
from robopolicy.training.chunk_planner import BatchedPolicy, observed_keys

STARTUP_S = 300.0


def evaluate_oracle(
    policy: Any,
    env: EnvConfig | str | Mapping[str, Any],
    episodes: int = 100,
    base_seed: int = 100_000,
    num_samples: int = 16,
    lookahead: int = 0,
    workers: int = 2,
    slots: int = 8,
    out: str | Path | None = None,
    progress: bool = True,
    policy_path: str | None = None,
    timeout_s: float = 600.0,
) -> EvaluationRecord:
    """Evaluate the best of ``num_samples`` candidates of ``policy``, chosen by their outcome.

    An outcome is ordered by success (the sooner the better), then by the reward when it ends, then by the largest
    reward on the way; the lowest number wins ties.  It is that of the chunk itself, or, with ``lookahead``, of it and
    that many further chunks of the policy (all candidates of a plan continue with the same noise).  The other
    arguments and the errors are those of ``evaluate``; ``timeout_s`` bounds all trials of one plan.  The record's
    ``info`` has ``choice_changed`` (share of plans in which candidate 0 was not the best) and ``gain`` (mean difference
    of the reward at the end of the best outcome and of candidate 0's).

    Raises:
        PolicyInterfaceError: the policy carries a memory, which cannot be tried and taken back.
    """
    if min(episodes, num_samples, slots) < 1 or min(lookahead, workers) < 0:
        raise ConfigError(
            "oracle: expected episodes, num_samples and slots >= 1, lookahead and workers >= 0, got "
            f"{episodes}, {num_samples}, {slots}, {lookahead} and {workers}"
        )
    if getattr(policy, "recurrent", False):
        raise PolicyInterfaceError("the oracle tries chunks and takes them back, which a policy with a memory cannot")
    config, stem = env_config(env), record_stem(out)
    with Fleet(config, workers, min(slots, episodes), timeout_s) as fleet:
        told = fleet.describe()
        check_fits(policy, told, config.name)
        description = describe_policy(policy, policy_path)
        oracle = {"type": "oracle_choice", "num_samples": num_samples, "lookahead": lookahead}
        with calibrated(policy, told.observation_spec), Progress(episodes, progress) as bar:
            planner = Candidates(policy, base_seed, told.task, num_samples)
            policy.reset()
            trial = Trial(fleet, planner, policy, lookahead)
            start = time.perf_counter()
            results = trial.run(episode_list(episodes, base_seed), bar)
            wall = time.perf_counter() - start
            told = fleet.describe()
    facts: dict[str, Any] = {"base_seed": base_seed, "slots": slots, "workers": workers}
    took = timing(results, planner, wall)
    record = new_record(config, told, {**description, "oracle": oracle}, results, took, **facts)
    if stem is not None:
        record.save(stem.with_name(stem.name + ".json"))
    return record


class Candidates(BatchedPolicy):
    """A policy that plans K chunks a row: candidate 0 with the row's key, candidate j with the key and j."""

    def __init__(self, policy: Any, base_seed: int, task: str, count: int) -> None:
        super().__init__(policy, base_seed, task)
        self._count = count
        self._guided: Any = None
        if hasattr(policy, "encode"):
            from robopolicy.wrappers.rerank import ValueGuidedPolicy
            from robopolicy.wrappers.rerank_scorers import RandomSelector

            self._guided = ValueGuidedPolicy(policy, RandomSelector(), num_samples=count)

    def candidates(self, batch: Batch) -> np.ndarray:
        """Executable steps ``(B, K, n_action_steps, D)``, physical and within the policy's bounds."""
        start = time.perf_counter()
        obs, spec, rows = self.observation(batch), self._policy.action_spec, len(batch)
        keys = [(self._base_seed, e.index, c) for e, c in zip(batch.episodes, batch.chunks, strict=True)]
        if self._guided is not None:
            _, chunks = self._guided.candidates(obs, keys)
            actions = self._policy.norm.to_phys(chunks.float()).cpu().numpy()
            low, high = spec.space.low, spec.space.high
            if low is not None and high is not None:
                actions = actions.clip(np.array(low, np.float32), np.array(high, np.float32))
        else:
            wide = [key if j == 0 else (*key, j) for key in keys for j in range(self._count)]
            repeated = {k: np.repeat(np.asarray(v), self._count, axis=0) for k, v in obs.items()}
            actions = self._policy.act(repeated, noise_keys=wide).actions
            actions = actions.reshape(rows, self._count, *actions.shape[1:])
        self.seconds.append(time.perf_counter() - start)
        self.rows.append(rows)
        return actions[:, :, spec.exec_slice]

    def _note(self, batch: Batch, info: Mapping[str, np.ndarray]) -> None:
        return  # trials are no chunks of the episode


@dataclass
class _Running:
    """An episode in a slot."""

    episode: Episode
    observation: dict[str, np.ndarray]
    chunks: int = 0
    done: Tried = field(default_factory=Tried)
    changed: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    wall_s: float = 0.0

    def result(self) -> EpisodeResult:
        success = any(self.done.successes)
        return EpisodeResult(
            index=self.episode.index,
            seed=self.episode.seed,
            status="ok",
            success=success,
            first_success_step=self.done.successes.index(True) + 1 if success else None,
            max_reward=max(self.done.rewards),
            last_reward=self.done.rewards[-1],
            sum_reward=float(np.sum(self.done.rewards)),
            length=len(self.done.rewards),
            chunks=self.chunks,
            wall_s=round(self.wall_s, 4),
            info={"choice_changed": float(np.mean(self.changed)), "gain": float(np.mean(self.gains))},
        )


class Trial:
    """Runs the episodes: all slots plan together, then try, then execute."""

    def __init__(self, fleet: Fleet, planner: Candidates, policy: Any, lookahead: int) -> None:
        self._fleet, self._planner, self._lookahead = fleet, planner, lookahead
        self._watch = (policy.action_spec.n_obs_steps, observed_keys(policy))
        self._running: dict[int, _Running] = {}
        self._results: dict[int, EpisodeResult] = {}

    def run(self, queue: Sequence[Episode], bar: Progress) -> list[EpisodeResult]:
        """Results in the order of ``queue``."""
        waiting = list(reversed(queue))
        while waiting or self._running:
            free = [s for s in range(self._fleet.slots) if s not in self._running]
            begun = {slot: waiting.pop() for slot in free if waiting}
            calls = {slot: Call(slot, "begin", (e.seed, *self._watch)) for slot, e in begun.items()}
            for slot, reply in self._fleet.ask(calls).items():
                self._running[slot] = _Running(begun[slot], reply.value if reply.error is None else {})
                self._failed(slot, reply, bar)
            if self._running:
                self._plan(bar)
        return [self._results[e.index] for e in queue]

    def _plan(self, bar: Progress) -> None:
        slots = sorted(self._running)
        chunks = dict(zip(slots, self._planner.candidates(self._batch(slots)), strict=True))
        tried = self._asked({s: Call(s, "branch", (chunks[s],)) for s in slots}, bar)
        outcomes: dict[int, list[Tried]] = {s: list(t) for s, t in tried.items()}
        for step in range(1, self._lookahead + 1):
            self._look(outcomes, step, bar)
        commits = {}
        for slot, many in outcomes.items():
            if slot in self._running:
                best = max(range(len(many)), key=lambda j: (many[j].outcome, -j))
                self._running[slot].changed.append(float(best != 0))
                self._running[slot].gains.append(many[best].rewards[-1] - many[0].rewards[-1])
                commits[slot] = Call(slot, "commit", (chunks[slot][best],))
        for slot, done in self._asked(commits, bar).items():
            run = self._running[slot]
            run.chunks, run.done = run.chunks + 1, run.done.then(done)
            if done.done:
                self._finish(slot, run.result(), bar)
            else:
                run.observation = done.observation

    def _look(self, outcomes: dict[int, list[Tried]], step: int, bar: Progress) -> None:
        """Carry every open branch on by one chunk of the policy."""
        rows = [(s, j) for s in outcomes if s in self._running for j, t in enumerate(outcomes[s]) if not t.done]
        if not rows:
            return
        seen = [outcomes[s][j].observation or {} for s, j in rows]
        batch = Batch(
            {k: np.stack([o[k] for o in seen]) for k in seen[0]},
            tuple(self._running[s].episode for s, _ in rows),
            tuple(self._running[s].chunks + step for s, _ in rows),
        )
        planned = dict(zip(rows, self._planner(batch), strict=True))
        blank = np.zeros_like(next(iter(planned.values())))
        calls = {}
        for slot in sorted({s for s, _ in rows}):
            chunks = np.stack([planned.get((slot, j), blank) for j in range(len(outcomes[slot]))])
            calls[slot] = Call(slot, "follow", (chunks,))
        for slot, later in self._asked(calls, bar).items():
            pairs = zip(outcomes[slot], later, strict=True)
            outcomes[slot] = [before if after is None else before.then(after) for before, after in pairs]

    def _batch(self, slots: Sequence[int]) -> Batch:
        runs = [self._running[s] for s in slots]
        observation = {k: np.stack([r.observation[k] for r in runs]) for k in runs[0].observation}
        return Batch(observation, tuple(r.episode for r in runs), tuple(r.chunks for r in runs))

    def _asked(self, calls: Mapping[int, Command], bar: Progress) -> dict[int, Any]:
        """Values of the calls that worked; the episodes of the others are lost to the simulator."""
        values = {}
        for slot, reply in self._fleet.ask(calls).items():
            self._running[slot].wall_s += reply.seconds
            if not self._failed(slot, reply, bar):
                values[slot] = reply.value
        return values

    def _failed(self, slot: int, reply: Reply, bar: Progress) -> bool:
        if reply.error is None:
            return False
        if isinstance(reply.raised, EnvUnavailable):
            raise reply.raised
        run = self._running[slot]
        self._finish(slot, EpisodeResult(run.episode.index, run.episode.seed, "error", error=reply.error), bar)
        return True

    def _finish(self, slot: int, result: EpisodeResult, bar: Progress) -> None:
        self._results[result.index] = result
        del self._running[slot]
        bar.add(result)


class Fleet:
    """Branching environments in ``slots``, carried by ``workers`` processes (0: this one); a context manager."""

    def __init__(self, config: EnvConfig, workers: int, slots: int, timeout_s: float) -> None:
        self.slots, inside = slots, branching(config)
        limit = max(timeout_s, STARTUP_S)  # a call may build the simulator first
        self._links: list[Link] = [ProcessLink(inside, timeout_s, limit, i) for i in range(min(workers, slots))]
        self._links = self._links or [LocalLink(inside)]

    def describe(self) -> Description:
        """Specs of the environment; raises ``EnvUnavailable``."""
        reply = self.ask({0: Describe()})[0]
        if reply.raised is not None:
            raise reply.raised
        if reply.description is None:
            raise EnvUnavailable(f"the environment cannot start: {reply.error}")
        return reply.description

    def ask(self, commands: Mapping[int, Command]) -> dict[int, Reply]:
        """Send one command a slot and wait for all answers; a lost worker answers with an error for all its slots."""
        answers: dict[int, Reply] = {}
        for slot, command in commands.items():
            self._links[slot % len(self._links)].send(command)
        while len(answers) < len(commands):
            wait_for_any(self._links)
            for number, link in enumerate(self._links):
                mine = [s for s in commands if s % len(self._links) == number and s not in answers]
                if not mine:
                    continue
                try:
                    answers.update((reply.slot, reply) for reply in link.receive())
                except WorkerLost as e:
                    link.close()
                    answers.update((slot, Reply(slot, error=str(e))) for slot in mine)
        return answers

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        for link in self._links:
            link.close()
