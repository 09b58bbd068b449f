"""Assembles a fine-tuning run: base policy, environment, offline data, method, replay, counters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from robopolicy.core.configs import dump_config
from robopolicy.core.errors import CheckpointError, ConfigError, PolicyInterfaceError
from robopolicy.core.improver import IMPROVERS, Beginning, Improver
from robopolicy.core.seeding import derive_seed
from robopolicy.core.specs import FeatureStats, ObservationSpec, to_dict
from robopolicy.rl.replay import LAYOUT, Replay
from robopolicy.sim.pool import Description, EpisodePool
from robopolicy.sim.registry import EnvConfig
from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.chunk_offline import offline_transitions
from robopolicy.training.config import EnvironmentConfig
from robopolicy.training.critic_data import CriticData, Transitions
from robopolicy.training.finetune_config import CHANGEABLE, FinetuneConfig, finetune_config_from_dict
from robopolicy.training.finetune_state import VERB, FinetuneProgress, load_run, read_base, weights_hash, write_base
from robopolicy.training.run_dir import check_same_run, create_run

log = logging.getLogger(__name__)

REPLAY = "replay"

# Does the policy fit the environment?  The command line passes evaluation's check: this room knows nothing of it.
Check = Callable[[Any, Description, str], None]


@dataclass
class Tuning:
    """Everything a run works on.  ``base_path`` is where the base policy was found; ``told`` describes the place."""

    config: FinetuneConfig
    run: Path
    env: EnvConfig
    base: Any
    base_path: str
    improver: Improver
    pool: EpisodePool
    told: Description
    replay: Replay
    offline: Transitions | None
    progress: FinetuneProgress
    resumed: Path | None
    config_yaml: str

    def check_frozen(self) -> None:
        """Raise ``PolicyInterfaceError`` if weights have changed that must not."""
        part = self.improver.frozen_hash_parts()
        found = None if part is None else weights_hash(part)
        if found != self.progress.frozen:
            raise PolicyInterfaceError(
                f"{self.config.type}: weights that must stay as they are have changed (sha256 {str(found)[:12]}..., at "
                f"the start {str(self.progress.frozen)[:12]}...); nothing was saved since the last checkpoint"
            )


def build_tuning(config: FinetuneConfig, run: Path, resume: bool, check: Check | None = None) -> Tuning:
    """Prepare a run, from scratch or from the newest undamaged checkpoint of ``run``; the caller closes its pool."""
    from robopolicy.api import find_policy, load
    from robopolicy.nesting import hash_of

    if resume:
        check_same_run(run, config, finetune_config_from_dict, CHANGEABLE)
    base_path = _base_path(config, run, resume) or str(find_policy(config.base))
    env = base_env(config, base_path)
    base = load(base_path, device=chosen_device(config.device))
    sha256 = hash_of(base) or weights_hash(base)
    if resume and (expected := read_base(run).get("sha256", sha256)) != sha256:
        raise CheckpointError(
            f"{base_path}: another policy than the run began from (sha256 {sha256[:12]}..., expected "
            f"{expected[:12]}...); put the old one back, or name where it lies now with --base PATH"
        )
    pool = EpisodePool(
        env,
        config.simulate.workers,
        config.collect.slots,
        timeout_s=config.simulate.timeout_s,
        ray=config.simulate.ray,
    )
    try:
        told = pool.describe()
        if check is not None:
            check(base, told, env.name)
        base.calibrate(told.observation_spec)
        made = _make(config, base, told)
        if not resume:
            create_run(run, config, VERB)
        if not resume or not read_base(run):
            write_base(run, base_path, sha256)
        return _assemble(config, run, env, base, base_path, sha256, pool, told, *made)
    except BaseException:
        pool.close()
        raise


def _base_path(config: FinetuneConfig, run: Path, resume: bool) -> str | None:
    """Where a resumed run finds its base: as noted when it began, unless --base says otherwise."""
    if not resume:
        return None
    from robopolicy.training.run_dir import resume_config

    own: Any = resume_config(run, parse=finetune_config_from_dict, changeable=CHANGEABLE)
    return read_base(run).get("path") if own.base == config.base else None


def _make(config: FinetuneConfig, base: Any, told: Description) -> tuple[Improver, Transitions | None]:
    """The method, and the offline transitions in its layout."""
    data = None if config.offline is None else CriticData.open(config.offline)
    stats = known_stats(base)
    if data is not None:
        extra = [f for f in data.observation_spec.features if f.key not in stats and f.key in told.observation_spec]
        found = data.stats(ObservationSpec(tuple(extra))) if extra else {}
        stats = {**found, **stats}
    torch.manual_seed(derive_seed("init", config.seed))  # the initial weights are a function of the seed
    beginning = Beginning(base, told.observation_spec, stats, config.seed, data is not None)
    improver = IMPROVERS.get(config.type).make(config.method, beginning)
    transitions = None
    if data is not None:
        transitions = offline_transitions(data, improver.layout, config.rewards)
        data.tell(transitions.table)
    return improver, transitions


def _assemble(
    config: FinetuneConfig,
    run: Path,
    env: EnvConfig,
    base: Any,
    base_path: str,
    sha256: str,
    pool: EpisodePool,
    told: Description,
    improver: Improver,
    offline: Transitions | None,
) -> Tuning:
    folder = run / REPLAY
    here = (folder / LAYOUT).is_file()
    replay = (Replay.open if here else Replay.create)(folder, improver.layout, config.rewards)
    checkpoint = latest_checkpoint(run, sweep=True)
    part = improver.frozen_hash_parts()
    progress = FinetuneProgress(base=sha256, frozen=None if part is None else weights_hash(part))
    progress.data = {} if offline is None else offline.fingerprint()
    if checkpoint is not None:
        mark, progress = progress.data, load_run(checkpoint, improver)
        if progress.data != mark:
            raise CheckpointError(f"{run}: the offline data changed since the run began; put the old ones back")
        _check_replay(replay, progress, run)
        log.info("resuming %s after %d rounds, %d environment steps", run, progress.round, progress.env_steps)
    text = yaml.safe_dump(dump_config(config), sort_keys=False)
    parts = (config, run, env, base, base_path, improver, pool, told, replay, offline, progress, checkpoint, text)
    tuning = Tuning(*parts)
    tuning.check_frozen()
    return tuning


def _check_replay(replay: Replay, progress: FinetuneProgress, run: Path) -> None:
    """A checkpoint counts on the episodes it has learned from."""
    finished = progress.round + (progress.stage in ("learn", "measure"))
    held = sum(e.transitions for e in replay.episodes if e.round < finished)
    if held != progress.transitions:
        raise CheckpointError(
            f"{run / REPLAY}: {held} transitions of {finished} rounds, but the checkpoint learned from "
            f"{progress.transitions}; put the replay of this run back"
        )


def base_env(config: FinetuneConfig, base_path: str) -> EnvConfig:
    """The environment of the run: its own, else that of the base's run or nesting."""
    from robopolicy.nesting import is_nesting
    from robopolicy.nesting_env import nesting_env, run_env
    from robopolicy.sim.registry import env_config

    if config.env is not None:
        return EnvConfig(config.env.name, dict(config.env.kwargs))
    known = nesting_env(base_path) if is_nesting(base_path) else run_env(base_path)
    if not known:
        raise ConfigError("name the environment: --env panda_lift (the base's run has none in its config.yaml)")
    return env_config(known)


