"""What ranks candidate chunks: a critic, the energy of the policy itself, or nothing (the control).

Source: Nakamoto et al. 2024 (V-GPS): candidates leave the policy's model space for physical units and enter the
critic's own model space, clipped to [-1, 1]; members of the ensemble (their slowly moving weights) are reduced by
their minimum.  What differs: a critic of ``k`` steps scores the ``k`` steps that will be executed, and one that was not
made for this policy is refused before it says anything.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.core.critic import ChunkCritic, Reduction
from robopolicy.core.errors import (
    ActionSpaceMismatch,
    ConfigError,
    HorizonMismatch,
    InvalidObservation,
    NormalizerMismatch,
    PolicyInterfaceError,
    did_you_mean,
)
from robopolicy.core.policy import Cap
from robopolicy.core.specs import FeatureKind, ObservationSpec
from robopolicy.policies.acting import Acting

log = logging.getLogger(__name__)

UNBOUNDED = ("gaussian", "identity")  # normalisations whose model space is not [-1, 1]
REDUCTIONS = ("min", "mean", "lcb")


class Scorer(ABC):
    """Values for candidates.  ``B`` observations, ``K`` candidates, ``H`` horizon, ``D`` action channels."""

    observation_spec: ObservationSpec = ObservationSpec(())
    """What it reads besides the policy's observations."""
    uniform: bool = False
    """Whether the choice is made at random, whatever the temperature."""

    def fit(self, policy: Acting) -> None:
        """Raise unless it can rank the chunks of ``policy``; the reason is in the message."""
        return

    def calibrate(self, observation_spec: ObservationSpec) -> None:
        """Look at the place where the policy is going to run."""
        return

    def encode(self, checked: Mapping[str, Any]) -> Any:
        """Its own encoding of checked observations ``(B, n_obs_steps, ...)``, or None if it needs none."""
        return None

    @abstractmethod
    def values(self, policy: Acting, ctx: Any, own: Any, candidates: Tensor) -> Tensor:
        """Values ``(B, K)`` of ``candidates`` ``(B, K, H, D)`` in the model space of ``policy``.

        ``ctx``: the policy's encoding, B rows; ``own``: what ``encode`` gave.
        """


class EnergyCritic(Scorer):
    """Ranks by the policy's own energy (lower is better): needs no critic and no further data."""

    def fit(self, policy: Acting) -> None:
        """Raises ``MissingCapability`` for policies without an energy."""
        policy.require(Cap.ENERGY, whom="EnergyCritic")

    @torch.no_grad()
    def values(self, policy: Acting, ctx: Any, own: Any, candidates: Tensor) -> Tensor:
        """``-E`` of whole chunks."""
        rows, count = candidates.shape[:2]
        return -policy.energy(ctx.repeat_interleave(count), candidates.flatten(0, 1)).view(rows, count)


class RandomSelector(Scorer):
    """Ranks nothing: every candidate is as likely.  The control row of every table."""

    uniform = True

    def values(self, policy: Acting, ctx: Any, own: Any, candidates: Tensor) -> Tensor:
        """Zeros."""
        return candidates.new_zeros(candidates.shape[:2])


class CriticScorer(Scorer):
    """Ranks by a ``ChunkCritic``."""

    def __init__(
        self, critic: ChunkCritic, reduce: Reduction = "min", first_step_only: bool = False, newest: bool = False
    ) -> None:
        """``first_step_only`` lets a critic of fewer steps than are executed judge the first of them; ``newest`` asks
        its newest weights instead of the slow ones."""
        if reduce not in REDUCTIONS:
            raise ConfigError(f"reduce must be one of {', '.join(REDUCTIONS)}, got '{reduce}'")
        if isinstance(critic, nn.Module) and critic.training:
            raise PolicyInterfaceError("the critic is in training mode; put it into evaluation mode (.eval)")
        self.critic, self.reduction, self.first_step_only, self.newest = critic, reduce, first_step_only, newest
        self.observation_spec = critic.observation_spec

    def fit(self, policy: Acting) -> None:
        """Raises ``NormalizerMismatch``, ``ActionSpaceMismatch``, ``HorizonMismatch`` or ``ConfigError``."""
        check_statistics(self.critic.norm, "critic", policy.action_spec.dim)
        check_statistics(policy.norm, "policy", policy.action_spec.dim)
        if getattr(policy, "critic", None) is self.critic:
            log.warning("the policy inside is guided by the same critic already: asking it again adds nothing")
        _check_space(self.critic, policy)
        _check_steps(self.critic, policy, self.first_step_only)
        theirs, ours = self.critic.norm.shift.device, policy.device
        if theirs != ours:
            raise ConfigError(f"the policy is on {ours}, the critic on {theirs}; load both on one device")

    def calibrate(self, observation_spec: ObservationSpec) -> None:
        """``InvalidObservation`` if a key is not offered there; a warning if a camera stands elsewhere."""
        check_cameras(self.critic.observation_spec, observation_spec)
        if hasattr(self.critic, "calibrate"):
            self.critic.calibrate(observation_spec)

    def encode(self, checked: Mapping[str, Any]) -> Any:
        """The critic's encoding of the newest ``n_obs_steps`` of its own keys."""
        spec = self.critic.observation_spec
        own = {f.key: self._latest(checked[f.key], f.kind) for f in spec.features}
        return self.critic.encode(own, newest=True) if self.newest else self.critic.encode(own)

    def _latest(self, value: Any, kind: FeatureKind) -> Any:
        return value if kind is FeatureKind.GOAL else value[:, -self.critic.n_obs_steps :]

    def values(self, policy: Acting, ctx: Any, own: Any, candidates: Tensor) -> Tensor:
        """The reduced values of the target weights (or the newest) for the first ``k`` executed steps."""
        with torch.no_grad():
            return self.judge(own, self.to_critic(policy, candidates[:, :, self.judged(policy)]))

    def judged(self, policy: Acting) -> slice:
        """The steps of a chunk of ``policy`` that are valued."""
        start = policy.action_spec.exec_start
        return slice(start, start + self.critic.k)

    def judge(self, own: Any, actions: Tensor) -> Tensor:
        """Values ``(B, K)`` of ``actions`` ``(B, K, k, D)`` in the critic's model space, clipped to it first."""
        inside = actions.clamp(-1, 1) if self.bounded else actions
        return self.critic.reduce(self.critic.q(own, inside, target=not self.newest), self.reduction)

    @property
    def bounded(self) -> bool:
        """Whether the critic's model space is [-1, 1]."""
        return getattr(self.critic.norm, "mode", "") not in UNBOUNDED

    def to_critic(self, policy: Acting, actions: Tensor) -> Tensor:
        """Actions ``(..., D)`` from the policy's model space through physical units into the critic's; not clipped."""
        mapped: Tensor = self.critic.norm.to_model(policy.norm.to_phys(actions))
        return mapped

    def from_critic(self, policy: Acting, actions: Tensor) -> Tensor:
        """Inverse of ``to_critic``."""
        mapped: Tensor = policy.norm.to_model(self.critic.norm.to_phys(actions))
        return mapped


