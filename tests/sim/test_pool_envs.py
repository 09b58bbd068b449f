"""The simulators themselves in the pool: the same bits in this process and in workers, pictures included."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from robopolicy.sim.pool import Batch, EpisodePool, EpisodeResult, episode_list
from robopolicy.sim.registry import EnvConfig

CASES = [
    pytest.param(EnvConfig("pusht", {"max_steps": 24}), id="pusht"),
    pytest.param(
        EnvConfig("panda_lift", {"cameras": ["front"], "image_size": [48, 64], "max_steps": 12}),
        id="panda_lift",
        marks=pytest.mark.render,
    ),
]


def rollout(config: EnvConfig, workers: int) -> tuple[list[EpisodeResult], list[str]]:
    """Results and a digest of every batch under noisy actions that depend on (episode, chunk) alone."""
    digests = []

    with EpisodePool(config, workers, slots=4, n_obs_steps=2) as pool:
        space = pool.describe().action_space
        pool.watch = dataclasses.replace(pool.watch, keys=pool.describe().observation_spec.keys)
        low, high = np.array(space.low), np.array(space.high)

        def plan(batch: Batch) -> np.ndarray:
            digests.append(hashlib.sha256(b"".join(v.tobytes() for v in batch.observation.values())).hexdigest())
            rngs = [np.random.default_rng((e.index, c)) for e, c in zip(batch.episodes, batch.chunks, strict=True)]
            return np.stack([g.uniform(low, high, (4, space.dim)) for g in rngs])

        results = pool.run(episode_list(5, 100_000), plan)
    return [dataclasses.replace(r, wall_s=0.0) for r in results], digests


@pytest.mark.parametrize("config", CASES)
def test_simulators_do_not_depend_on_the_process(config):
    here, there = rollout(config, 0), rollout(config, 2)
    assert [r.status for r in here[0]] == ["ok"] * 5
    assert len(set(here[1])) == len(here[1]) > 4
    assert here == there
