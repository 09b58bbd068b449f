"""Consistency distillation: a student that jumps in one query to where its teacher's solver would arrive.

Source: Song et al. 2023 (Consistency Models, arXiv 2303.01469), algorithm 2.
Differs: the teacher may live on any Gaussian path; its levels are matched by noise ratio to those of the student, a
flow policy, whose velocity form meets the boundary condition and is regular at pure noise.  The teacher's step is
Heun's; the aim is the live student without gradient (as in Song & Dhariwal 2023, arXiv 2310.14189) and the saved
weights are their moving average.  The encoder is the teacher's and stays as it is, so it runs once a batch.
When to use: after training, where a chunk must come from one network query.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError, NonFiniteLoss
from robopolicy.core.policy import Cap, Prediction
from robopolicy.core.specs import ACTION, ACTION_IS_PAD
from robopolicy.encoders.features import Features
from robopolicy.paths.base import PURE_NOISE, GaussianPath, fit
from robopolicy.policies.base import CROP, Policy
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.flow import FlowPolicy
from robopolicy.policies.flow_config import FlowConfig
from robopolicy.policies.registry import make_policy
from robopolicy.training.batches import BatchSource, MicroBatch, WindowSource
from robopolicy.training.config import EMAConfig, OptimizerConfig
from robopolicy.training.ema import EMA
from robopolicy.training.optim import build_optimizer, lr_multiplier, set_lr
from robopolicy.training.progress import ProgressBar

log = logging.getLogger(__name__)

# What the student takes over from a teacher's configuration: all but how the teacher decodes.
OWN = frozenset({"type", "sampler", "sampler_options", "num_inference_steps", "spacing", "clip", "one_step"})
SHOW_EVERY = 50


@config_dataclass
class DistillConfig:
    """One distillation."""

    steps: Annotated[int, Field(ge=1)] = 5000
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Windows a step."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate (cosine to 0, warm-up over a twentieth of the steps)."""
    levels: Annotated[int, Field(ge=2)] = 20
    """Levels of the teacher's solver; neighbours among them must agree."""
    queries: Annotated[int, Field(ge=1)] = 1
    """Network queries of the student a chunk; it can be changed afterwards."""
    seed: int = 42
    """Data order and noise are functions of it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = CUDA when there is one."""


Query = Callable[[Tensor, Tensor], Prediction]


class Ladder:
    """The teacher's levels, noisiest first, the clean one last, and the student's level of each.

    ``times`` ``(L,)`` are native to the teacher's path, ``alpha``, ``sigma`` and ``noise`` (the student's noise
    fraction at the same ratio) ``(L + 1,)``.  Levels beyond ``PURE_NOISE`` are the student's pure noise.
    """

    def __init__(self, path: GaussianPath, times: Tensor, device: torch.device | str = "cpu") -> None:
        if path.per_channel:
            raise ConfigError("distillation needs one noise level for all channels; this teacher has one for each")
        self.times = times.to(device)
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
        """States one level further by Heun's rule in ``dz = x0 d(alpha) + eps d(sigma)``, by Euler's into the last."""
        a, s, a2, s2 = (fit(level[i], index, z) for i in (index, index + 1) for level in (self.alpha, self.sigma))
        x0, eps = self._answer(query, z, self.times[index], a, s, clip)
        ahead = a2 * x0 + s2 * eps
        last = index + 1 == len(self)
        if bool(last.all()):
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

    def end(self, query: Query, latent: Tensor, prior_std: float, clip: float | None) -> Tensor:
        """Where unit-normal latents ``(N, H, D)`` arrive after all levels."""
        z = latent * prior_std
        for level in range(len(self)):
            z = self.step(query, z, torch.full((len(z),), level, device=z.device), clip)
        return z


def student_config(teacher: Any, queries: int = 1) -> FlowConfig:
    """Configuration of the one-step student of a policy with configuration ``teacher``."""
    if teacher.type not in ("flow", "diffusion"):
        raise ConfigError(f"distill needs a flow or diffusion teacher, got a policy of type {teacher.type}")
    names = {f.name for f in dataclasses.fields(FlowConfig)} - OWN
    shared = {name: getattr(teacher, name) for name in names if hasattr(teacher, name)}
    return FlowConfig(**shared, one_step=True, sampler="euler", num_inference_steps=queries)


