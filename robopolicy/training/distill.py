"""Distillation to one query: a student that jumps at once to where its teacher's solver would arrive.

Sources: aim ``end``, Luhman & Luhman 2021 (arXiv 2101.02388), here at every level of the trajectory; aim ``neighbour``,
consistency distillation, Song et al. 2023 (arXiv 2303.01469), algorithm 2.
Differs: the teacher may live on any Gaussian path; its levels are matched by noise ratio to those of the student, a
flow policy, whose velocity form meets the boundary condition and is regular at pure noise.  The aim of ``neighbour`` is
the live student without gradient (as in Song & Dhariwal 2023, arXiv 2310.14189).  The encoder is the teacher's and
stays as it is, so it runs once a batch.
When to use: after training, where a chunk must come from one network query.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.core.policy import Cap, Prediction
from robopolicy.core.specs import ACTION, ACTION_IS_PAD, FeatureKind
from robopolicy.encoders.features import Features
from robopolicy.paths.base import PURE_NOISE, GaussianPath, fit
from robopolicy.policies.base import CROP, Noise, Policy
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.flow import FlowPolicy
from robopolicy.policies.flow_config import FlowConfig
from robopolicy.policies.io import WEIGHTS, load_policy
from robopolicy.policies.losses import masked_mean
from robopolicy.policies.registry import make_policy
from robopolicy.training.config import DistillConfig
from robopolicy.training.data import Demonstrations

# What the student takes over from a teacher's configuration: all but how the teacher decodes.
OWN = frozenset({"type", "sampler", "sampler_options", "num_inference_steps", "spacing", "clip", "one_step"})
# What teacher and student must have in common, because they share the encoder and the units of their chunks.
SHARED = ("n_obs_steps", "horizon", "n_action_steps", "observation_keys", "encoder", "normalization")

Query = Callable[[Tensor, Tensor], Prediction]


class Ladder:
    """The teacher's levels, noisiest first, the clean one last, and the student's level of each.

    ``times`` ``(L,)`` are native to the teacher's path, ``alpha``, ``sigma`` and ``noise`` (the student's noise
    fraction at the same ratio) ``(L + 1,)``.  Levels beyond ``PURE_NOISE`` are the student's pure noise.
    """

    def __init__(
        self, path: GaussianPath, times: Tensor, device: torch.device | str = "cpu", *, heun: bool = True
    ) -> None:
        if path.per_channel:
            raise ConfigError("distillation needs one noise level for all channels; this teacher has one for each")
        self.times, self.heun = times.to(device), heun
        alpha, sigma = (torch.from_numpy(level) for level in path.levels(times.tolist()))
        pure = sigma > PURE_NOISE * alpha
        noise = torch.where(pure, torch.ones_like(sigma), sigma / (alpha + sigma))
        clean = torch.zeros(1, dtype=torch.float64)
        self.alpha, self.sigma, self.noise = (
            torch.cat(part).float().to(device) for part in ((alpha, clean + 1), (sigma, clean), (noise, clean))
        )

    def __len__(self) -> int:
        return len(self.times)

    def to_student(self, z: Tensor, index: Tensor) -> Tensor:
        """The teacher's states ``(N, H, D)`` at levels ``index`` ``(N,)`` on the student's path, at equal ratio."""
        noise, sigma = self.noise[index], self.sigma[index]
        return z * fit(torch.where(sigma > 0, noise / sigma.clamp(min=1e-12), torch.ones_like(sigma)), index, z)

    def step(self, query: Query, z: Tensor, index: Tensor, clip: float | None) -> Tensor:
        """States one level further in ``dz = x0 d(alpha) + eps d(sigma)``: Heun's rule, but Euler's into the last."""
        a, s, a2, s2 = (fit(level[i], index, z) for i in (index, index + 1) for level in (self.alpha, self.sigma))
        x0, eps = self._answer(query, z, self.times[index], a, s, clip)
        ahead = a2 * x0 + s2 * eps
        last = index + 1 == len(self)
        if not self.heun or bool(last.all()):
            return ahead
        there = self.times[(index + 1).clamp(max=len(self) - 1)]
        x0_ahead, eps_ahead = self._answer(query, ahead, there, a2, s2, clip)
        heun = z + (a2 - a) * (x0 + x0_ahead) / 2 + (s2 - s) * (eps + eps_ahead) / 2
        return torch.where(fit(last, index, z).bool(), ahead, heun)

    @staticmethod
    def _answer(query: Query, z: Tensor, t: Tensor, a: Tensor, s: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
        """Clean and noise estimates that rebuild the state, the former within the teacher's clip."""
        prediction = query(z, t)
        if clip is None:
            return prediction.x0, prediction.eps
        x0 = prediction.x0.clamp(-clip, clip)
        return x0, (z - a * x0) / s.clamp(min=1e-12)

    def trajectory(self, query: Query, latent: Tensor, prior_std: float, clip: float | None) -> list[Tensor]:
        """States ``(N, H, D)`` at all levels, from unit-normal latents to the ends."""
        states = [latent * prior_std]
        for level in range(len(self)):
            index = torch.full((len(latent),), level, device=latent.device)
            states.append(self.step(query, states[-1], index, clip))
        return states


