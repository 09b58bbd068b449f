"""What PA-RL is made of: the policy that learns, the critic, what the replay stores, and the targets it imitates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robopolicy.core.errors import ActionSpaceMismatch, ConfigError, MissingCapability, UntrainableComposite
from robopolicy.core.improver import Beginning, ReplayLayout
from robopolicy.core.policy import Cap
from robopolicy.core.seeding import derive_seed
from robopolicy.core.specs import FeatureKind
from robopolicy.policies.acting import Acting
from robopolicy.policies.base import Policy
from robopolicy.rl.critic import Critic
from robopolicy.rl.pa_rl_config import PARLConfig
from robopolicy.rl.transitions import STEPS
from robopolicy.wrappers.base import Wrapper, joint_spec
from robopolicy.wrappers.steer import SteeredPolicy


def learning_policy(base: Acting, student: Acting | None = None) -> Policy:
    """Who imitates: ``student``, or ``base`` itself.

    Raises ``UntrainableComposite`` for compositions and other wrappers without a student, ``MissingCapability`` for
    steered policies and for any without a loss of its own, ``ConfigError`` for policies whose windows the replay does
    not store, ``ActionSpaceMismatch`` for a student of other chunks.
    """
    chosen = base if student is None else student
    if isinstance(chosen, SteeredPolicy):
        raise MissingCapability(
            "PA-RL imitates actions, and a steered policy's actor gives latents, which cannot be told from actions; "
            "improve it with type: dsrl, or give --student a policy that learns in its place"
        )
    if isinstance(chosen, Wrapper):
        raise UntrainableComposite(
            f"PA-RL cannot train a {type(chosen).__name__}, which has no single supervised loss; improve a policy "
            "inside it, or give --student a policy that learns in its place"
        )
    chosen.require(Cap.TRAIN, whom="PA-RL")
    if not isinstance(chosen, Policy):
        raise MissingCapability(f"PA-RL trains heads of this package, {type(chosen).__name__} is none; give --student")
    if not any(p.requires_grad for p in chosen.parameters()):
        raise ConfigError(f"PA-RL: every weight of the {type(chosen).__name__} is frozen, so nothing can learn")
    for policy in (base, chosen):
        _check_windows(policy)
    ours, theirs = chosen.action_spec, base.action_spec
    pairs = [("horizon", ours.horizon, theirs.horizon), ("n_obs_steps", ours.n_obs_steps, theirs.n_obs_steps)]
    pairs += [("n_action_steps", ours.n_action_steps, theirs.n_action_steps)]
    if wrong := [f"{name} {a} and {b}" for name, a, b in pairs if a != b]:
        raise ActionSpaceMismatch(f"student and base plan different chunks: {'; '.join(wrong)}; use equal ones")
    ours.check_matches(theirs.space, 1 / theirs.dt if theirs.dt else None, "the base")
    return chosen


def _check_windows(policy: Acting) -> None:
    name, needs = type(policy).__name__, policy.needs
    if policy.recurrent or needs.chained:
        raise ConfigError(f"PA-RL: {name} carries a memory through an episode, which the replay does not store")
    if needs.goal_steps or needs.keyposes:
        what = "goals" if needs.goal_steps else "key poses"
        raise ConfigError(f"PA-RL: {name} needs {what}, which the replay does not store; use a policy without")
    if texts := policy.observation_spec.of_kind(FeatureKind.LANGUAGE):
        raise ConfigError(f"PA-RL: {name} reads sentences ('{texts[0].key}'), which the replay does not store")


def make_critic(config: PARLConfig, beginning: Beginning) -> Critic:
    """The critic of a run: a trained one from its directory, or a new one, its weights a function of the seed."""
    base: Acting = beginning.base
    if config.critic_path is not None:
        from robopolicy.api import load_critic

        return load_critic(config.critic_path, device=str(base.device))
    spec = base.action_spec
    own = dataclasses.replace(config.critic, n_action_steps=spec.n_action_steps)
    if own.n_obs_steps > spec.n_obs_steps:
        raise ConfigError(
            f"critic.n_obs_steps={own.n_obs_steps}, but the base looks at {spec.n_obs_steps} steps, and so does the "
            "replay; lower it"
        )
    if own.observation_keys is None:  # not everything the environment could show
        own = dataclasses.replace(own, observation_keys=base.observation_spec.keys)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("init", beginning.seed))
        critic = Critic(own, beginning.observation_spec, spec.space, base.fps, beginning.stats, load_weights=True)
    return critic.to(base.device).eval()


def layout_of(base: Acting, learner: Policy, critic: Critic) -> ReplayLayout:
    """What the replay stores: all that base, learner or critic reads."""
    spec = base.action_spec
    joined = joint_spec([base.observation_spec, learner.observation_spec, critic.observation_spec])
    return ReplayLayout(joined.features, spec.n_obs_steps, spec.n_action_steps, spec.dim, None, critic.gamma)


def chunk_weights(
    policy: Acting, rows: int, tail: float, executed: Tensor | None = None, is_data: Tensor | None = None
) -> Tensor:
    """Weights ``(rows, H)`` of the steps of a target: 1 where they are executed, ``tail`` elsewhere.

    Rows with ``is_data`` ``(rows,)`` are the data's own actions: only the ``executed`` ``(rows,)`` steps are known.
    """
    spec = policy.action_spec
    weights = torch.full((rows, spec.horizon), tail, device=policy.device)
    weights[:, spec.exec_slice] = 1.0
    if is_data is not None:
        step = torch.arange(spec.horizon, device=policy.device) - spec.exec_start
        count = (
            torch.full((rows, 1), spec.n_action_steps, device=policy.device) if executed is None else executed[:, None]
        )
        known = ((step >= 0) & (step < count)).float()
        weights = torch.where(is_data[:, None], known, weights)
    return weights


def steps_executed(batch: Mapping[str, Any], device: torch.device) -> Tensor | None:
    """How many of a row's actions were executed, ``(B,)``."""
    return torch.as_tensor(batch[STEPS]).to(device) if STEPS in batch else None