def make_student(teacher: Policy, queries: int = 1) -> FlowPolicy:
    """A one-step flow policy with the teacher's encoder, normalisation and, where they fit, network weights."""
    if not isinstance(teacher, DenoisingPolicy) or not {Cap.SCORE, Cap.MEAN_DENOISER} <= teacher.caps:
        raise ConfigError(f"distill: {type(teacher).__name__} is no teacher; it needs SCORE and MEAN_DENOISER")
    if teacher.recurrent or teacher.needs.chained or teacher.needs.goal_steps:
        raise ConfigError("distill: recurrent and goal-conditioned teachers are not supported; train those directly")
    student = make_policy(
        student_config(teacher.config, queries),
        teacher.observation_spec,
        teacher.action_spec.space,
        teacher.fps,
        teacher.stats,
        load_weights=False,
    )
    assert isinstance(student, FlowPolicy)
    own = student.state_dict()
    fitting = {k: v for k, v in teacher.state_dict().items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(fitting, strict=False)
    student.encoder.requires_grad_(False)
    return student.to(teacher.device)


@dataclass(frozen=True)
class Distilled:
    """The student, and how far (RMS, normalised units) its chunks are from the teacher's, before and after."""

    student: FlowPolicy
    before: float
    after: float


class Distiller:
    """Teacher, student and the loss between them."""

    def __init__(self, teacher: Policy, config: DistillConfig) -> None:
        self.student = make_student(teacher, config.queries)
        assert isinstance(teacher, DenoisingPolicy)
        self.teacher = teacher.eval().requires_grad_(False)
        self.ladder = Ladder(teacher.path, teacher.path.grid(config.levels, teacher.config.spacing), teacher.device)
        self.clip = teacher.config.clip_range

    @torch.no_grad()
    def features(self, micro: MicroBatch) -> Features:
        """Observations through the teacher's encoder, crops as in training."""
        teacher = self.teacher
        obs = {key: micro.batch[key] for key in teacher.observation_spec.keys if key in micro.batch}
        crops = {c.key: micro.noise[CROP + c.key].to(teacher.device) for c in teacher.encoder.cameras} or None
        return teacher._encode(teacher.checker.check(obs, values=False), crops)

    def loss(self, micro: MicroBatch) -> Tensor:
        """Mean consistency loss of a physical batch; gradients reach the student's network only."""
        teacher, device = self.teacher, self.teacher.device
        features = self.features(micro)
        target = teacher.norm.to_model(micro.batch[ACTION].to(device, torch.float32))
        mask = ~micro.batch[ACTION_IS_PAD].to(device, torch.bool) if teacher.config.mask_padding else None
        share = 1 - self.student.path.sigma(micro.noise["t"].to(device))  # 0 is pure noise, the ladder's first level
        index = (share * len(self.ladder)).long().clamp(0, len(self.ladder) - 1)
        with torch.no_grad():
            z = teacher.path.add_noise(target, micro.noise["eps"].to(target), self.ladder.times[index])
            below = self.ladder.step(lambda state, t: teacher.predict(features, state, t), z, index, self.clip)
            states = self.ladder.to_student(z, index), self.ladder.to_student(below, index + 1)
        levels = self.ladder.noise[index], self.ladder.noise[index + 1]
        return self.student.consistency_loss(features, *states, *levels, mask).mean()

    @torch.no_grad()
    def distance(self, student: FlowPolicy, micro: MicroBatch) -> float:
        """RMS difference between the student's chunks and the ends of the teacher's flow, from equal latents."""
        features = self.features(micro)
        latent = micro.noise["eps"].to(self.teacher.device)
        end = self.ladder.end(
            lambda z, t: self.teacher.predict(features, z, t), latent, self.teacher.path.prior_std, self.clip
        )
        tape = torch.randn(len(latent), student.tape_len, *latent.shape[1:], device=latent.device)
        chunks = student.decode(features, latent, tape=tape if student.tape_len else None)
        return float((chunks - end).square().mean().sqrt())


def distill(teacher: Policy, windows: WindowSource, config: DistillConfig, *, progress: bool = True) -> Distilled:
    """Distil ``teacher`` (in evaluation mode afterwards) on ``windows``.

    Raises ``ConfigError`` for teachers that cannot be, ``NonFiniteLoss`` naming the step when the loss is not finite.
    """
    distiller = Distiller(teacher, config)
    student = distiller.student.eval()  # no dropout: two queries of one loss must be one function
    source = BatchSource(windows, student.draw_training_noise, config.batch_size, config.seed)
    warmup = max(1, config.steps // 20)
    options = OptimizerConfig(lr=config.lr, warmup_steps=warmup, grad_clip=1.0)
    optimizer = build_optimizer(student, options)
    parameters = [p for p in student.parameters() if p.requires_grad]
    ema = EMA(student, EMAConfig())
    probe = source(config.steps)[0]  # the batch after the last one
    before = distiller.distance(student, probe)
    bar = ProgressBar(0, config.steps, progress)
    for step in range(config.steps):
        set_lr(optimizer, lr_multiplier(step + 1, options, config.steps))
        loss = distiller.loss(source(step)[0])
        if not torch.isfinite(loss):
            raise NonFiniteLoss(f"the loss is {float(loss.detach())} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, options.grad_clip or 1.0)
        optimizer.step()
        ema.update()
        bar.advance()
        if step % SHOW_EVERY == 0:
            bar.show({"loss": float(loss.detach())})
    bar.close()
    averaged = ema.refresh()
    assert isinstance(averaged, FlowPolicy)
    return Distilled(averaged, before, distiller.distance(averaged, probe))
