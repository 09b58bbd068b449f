"""The fine-tuning run: collect a round of episodes, learn from all there are, measure, save, and again.

Source: DSRL (Wagenmaker et al. 2025, arXiv 2506.15799, Algorithm 1) and PA-RL (Sobol Mark et al. 2024, arXiv
2412.06685) both are this loop; what a method does in it is behind ``core.improver``.  Differs from both codes: weights
stand still during a round, and every episode, batch and draw is keyed by (seed, kind, number), so a run that was killed
anywhere goes on to the same weights, replay and curves as one that was not.  For simulators and, with one slot and the
``safety`` section, robots; a policy that needs no episodes is better trained with ``training.loop``.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robopolicy.core.configs import dump_config
from robopolicy.core.errors import EnvUnavailable, NonFiniteLoss
from robopolicy.core.seeding import derive_seed
from robopolicy.core.specs import to_dict
from robopolicy.rl.mixture import Mixture
from robopolicy.training.checkpoint import step_directory
from robopolicy.training.finetune_collect import FailureCount, StopRun, collect
from robopolicy.training.finetune_config import FinetuneConfig
from robopolicy.training.finetune_log import FinetuneBar, FinetuneLog, Means, round_scalars
from robopolicy.training.finetune_setup import (
    Check,
    Tuning,
    build_tuning,
    is_warmup,
    iter_updates,
    planned_episodes,
)
from robopolicy.training.finetune_state import deploy_source, deployed_checkpoint, point_to, save_run
from robopolicy.training.retention import prune, score_of
from robopolicy.training.signals import StopSignals
from robopolicy.training.threads import apply_threads

log = logging.getLogger(__name__)

# Rollouts of several policies, by name, at a labelled moment: {"steered": {"success_rate": 0.9, ...}, ...}; the command
# line passes one, because this room knows nothing of evaluation.
Evaluator = Callable[[Mapping[str, Any], str], Mapping[str, Mapping[str, float]]]
BAR_EVERY = 20  # updates between looks at the bar


@dataclass(frozen=True)
class FinetuneResult:
    """How a call of ``finetune`` ended; ``stopped`` is the signal's name, "safety", "stop_at" or None when done."""

    run_dir: Path
    rounds: int
    env_steps: int
    stopped: str | None
    checkpoint: Path


def finetune(
    config: FinetuneConfig,
    run_dir: str | Path,
    resume: bool = False,
    *,
    evaluator: Evaluator | None = None,
    check: Check | None = None,
    progress: bool = True,
    stop_at: int | None = None,
) -> FinetuneResult:
    """Run ``config`` in ``run_dir`` until its budget, a signal, a safety rule, or after ``stop_at`` updates or rounds
    of them (saved like a signal).

    Raises ``ConfigError`` for an existing run directory without ``resume`` or another configuration with it,
    ``CheckpointError`` for another base, replay or offline data, ``PolicyInterfaceError`` when frozen weights change,
    ``NonFiniteLoss`` when an update's numbers are not finite.
    """
    run = Path(run_dir)
    apply_threads()
    tuning = build_tuning(config, run, resume, check)
    with tuning.pool, StopSignals() as signals:
        sinks = FinetuneLog(run, config.log, dump_config(config), tuning.progress)
        try:
            return Finetuner(tuning, sinks, signals, evaluator, progress, stop_at).run()
        finally:
            sinks.close()


