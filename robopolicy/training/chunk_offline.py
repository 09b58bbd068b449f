"""Recorded episodes as the offline half of fine-tuning: the same transitions as the replay's, without latents.

Differs from the replay: every frame begins a transition, not every decision only, because nobody decided anything when
demonstrations were recorded.
"""

from __future__ import annotations

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.core.improver import ReplayLayout
from robopolicy.rl.mixture import check_offline
from robopolicy.rl.reward_rule import RewardRule
from robopolicy.training.critic_config import CriticDataConfig
from robopolicy.training.critic_data import CriticData, Transitions


def offline_transitions(data: CriticData, layout: ReplayLayout, rule: RewardRule) -> Transitions:
    """Transitions of the training episodes of ``data`` in the replay's layout, worth what ``rule`` says.

    Raises ``ConfigError`` where observations or actions differ from the layout, or where the data's rewards are not of
    the rule's kind (two scales in one critic mean nothing).
    """
    check_rewards(data, rule)
    if data.action_space.dim != layout.action_dim:
        raise ConfigError(
            f"{where(data.config)}: actions have {data.action_space.dim} channels, the policy's have "
            f"{layout.action_dim}; use data of the same robot"
        )
    for key in layout.observation_spec.keys:
        if key not in data.observation_spec:
            hint = did_you_mean(key, data.observation_spec.keys)
            raise ConfigError(f"{where(data.config)}: no '{key}', which is learned from{hint}")
    spec = data.observation_spec.select(layout.observation_spec.keys)
    made = data.chunks(spec, layout.n_obs_steps, layout.k, layout.gamma)
    assert made is not None  # a dataset has at least one training episode
    check_offline(made, layout)
    return made


def check_rewards(data: CriticData, rule: RewardRule) -> None:
    """Raise ``ConfigError`` where offline and online rewards would be of different kinds."""
    if rule.legacy_discount:
        raise ConfigError("legacy_discount is for online data alone; leave out the offline data, or set it to false")
    if data.source != rule.rewards:
        raise ConfigError(
            f"{where(data.config)}: rewards are '{data.source}' there and '{rule.rewards}' online; set one of "
            f"offline.rewards and rewards.rewards"
        )
    ours, theirs = (rule.scale, rule.bias), (data.config.reward_scale, data.config.reward_bias)
    if rule.rewards == "recorded" and ours != theirs:
        raise ConfigError(
            f"recorded rewards are scaled by {theirs[0]:g} and shifted by {theirs[1]:g} offline, by {ours[0]:g} and "
            f"{ours[1]:g} online; make them equal"
        )


def where(config: CriticDataConfig) -> str:
    """The datasets, for a message."""
    return ", ".join(config.paths)