def as_scorer(critic: ChunkCritic | Scorer, reduce: Reduction, first_step_only: bool) -> Scorer:
    """``critic`` itself if it ranks chunks already, else a ``CriticScorer``; ``PolicyInterfaceError`` for others."""
    if isinstance(critic, Scorer):
        return critic
    if not isinstance(critic, ChunkCritic):
        raise PolicyInterfaceError(
            f"{type(critic).__name__} is no critic; pass what robopolicy.load_critic returns, EnergyCritic() or "
            "RandomSelector()"
        )
    return CriticScorer(critic, reduce, first_step_only)


def check_statistics(norm: Any, whose: str, dim: int) -> None:
    """``NormalizerMismatch`` unless ``norm`` maps ``dim`` action channels with finite numbers."""
    mend = f"save the {whose} with the statistics of its training data"
    if norm is None or not all(hasattr(norm, name) for name in ("scale", "shift", "to_model", "to_phys")):
        raise NormalizerMismatch(f"the {whose} has no action statistics, so its actions have no unit; {mend}")
    for name in ("scale", "shift"):
        values = getattr(norm, name)
        if values.numel() not in (1, dim) or not bool(torch.isfinite(values).all()):
            raise NormalizerMismatch(
                f"the {whose}'s action {name} must be {dim} finite numbers, got {values.flatten().tolist()}; {mend}"
            )
    if bool((norm.scale == 0).any()):
        raise NormalizerMismatch(f"the {whose}'s action scale is 0 in a channel; {mend}")


def _check_space(critic: ChunkCritic, policy: Acting) -> None:
    rate = 1 / critic.dt if critic.dt > 0 else None
    try:
        policy.action_spec.check_matches(critic.action_space, rate, "the critic")
    except ActionSpaceMismatch as e:
        raise ActionSpaceMismatch(f"{e}; train the critic on data of the policy's robot and rate") from e


def _check_steps(critic: ChunkCritic, policy: Acting, first_step_only: bool) -> None:
    spec = policy.action_spec
    if (spec.dt == 0) != (critic.dt == 0):
        which = "key poses" if spec.dt == 0 else "steps of equal length"
        raise HorizonMismatch(f"the policy plans {which}, the critic does not; train the critic on the same kind")
    if critic.n_obs_steps > spec.n_obs_steps:
        raise HorizonMismatch(
            f"the critic looks at {critic.n_obs_steps} observation steps, the policy's executor gives "
            f"{spec.n_obs_steps}; train the critic with n_obs_steps={spec.n_obs_steps}"
        )
    room = spec.horizon - spec.exec_start
    if critic.k > room:
        raise HorizonMismatch(
            f"the critic values {critic.k} actions, a chunk has {room} from its first executed one; train it with "
            f"k={spec.n_action_steps}"
        )
    if critic.k != spec.n_action_steps and not first_step_only:
        raise HorizonMismatch(
            f"the critic values {critic.k} actions, the policy executes {spec.n_action_steps} of a chunk; train it "
            f"with k={spec.n_action_steps}, or let it judge the first with score_first_step_only=True"
        )


def check_cameras(critic: ObservationSpec, place: ObservationSpec) -> None:
    """Does ``place`` (an environment, a robot) offer what the critic was trained on, seen from where it was trained?

    Raises ``InvalidObservation`` for a missing key; warns about a camera with another calibration, which a critic of
    pictures does not stand.
    """
    for feature in critic.features:
        if feature.kind is FeatureKind.LANGUAGE:
            continue
        if feature.key not in place:
            raise InvalidObservation(
                f"the critic was trained on '{feature.key}', which is not offered here"
                + did_you_mean(feature.key, place.keys)
                + "; offer it, or train a critic on what there is"
            )
        there = place[feature.key].camera
        if feature.kind is not FeatureKind.IMAGE or feature.camera is None or there is None:
            continue
        if not np.allclose(feature.camera.extrinsics, there.extrinsics, atol=1e-3):
            log.warning(
                "the camera of '%s' stands elsewhere than when the critic was trained; its values mean nothing there",
                feature.key,
            )