def student_config(teacher: Any, queries: int = 1) -> FlowConfig:
    """Configuration of the one-step student of a policy with configuration ``teacher``."""
    if teacher.type not in ("flow", "diffusion"):
        raise ConfigError(f"distill needs a flow or diffusion teacher, got a policy of type {teacher.type}")
    names = {f.name for f in dataclasses.fields(FlowConfig)} - OWN
    shared = {name: getattr(teacher, name) for name in names if hasattr(teacher, name)}
    return FlowConfig(**shared, one_step=True, sampler="euler", num_inference_steps=queries)


def check_teacher(teacher: Policy) -> DenoisingPolicy:
    """``teacher`` if it can be one; ``ConfigError`` in one line otherwise."""
    if not isinstance(teacher, DenoisingPolicy) or not {Cap.SCORE, Cap.MEAN_DENOISER} <= teacher.caps:
        raise ConfigError(f"distill: {type(teacher).__name__} is no teacher; it needs SCORE and MEAN_DENOISER")
    if teacher.recurrent or teacher.needs.chained or teacher.needs.goal_steps:
        raise ConfigError("distill: recurrent and goal-conditioned teachers are not supported; train those directly")
    return teacher


def make_student(teacher: Policy, config: FlowConfig | None = None) -> FlowPolicy:
    """A one-step flow policy with the teacher's encoder, normalisation and, where they fit, network weights.

    ``config`` (default: ``student_config`` of the teacher's) may change the network, not what both share.
    """
    teacher = check_teacher(teacher)
    config = student_config(teacher.config) if config is None else config
    if not getattr(config, "one_step", False):
        raise ConfigError("distill: the student must be a flow policy with one_step: true")
    if other := [name for name in SHARED if getattr(config, name) != getattr(teacher.config, name)]:
        raise ConfigError(f"distill: policy.{other[0]} must be the teacher's, {getattr(teacher.config, other[0])!r}")
    student = make_policy(
        config, teacher.observation_spec, teacher.action_spec.space, teacher.fps, teacher.stats, load_weights=False
    )
    assert isinstance(student, FlowPolicy)
    own = student.state_dict()
    fitting = {k: v for k, v in teacher.state_dict().items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(fitting, strict=False)
    student.encoder.requires_grad_(False)
    return student.to(teacher.device)


def check_data(teacher: Policy, demos: Demonstrations) -> None:
    """``ConfigError`` in one line when the demonstrations are not of the teacher's robot, rate or cameras."""
    path, reader, space = demos.config.path, demos.reader, teacher.action_spec.space
    if abs(reader.fps - teacher.fps) > 1e-3:
        raise ConfigError(
            f"{path}: {reader.fps:g} frames a second, but the teacher acts at {teacher.fps:g}; give data of its rate"
        )
    theirs = reader.action_space()
    if theirs.dim != space.dim:
        raise ConfigError(f"{path}: actions have {theirs.dim} channels, the teacher's have {space.dim}")
    if theirs.names and space.names and theirs.names != space.names:
        raise ConfigError(f"{path}: actions are {list(theirs.names)}, the teacher's are {list(space.names)}")
    for feature in teacher.observation_spec.features:
        if feature.kind is FeatureKind.LANGUAGE:
            continue
        if feature.key not in demos.observation_spec:
            have = ", ".join(demos.observation_spec.keys)
            raise ConfigError(f"{path}: the teacher observes '{feature.key}', the data have {have}")
        shape = demos.observation_spec[feature.key].shape
        if shape != feature.shape:
            hint = "; set --dataset.image_size" if feature.kind is FeatureKind.IMAGE else ""
            raise ConfigError(f"{path}: '{feature.key}' is {shape}, the teacher expects {feature.shape}{hint}")


class Distiller:
    """A teacher, what identifies it (``mark``), and what it asks of a student."""

    def __init__(self, teacher: Policy, config: DistillConfig, mark: str = "") -> None:
        """Puts ``teacher`` in evaluation mode and freezes it."""
        checked = check_teacher(teacher)
        self.teacher, self.mark, self.aim = checked, mark, config.aim
        checked.eval().requires_grad_(False)
        times = checked.path.grid(config.levels, checked.config.spacing)
        self.ladder = Ladder(checked.path, times, checked.device, heun=config.solver == "heun")
        self.clip = checked.config.clip_range

    @staticmethod
    def load(config: DistillConfig, demos: Demonstrations, device: torch.device) -> Distiller:
        """The teacher from its folder, checked against the data it will be shown."""
        teacher = load_policy(config.teacher, device)
        check_data(teacher, demos)
        weights = (Path(config.teacher) / WEIGHTS).read_bytes()
        return Distiller(teacher, config, hashlib.sha256(weights).hexdigest()[:16])

    @torch.no_grad()
    def features(self, batch: Mapping[str, Any], noise: Noise | None = None) -> Features:
        """Observations through the teacher's encoder; crops as in training where ``noise`` has their places."""
        teacher = self.teacher
        obs = {key: batch[key] for key in teacher.observation_spec.keys if key in batch}
        crops = None
        if noise is not None and teacher.encoder.cameras:
            crops = {c.key: noise[CROP + c.key].to(teacher.device) for c in teacher.encoder.cameras}
        return teacher._encode(teacher.checker.check(obs, values=False), crops)

    @torch.no_grad()
    def solve(self, features: Features, latent: Tensor) -> list[Tensor]:
        """The teacher's trajectories from ``latent`` ``(N, H, D)``: states at all levels, the last are the ends."""
        return self.ladder.trajectory(self._query(features), latent, self.teacher.path.prior_std, self.clip)

    def _query(self, features: Features) -> Query:
        return lambda z, t: self.teacher.predict(features, z, t)

    def loss(self, student: FlowPolicy, batch: Mapping[str, Any], noise: Noise) -> Tensor:
        """Per-sample loss ``(B,)`` of a physical batch; gradients reach the student's network only."""
        teacher, device, ladder = self.teacher, self.teacher.device, self.ladder
        features = self.features(batch, noise)
        mask = None
        if teacher.config.mask_padding:
            mask = ~torch.as_tensor(batch[ACTION_IS_PAD]).to(device, torch.bool)
        share = 1 - student.path.sigma(noise["t"].to(device))  # 0 is pure noise, the ladder's first level
        if self.aim == "end":  # half of all rows at pure noise, where every chunk begins
            share = (2 * share - 1).clamp(min=0)
        index = (share * len(ladder)).long().clamp(0, len(ladder) - 1)
        eps = noise["eps"].to(device)
        if self.aim == "end":
            states = torch.stack(self.solve(features, eps))
            z = ladder.to_student(states[index, torch.arange(len(index), device=device)], index)
            jump = student._query(features, z, student.native(ladder.noise[index])).x0
            return masked_mean((jump - states[-1]).square(), mask, student.channels)
        with torch.no_grad():
            target = teacher.norm.to_model(torch.as_tensor(batch[ACTION]).to(device, torch.float32))
            z = teacher.path.add_noise(target, eps, ladder.times[index])
            below = ladder.step(self._query(features), z, index, self.clip)
            pair = ladder.to_student(z, index), ladder.to_student(below, index + 1)
        return student.consistency_loss(features, *pair, ladder.noise[index], ladder.noise[index + 1], mask)


class DistillLoss(nn.Module):
    """``Distiller.loss`` as a ``forward``; the teacher is no part of the module, so nothing saves it."""

    def __init__(self, policy: Policy, distiller: Distiller) -> None:
        super().__init__()
        assert isinstance(policy, FlowPolicy)
        self.policy, self.distiller = policy, distiller

    def forward(self, batch: dict[str, Any], noise: dict[str, Tensor]) -> Tensor:
        """Per-sample losses ``(B,)`` of a physical batch."""
        return self.distiller.loss(self.policy, batch, noise)
