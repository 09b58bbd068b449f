"""Collection of a round: an explorer acts through the episode pool, and every finished episode comes back as chunks.

A round is a fixed list of episodes with fixed weights, so what it brings is a function of weights and seeds alone: the
number of workers, and whether they live on a Ray cluster, change nothing (``slots`` decides the batch sizes, and with
them the last bits of a network's arithmetic).  Only the order in which episodes finish may be seen in ``on_episode``;
the replay puts them in order.  Episodes lost to the simulator are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from robopolicy.core.errors import ConfigError, InvalidObservation, did_you_mean
from robopolicy.core.improver import Explorer, ReplayLayout
from robopolicy.core.specs import ActionSpace
from robopolicy.rl.replay_files import row_shape
from robopolicy.rl.transitions import EpisodeChunks, repeat_last
from robopolicy.sim.pool import Description, Episode, EpisodePool, EpisodeResult, Watch
from robopolicy.sim.pool_slots import Reply
from robopolicy.sim.protocol import Observation
from robopolicy.training.chunk_planner import Decision, ExploringPlanner, observed_keys

OnEpisode = Callable[[EpisodeChunks], None]


def collect_round(
    pool: EpisodePool,
    explorer: Explorer,
    episodes: Sequence[Episode],
    base_seed: int,
    layout: ReplayLayout,
    on_episode: OnEpisode,
    *,
    round_number: int = 0,
    cut_success: bool = True,
) -> list[EpisodeResult]:
    """Run ``episodes`` and hand each to ``on_episode`` as it finishes; returns the results in their order.

    The noise of chunk c of episode i is keyed by (base_seed, i, c): give rounds different indices, or base seeds.
    ``cut_success``: an episode ends, for learning, with its first success.  The results are those of whole episodes.
    Raises ``ConfigError``, ``InvalidObservation`` or ``ActionSpaceMismatch`` where layout, explorer and environment do
    not fit each other.
    """
    told = pool.describe()
    check_layout(layout, explorer, told, pool.env.name)
    keys = tuple(dict.fromkeys((*observed_keys(explorer), *(f.key for f in layout.features))))
    steps = max(explorer.action_spec.n_obs_steps, layout.n_obs_steps)
    pool.watch = Watch(steps, keys, final=True)
    planner = ExploringPlanner(explorer, base_seed, told.task)
    catch = _Catch(planner, layout, told.action_space, round_number)

    def finished(result: EpisodeResult) -> None:
        caught = catch.finished(result)
        planner.forget(result.index)
        if caught is not None:
            on_episode(caught.until_success() if cut_success else caught)

    explorer.reset()
    results = pool.run(episodes, planner, finished, on_reply=catch.take)
    return [dataclasses.replace(r, info=planner.info(r.index)) if r.status == "ok" else r for r in results]


def check_layout(layout: ReplayLayout, explorer: Explorer, told: Description, env_name: str) -> None:
    """Raise the error that says where the replay's layout, the explorer and the environment do not fit."""
    spec = explorer.action_spec
    spec.check_matches(told.action_space, told.fps, f"environment '{env_name}'")
    for what, ours, theirs in (("k", layout.k, spec.n_action_steps), ("action_dim", layout.action_dim, spec.dim)):
        if ours != theirs:
            raise ConfigError(f"the replay's layout has {what}={ours}, but {theirs} are executed; they must be equal")
    offered = told.observation_spec
    for feature in layout.features:
        if feature.key not in offered:
            raise InvalidObservation(
                f"the replay stores '{feature.key}', which environment '{env_name}' does not give"
                + did_you_mean(feature.key, offered.keys)
            )
        if (theirs_shape := tuple(offered[feature.key].shape)) != tuple(feature.shape):
            raise InvalidObservation(
                f"'{feature.key}': the replay stores {tuple(feature.shape)}, environment '{env_name}' gives "
                f"{theirs_shape}"
            )


@dataclass
class _Take:
    """An episode as far as it was seen."""

    observations: list[Observation]
    lengths: list[int] = field(default_factory=list)  # steps executed of each chunk
    rewards: list[float] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    terminated: bool = False

    def add(self, reply: Reply) -> None:
        assert reply.observation is not None
        self.observations.append(reply.observation)
        self.lengths.append(len(reply.rewards))
        self.rewards += reply.rewards
        self.successes += reply.successes
        self.terminated = reply.terminated


class _Catch:
    """Puts together what the pool saw and what the planner decided."""

    def __init__(self, planner: ExploringPlanner, layout: ReplayLayout, space: ActionSpace, number: int) -> None:
        self._planner, self._layout, self._round = planner, layout, number
        self._low = -np.inf if space.low is None else np.array(space.low, np.float32)
        self._high = np.inf if space.high is None else np.array(space.high, np.float32)
        self._takes: dict[int, _Take] = {}

    def take(self, episode: Episode, reply: Reply) -> None:
        """Keep what a command brought; a reset begins the episode anew."""
        if reply.rewards:
            self._takes[episode.index].add(reply)
        else:
            assert reply.observation is not None
            self._takes[episode.index] = _Take([reply.observation])

    def finished(self, result: EpisodeResult) -> EpisodeChunks | None:
        """The episode, unless the simulator failed in it."""
        take = self._takes.pop(result.index, None)
        if take is None or result.status != "ok":
            return None
        decisions = self._planner.decisions(result.index)
        actions = [
            repeat_last(np.clip(d.action, self._low, self._high), n)
            for d, n in zip(decisions, take.lengths, strict=True)
        ]
        return EpisodeChunks(
            index=result.index,
            seed=result.seed,
            observations={
                f.key: self._stacked(take, f.key, row_shape(f, self._layout.n_obs_steps)[0])
                for f in self._layout.features
            },
            action=np.stack(actions).astype(np.float32),
            latent=self._latents(decisions),
            step_rewards=np.array(take.rewards),
            step_successes=np.array(take.successes, bool),
            terminated=take.terminated,
            truncated=not take.terminated,
            env_steps=len(take.rewards),
            round=self._round,
        )

    def _latents(self, decisions: Sequence[Decision]) -> np.ndarray | None:
        latents = [d.latent for d in decisions if d.latent is not None]
        if self._layout.latent_shape is None:
            return None
        if len(latents) != len(decisions):
            raise ConfigError("the replay stores latents, and the explorer gave none; it must return them")
        return np.stack(latents).astype(np.float32)

    @staticmethod
    def _stacked(take: _Take, key: str, steps: int) -> np.ndarray:
        """``(T + 1, steps, ...)``: the newest ``steps`` of what was seen at each decision and at the end."""
        return np.stack([seen[key][-steps:] for seen in take.observations])