class Finetuner:
    """A run under way: four stages in turn, each of which begins where the counters say."""

    def __init__(
        self,
        tuning: Tuning,
        sinks: FinetuneLog,
        signals: StopSignals,
        evaluator: Evaluator | None,
        show: bool,
        stop_at: int | None,
    ) -> None:
        self.t, self.log, self.signals, self.evaluator, self.stop_at = tuning, sinks, signals, evaluator, stop_at
        self.p, self.config = tuning.progress, tuning.config
        seen = [e.success for e in tuning.replay.episodes]
        self.bar = FinetuneBar(self.p, self.config.rounds, self.config.max_env_steps, seen, show)
        self.means, self.failures = Means(self.p.sums), FailureCount(self.config.safety.max_failures)
        self.session_updates = 0
        self.saved_step = -1 if tuning.resumed is None else self.p.step

    def run(self) -> FinetuneResult:
        """Until the budget or a stop; what was learned is saved."""
        stages = {"offline": self._offline, "collect": self._collect, "learn": self._learn, "measure": self._measure}
        stopped = None
        try:
            while self.p.stage != "collect" or self._planned():
                stages[self.p.stage]()
        except StopRun as stop:
            stopped = stop.reason
            self._save_if_new()
        finally:
            self.bar.close()
        self.t.check_frozen()
        return FinetuneResult(
            self.t.run, self.p.round, self.p.env_steps, stopped, step_directory(self.t.run, self.p.step)
        )

    # -------------------------------------------------------------------------------------------------- stages

    def _offline(self) -> None:
        """Before the first episode: what the base can do, the method's offline work, what that brought."""
        p, options = self.p, self.config.eval
        measured = bool(options.every_rounds) and options.at_start and self.evaluator is not None
        if not p.work and not p.total_updates:
            if measured:
                p.score = self._evaluate("start", with_base=True)
            p.begin("offline", tuple(self.t.improver.offline_work()))
        mixture = Mixture(self.t.replay.upto(0), self.t.offline)
        for scalars in self._updates(mixture):
            if scalars and p.done % self.config.log.every == 0:
                self.log.log_offline(self.means.read() | self._rates())
        if p.sums:
            self.log.log_offline(self.means.read() | self._rates())
        if p.total_updates and measured:
            self._check_stop()
            p.score = self._evaluate("offline")
        p.begin("collect")
        self._save()

    def _collect(self) -> None:
        """A round of episodes, with the weights as they are."""
        p, wanted = self.p, self._planned()
        self.bar.stage("collect")
        begin = time.perf_counter()
        collect(self.t, wanted, self._stop_reason, self.failures, self.bar.episode)
        brought = [e for e in self.t.replay.episodes if e.round == p.round]
        if not brought:
            raise EnvUnavailable(
                f"round {p.round}: all {wanted} episodes were lost to errors of environment '{self.t.env.name}'; see "
                f"its messages above (robopolicy evaluate tells more), then go on with --resume {self.t.run}"
            )
        scalars = round_scalars(brought)
        steps, rows = sum(e.env_steps for e in brought), sum(e.transitions for e in brought)
        p.indices += wanted
        p.env_steps, p.transitions, p.episodes = p.env_steps + steps, p.transitions + rows, p.episodes + len(brought)
        p.begin("learn", tuple(self.t.improver.online_work(rows, steps)))
        warm = float(is_warmup(self.config, p.round))
        self.log.log("collect", {**scalars, "lost": float(wanted - len(brought)), "warmup": warm})
        log.info(
            "round %d: %d episodes, success %.2f, %d environment steps, %.1f s", p.round, len(brought),
            scalars.get("success_rate", math.nan), p.env_steps, time.perf_counter() - begin,
        )  # fmt: skip

    def _learn(self) -> None:
        """The round's updates, on everything collected so far."""
        mixture = Mixture(self.t.replay.upto(self.p.round + 1), self.t.offline)
        for _ in self._updates(mixture):
            pass
        self.p.begin("measure")

    def _measure(self) -> None:
        """The round's line, an evaluation and a checkpoint where they are due."""
        p, options = self.p, self.config
        self._check_stop()
        if p.sums:
            self.log.log("train", self.means.read() | {"updates": float(p.total_updates)} | self._rates())
        p.round += 1
        p.begin("collect")
        last = not self._planned()
        due = options.eval.every_rounds and (p.round % options.eval.every_rounds == 0 or last)
        if due and self.evaluator is not None:
            p.score = self._evaluate(f"round_{p.round:05d}")
        self.bar.round_done()
        if last or due or p.round % options.checkpoint.every_rounds == 0:
            self._save()

    # ------------------------------------------------------------------------------------------------- updates

    def _updates(self, mixture: Mixture) -> Any:
        """Do the present stage's work; yields each update's scalars."""
        p = self.p
        total = sum(w.steps for w in p.plan)
        for kind, mixing in iter_updates(p):
            scalars = self._update(mixture, kind, mixing)
            self.means.add(scalars)
            p.done += 1
            self.session_updates += 1
            yield scalars
            if p.done % BAR_EVERY == 0 or p.done == total:
                self.bar.update(p.done, total, scalars)
            if p.done % self.config.checkpoint.every_updates == 0 and p.done < total:
                self._save()
            if self.t.improver.resumable or p.done == total:
                self._check_stop()

    def _update(self, mixture: Mixture, kind: str, mixing: float) -> dict[str, float]:
        p, improver = self.p, self.t.improver
        number = p.updates.get(kind, 0)
        key = (self.config.seed, zlib.crc32(kind.encode()), number)
        batch = mixture.batch(improver.batch_size, mixing, key)
        generator = torch.Generator().manual_seed(derive_seed("train", *key))
        scalars = improver.step(kind, batch, generator)
        if bad := [name for name, value in scalars.items() if not math.isfinite(value)]:
            raise NonFiniteLoss(
                f"{improver.name}: {', '.join(bad)} not finite in {kind} update {number} of round {p.round}; nothing "
                f"was saved since step {max(self.saved_step, 0)}: lower the learning rates, or look at the rewards"
            )
        p.updates[kind], p.score = number + 1, None  # a score is that of the weights it was measured with
        return scalars

    # --------------------------------------------------------------------------------- measuring, saving, stopping

    def _evaluate(self, label: str, with_base: bool = False) -> list[float] | None:
        """Log rollouts of the candidates; the score of the first."""
        assert self.evaluator is not None
        policies = dict(self.t.improver.candidates())
        first = next(iter(policies))
        if self.config.eval.candidates == "first":
            policies = {first: policies[first]}
        if with_base:
            policies.setdefault("base", self.t.base)
        self.bar.stage("evaluate")
        begin = time.perf_counter()
        found = self.evaluator(policies, label)
        self.log.rates.exclude(time.perf_counter() - begin)
        scalars = dict(found[first])
        for name, values in found.items():
            scalars |= {f"{name}.{key}": value for key, value in values.items()}
        self.log.log("eval", {**scalars, "updates": float(self.p.total_updates)})
        return score_of(found[first], from_rollouts=True)

    def _save(self) -> None:
        self.t.check_frozen()
        p, run, keep = self.p, self.t.run, self.config.checkpoint
        p.elapsed = self.log.rates.elapsed
        step = p.env_steps + p.total_updates
        save_run(run, self.t.improver, p, self.t.config_yaml, deploy_source(self.t.base_path, run, step))
        self.saved_step = step
        chosen = deployed_checkpoint(run, keep.deploy)
        assert chosen is not None
        point_to(run, chosen, {"name": self.t.env.name, "kwargs": to_dict(self.t.env.kwargs)})
        prune(run, keep.keep_last, max(keep.keep_best, int(keep.deploy == "best")))

    def _save_if_new(self) -> None:
        if self.saved_step != self.p.env_steps + self.p.total_updates:
            self._save()
        else:
            self.p.step = self.saved_step

    def _planned(self) -> int:
        return planned_episodes(self.config, self.p, self.t.told.max_steps)

    def _rates(self) -> dict[str, float]:
        rates = self.log.rates.read(self.session_updates, 0.0)
        return {"updates_per_s": rates["steps_per_s"], "elapsed_s": rates["elapsed_s"]}

    def _stop_reason(self) -> str | None:
        if self.stop_at is not None and self.session_updates >= self.stop_at:
            return "stop_at"
        return self.signals.requested

    def _check_stop(self) -> None:
        if (reason := self._stop_reason()) is not None:
            raise StopRun(reason)
