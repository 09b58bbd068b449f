"""Recorded episodes beside collected ones: the same numbers for the same steps, and what does not fit is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.improver import ReplayLayout
from robopolicy.core.specs import ENVIRONMENT_STATE, STATE, FeatureKind, FeatureSpec
from robopolicy.evaluation.rollout import evaluate
from robopolicy.rl.explorers import PolicyExplorer
from robopolicy.rl.mixture import Mixture
from robopolicy.rl.replay import Replay
from robopolicy.rl.reward_rule import RewardRule
from robopolicy.sim.pool import EpisodePool, episode_list
from robopolicy.sim.registry import EnvConfig
from robopolicy.testing.envs import PointReach
from robopolicy.testing.policies import NoisyGoalPolicy
from robopolicy.testing.rollouts import line_spec, make_tiny_rollouts
from robopolicy.training.chunk_collect import collect_round
from robopolicy.training.chunk_offline import offline_transitions
from robopolicy.training.critic_config import CriticDataConfig
from robopolicy.training.critic_data import CriticData

ENV = EnvConfig("point_reach", {"slow_every": 3, "max_steps": 22})
K, SEED = 4, 40
LAYOUT = ReplayLayout(PointReach().observation_spec.select((STATE, ENVIRONMENT_STATE)).features, 2, K, 2, None, 0.9)
LINE = ReplayLayout(line_spec().features, 1, 3, 1, (4,), 0.9)


def opened(path, **changes) -> CriticData:
    return CriticData.open(
        CriticDataConfig(**{"paths": (str(path),), "val_ratio": 0.0, "positive_steps": 1, **changes})
    )


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (RewardRule(), {"rewards": "success"}),
        (RewardRule(rewards="recorded", scale=2.0, bias=-1.0), {"reward_scale": 2.0, "reward_bias": -1.0}),
    ],
)
def test_the_same_episodes_recorded_and_collected_are_the_same_transitions(tmp_path, rule, source):
    """Every decision of the replay is one of the recording's sliding chunks, number for number."""
    policy = NoisyGoalPolicy.for_point_reach(n_action_steps=K)
    evaluate(policy, ENV, 5, SEED, workers=0, slots=3, progress=False, record=tmp_path / "set")
    replay = Replay.create(tmp_path / "replay", LAYOUT, rule)
    with EpisodePool(ENV, 0, 3) as pool:
        collect_round(pool, PolicyExplorer(policy), episode_list(5, SEED), SEED, LAYOUT, replay.add)
    assert {e.success for e in replay.episodes} == {True, False}
    offline = offline_transitions(opened(tmp_path / "set", **{"rewards": "recorded", **source}), LAYOUT, rule)
    starts = [
        start + K * i for start, e in zip(offline.starts, replay.episodes, strict=True) for i in range(e.transitions)
    ]
    online = replay.upto(1).batch(np.arange(len(replay)))
    recorded = offline.gather(np.array(starts))
    assert set(online) == set(recorded) - {"index", "episode_index"}
    for key, values in online.items():
        assert values.dtype == recorded[key].dtype, key
        rows = online["n"] == K if key.startswith("next.") else slice(None)  # the end was not recorded
        rows = rows & ~online["terminated"] if key.startswith("next.") else rows
        np.testing.assert_allclose(values[rows], recorded[key][rows], rtol=1e-6, atol=1e-7, err_msg=key)


def test_offline_batches_have_no_latents_and_mix_with_those_that_have(tmp_path):
    offline = offline_transitions(opened(make_tiny_rollouts(tmp_path / "data", (True, False))), LINE, RewardRule())
    assert len(offline) == 24
    assert "latent" not in offline.gather(np.arange(3))
    replay = Replay.create(tmp_path / "replay", LINE)
    batch = Mixture(replay.upto(0), offline).batch(6, 0.5, (0,))
    assert batch["next." + STATE].shape == (6, 1, 2)
    assert batch["action"].shape == (6, 3, 1)
    assert "latent" not in batch


def test_what_does_not_fit_the_layout_is_refused(tmp_path):
    path = make_tiny_rollouts(tmp_path / "data", (True, False))
    data, rule = opened(path), RewardRule()
    with pytest.raises(ConfigError, match=r"data: actions have 1 channels, the policy's have 2"):
        offline_transitions(data, dataclasses.replace(LINE, action_dim=2), rule)
    extra = FeatureSpec("observation.force", (2,), FeatureKind.STATE)
    with pytest.raises(ConfigError, match=r"no 'observation\.force', which is learned from"):
        offline_transitions(data, dataclasses.replace(LINE, features=(*LINE.features, extra)), rule)
    wide = FeatureSpec(STATE, (3,), FeatureKind.STATE)
    with pytest.raises(ConfigError, match=r"'observation.state' is \(1, 2\) float32 in the offline data and \(1, 3\)"):
        offline_transitions(data, dataclasses.replace(LINE, features=(wide,)), rule)


def test_rewards_of_two_kinds_are_refused(tmp_path):
    path = make_tiny_rollouts(tmp_path / "data", (True, False))
    recorded = opened(path, rewards="recorded")
    with pytest.raises(ConfigError, match="rewards are 'recorded' there and 'success' online"):
        offline_transitions(recorded, LINE, RewardRule())
    with pytest.raises(ConfigError, match="scaled by 1 and shifted by 0 offline, by 1 and -1 online"):
        offline_transitions(recorded, LINE, RewardRule(rewards="recorded", bias=-1.0))
    with pytest.raises(ConfigError, match="legacy_discount is for online data alone"):
        offline_transitions(recorded, LINE, RewardRule(rewards="recorded", legacy_discount=True))