def with_env(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with its environment filled in, so that the run directory tells all."""
    import dataclasses

    from robopolicy.api import find_policy

    env = base_env(config, str(find_policy(config.base)))
    return dataclasses.replace(config, env=EnvironmentConfig(env.name, to_dict(env.kwargs)))


def known_stats(base: nn.Module) -> dict[str, FeatureStats]:
    """Physical statistics by key of every head inside a policy; of equal keys the first head's."""
    found: dict[str, FeatureStats] = {}
    for module in base.modules():
        stats: Mapping[str, FeatureStats] = getattr(module, "stats", None) or {}
        for key, value in stats.items():
            if isinstance(value, FeatureStats):
                found.setdefault(key, value)
    return found


def chosen_device(name: str) -> str:
    """``auto`` is CUDA where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def planned_episodes(config: FinetuneConfig, progress: FinetuneProgress, max_steps: int) -> int:
    """Episodes of the next round: as configured, fewer where the budget of steps is short, 0 when the run is over.

    Every episode is counted as long as it can be, so that the budget is never exceeded.
    """
    if config.rounds is not None and progress.round >= config.rounds:
        return 0
    warm = progress.round == 0 and config.collect.warmup_episodes > 0
    wanted = config.collect.warmup_episodes if warm else config.collect.episodes
    if config.max_env_steps is None:
        return wanted
    return max(0, min(wanted, (config.max_env_steps - progress.env_steps) // max_steps))


def is_warmup(config: FinetuneConfig, round_number: int) -> bool:
    """Whether the base policy collects this round."""
    return round_number == 0 and config.collect.warmup_episodes > 0


def iter_updates(progress: FinetuneProgress) -> Iterator[tuple[str, float]]:
    """``(kind, mixing)`` of every update that the present stage still has to do."""
    skip = progress.done
    for work in progress.plan:
        for _ in range(max(0, work.steps - skip)):
            yield work.kind, work.mixing
        skip = max(0, skip - work.steps)
