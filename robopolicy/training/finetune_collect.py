"""One round of episodes: who collects which, what is on disk already, and when to stop at once.

What a round brings is a function of weights and seeds alone, killed in between or not.  Only the batches that episodes
share decide last bits of a network's arithmetic, so after a kill in mid-round the round is simulated again as a whole
and what is on disk is kept as it is; with one slot no episode shares anything, and only the missing ones are played.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from robopolicy.core.errors import ConfigError
from robopolicy.core.improver import Explored, Explorer
from robopolicy.core.seeding import episode_seed, generator
from robopolicy.core.specs import ActionSpec, ObservationSpec
from robopolicy.rl.replay_files import EpisodeRecord
from robopolicy.rl.transitions import EpisodeChunks
from robopolicy.sim.pool import Episode
from robopolicy.training.chunk_collect import collect_round
from robopolicy.training.finetune_setup import Tuning, is_warmup

log = logging.getLogger(__name__)

OnRecord = Callable[[EpisodeRecord], None]


class StopRun(Exception):
    """Ends collection at once; ``reason`` is a signal's name or "safety"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Watched:
    """An explorer that asks before every batch whether to go on."""

    def __init__(self, explorer: Explorer, requested: Callable[[], str | None]) -> None:
        self._explorer, self._requested = explorer, requested

    @property
    def action_spec(self) -> ActionSpec:
        """The explorer's."""
        return self._explorer.action_spec

    @property
    def observation_spec(self) -> ObservationSpec:
        """The explorer's."""
        return self._explorer.observation_spec

    @property
    def recurrent(self) -> bool:
        """The explorer's."""
        return self._explorer.recurrent

    def explore(
        self,
        obs: Mapping[str, Any],
        noise_keys: Sequence[Sequence[int]],
        episodes: Sequence[Hashable] | None = None,
    ) -> Explored:
        """The explorer's; raises ``StopRun`` when a stop was asked for."""
        if (reason := self._requested()) is not None:
            raise StopRun(reason)
        return self._explorer.explore(obs, noise_keys, episodes)

    def reset(self, episodes: Sequence[Hashable] | None = None) -> None:
        """The explorer's."""
        self._explorer.reset(episodes)


class FailureCount:
    """Failed episodes in a row, as they finished in this session; the operator has seen those of earlier ones."""

    def __init__(self, limit: int | None) -> None:
        self.limit, self.row = limit, 0

    def add(self, success: bool) -> None:
        """Count an episode; raises ``StopRun("safety")`` when the limit is reached."""
        self.row = 0 if success else self.row + 1
        if self.limit is not None and self.row >= self.limit:
            raise StopRun("safety")


def collect(
    tuning: Tuning,
    wanted: int,
    requested: Callable[[], str | None],
    failures: FailureCount,
    on_record: OnRecord,
) -> None:
    """Bring the next round's ``wanted`` episodes into the replay; ``on_record`` sees each that is new.

    Raises ``StopRun``; what was finished by then is on disk.
    """
    config, progress = tuning.config, tuning.progress
    number = progress.round
    queue = [
        Episode(i, episode_seed(config.collection_seed, i)) for i in range(progress.indices, progress.indices + wanted)
    ]
    warm = is_warmup(config, number)
    with_base = [warm or _mixed(config.seed, e.index) < config.safety.mix_base for e in queue]

    def finished(chunks: EpisodeChunks) -> None:
        if (chunks.round, chunks.index) not in tuning.replay:
            on_record(tuning.replay.add(chunks))
            failures.add(chunks.success)

    _set_bound(tuning)
    for by_base in (False, True):
        share = [e for e, chosen in zip(queue, with_base, strict=True) if chosen is by_base]
        if missing := _missing(tuning, share):
            collect_round(
                tuning.pool,
                Watched(tuning.improver.explorer(by_base), requested),
                missing,
                config.collection_seed,
                tuning.improver.layout,
                finished,
                round_number=number,
                cut_success=config.cut_at_success,
            )


def _missing(tuning: Tuning, share: list[Episode]) -> list[Episode]:
    """Which of ``share`` to play: none if all are there, all of them where they share batches, else the others."""
    collect, number = tuning.config.collect, tuning.progress.round
    missing = [e for e in share if (number, e.index) not in tuning.replay]
    if not missing or len(missing) == len(share):
        return missing
    again = collect.replay_round and collect.slots > 1
    log.info(
        "round %d: %d of %d episodes are on disk; %s", number, len(share) - len(missing), len(share),
        "simulating the round again for the missing ones" if again else "collecting the missing ones",
    )  # fmt: skip
    return share if again else missing


def _mixed(seed: int, index: int) -> float:
    """A number in [0, 1) for an episode: the base policy collects those below ``safety.mix_base``."""
    return float(generator("choice", seed, index).random())


def _set_bound(tuning: Tuning) -> None:
    """The curriculum of the bound: from ``bound_start`` to the method's own by equal steps."""
    safety, improver = tuning.config.safety, tuning.improver
    if safety.bound_start is None:
        return
    final = improver.bound
    if final is None:
        raise ConfigError(f"safety.bound_start: {improver.name} has no bound of latents; leave it out")
    share = min(1.0, tuning.progress.round / safety.bound_rounds)
    improver.set_bound(min(final, safety.bound_start + share * (final - safety.bound_start)))
