"""Options of the energy-based transformer head (no torch here: the command line reads these classes).

Defaults are made for small problems on a CPU: a plain descent of few steps and the multi-modal objective.  The
published values are in ``policies/ebt/paper.yaml``.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.policies.backbone_config import UnetConfig, check_attention, check_dropout
from robopolicy.policies.chunk_config import ChunkConfig, check_unet_horizon
from robopolicy.policies.normalization_config import BOUNDED


@config_dataclass
class EnergyTransformerConfig:
    """Size of the energy transformer."""

    n_layer: int = 2
    """Blocks of self-attention, cross-attention and perceptron over the action tokens."""
    n_obs_layer: int = 1
    """Blocks over the observation tokens."""
    n_head: int = 4
    n_emb: int = 64
    dropout: float = 0.0
    """Of attention weights; it stays active in the training descent and makes its energies noisy."""

    def __post_init__(self) -> None:
        check_attention(self.n_layer, self.n_head, self.n_emb)
        check_dropout(dropout=self.dropout)
        if self.n_obs_layer < 0:
            raise ConfigError(f"n_obs_layer must be >= 0, got {self.n_obs_layer}")


@config_dataclass
class RefineConfig:
    """How a chunk descends its energy, in training and in inference."""

    step_size: float = 1000.0
    """alpha: the one number that must fit the problem; energies are means over all outputs, so gradients are small."""
    learnable: bool = False
    """Learn the step size too, in an optimiser group of its own without decay."""
    step_size_lr: float = 3.0
    """Learning rate of the (logarithmic) step size relative to the rest."""
    scaling: Literal["none", "exp"] = "none"
    """exp multiplies the step by exp(E) / tau, so that the level of the energy is a learned step size."""
    tau: float = 1.0
    """Divides exp(E), not the E inside."""
    energy_clamp: float = 5.0
    """Bound of \\|E\\| inside exp."""
    momentum: float = 0.0
    """mu of Nesterov's look-ahead."""
    norm: Literal["none", "sample", "batch"] = "none"
    """Divide the iterate by its root mean square before steps; batch couples the samples (parity with the paper)."""
    norm_at: Literal["every", "first"] = "every"
    """Before every step, or only before the first; every step fights convergence where chunks are small."""
    noise_max: float = 0.0
    """Langevin noise of the first training step, in normalised units; a cosine leads from here to noise_min."""
    noise_min: float = 0.0
    noise_at_inference: float = 0.0
    """The same noise while acting, as a multiple of the training noise."""
    step_jitter: float = 1.0
    """r: training multiplies the step size of each sample by a factor drawn between 1/r and r."""
    train_steps: int = 2
    """Fewest steps K of a training descent."""
    extra_steps: int = 1
    """Each sample takes K + U{0 .. extra_steps} steps."""
    detach: bool = True
    """No gradient from a step to the steps before it."""
    truncate: bool = True
    """Loss on the last iterate only; otherwise the mean over all."""
    gradient_clamp: float | None = None
    """Bound of every entry of the energy's gradient."""
    max_steps: int = 3
    """Most steps in inference (each one energy and its gradient)."""
    min_gradient: float = 0.0
    """A sample stops once the norm of its gradient is below this; 0 never stops."""
    tolerance: float = 0.0
    """A sample stops once a step moved it by less than this (root mean square, normalised units); 0 never stops."""
    min_energy_change: float = 0.0
    """A sample stops once its energy changed by less than this; 0 never stops."""

    def __post_init__(self) -> None:
        if not (self.step_size > 0 and self.tau > 0 and self.energy_clamp > 0 and self.step_size_lr > 0):
            raise ConfigError("step_size, step_size_lr, tau and energy_clamp must be > 0")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), got {self.momentum}")
        if not 0 <= self.noise_min <= self.noise_max or self.noise_at_inference < 0:
            raise ConfigError(
                f"expected 0 <= noise_min <= noise_max and noise_at_inference >= 0, got {self.noise_min}, "
                f"{self.noise_max}, {self.noise_at_inference}"
            )
        if self.noise_at_inference and not self.noise_max:
            raise ConfigError("noise_at_inference is a multiple of the training noise: set noise_max > 0")
        if self.step_jitter < 1:
            raise ConfigError(f"step_jitter must be >= 1 (1 = none), got {self.step_jitter}")
        if min(self.train_steps, self.max_steps) < 1 or self.extra_steps < 0:
            raise ConfigError("train_steps and max_steps must be >= 1, extra_steps >= 0")
        if min(self.min_gradient, self.tolerance, self.min_energy_change) < 0:
            raise ConfigError("min_gradient, tolerance and min_energy_change must be >= 0")
        if self.gradient_clamp is not None and not self.gradient_clamp > 0:
            raise ConfigError(f"gradient_clamp must be > 0 or null, got {self.gradient_clamp}")

    @property
    def most_train_steps(self) -> int:
        """The longest training descent."""
        return self.train_steps + self.extra_steps

    @property
    def stops_early(self) -> bool:
        """Whether samples may take fewer than ``max_steps`` in inference."""
        return max(self.min_gradient, self.tolerance, self.min_energy_change) > 0


@config_dataclass
class ReplayConfig:
    """Starting points remembered from earlier training descents (one process only).

    A window drawn again may start where its last descent ended.  What is remembered is part of a checkpoint.
    """

    capacity: int = 0
    """Windows whose last chunk is kept (by dataset row, modulo this); 0 switches replay off."""
    probability: float = 0.5
    """How often a sample starts from its remembered chunk instead of from noise."""

    def __post_init__(self) -> None:
        if self.capacity < 0 or not 0 < self.probability <= 1:
            raise ConfigError("replay.capacity must be >= 0 and replay.probability in (0, 1]")


@config_dataclass
class EbtConfig(ChunkConfig):
    """Energy-based policy: a chunk of actions found by descending a learned energy."""

    type: Literal["ebt"] = "ebt"
    backbone: Literal["transformer", "unet"] = "transformer"
    """The energy network."""
    transformer: EnergyTransformerConfig = field(default_factory=EnergyTransformerConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    objective: Literal["paper", "wta", "soft_wta", "infonce"] = "wta"
    """paper averages modes (one target whatever the start); wta trains the closest of several starts."""
    starts: int = 4
    """Starts a sample (wta, soft_wta) or negatives a sample (infonce)."""
    temperature: float = 0.05
    """soft_wta: starts weigh softmax(-error / temperature); infonce: energies are divided by it."""
    gradient_limit: float = 3.0
    """infonce: gradient norms above this are penalised."""
    gradient_penalty: float = 1.0
    """infonce: weight of that penalty."""
    n_samples: int = 1
    """Descents a chunk in inference, from different starts; the one of least energy is taken."""
    clip: float | Literal["auto"] | None = "auto"
    """Range of the finished chunk in normalised units; auto is 1 for bounded normalisation and null otherwise."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone == "unet":
            check_unet_horizon(self.horizon, len(self.unet.down_dims))
        if self.starts < 1 or self.n_samples < 1:
            raise ConfigError("starts and n_samples must be >= 1")
        if not (self.temperature > 0 and self.gradient_limit > 0 and self.gradient_penalty >= 0):
            raise ConfigError("temperature and gradient_limit must be > 0, gradient_penalty >= 0")
        if isinstance(self.clip, (int, float)) and not self.clip > 0:
            raise ConfigError(f"clip must be > 0 or null, got {self.clip}")
        if self.refine.norm == "batch" and self.n_samples > 1:
            raise ConfigError("refine.norm=batch couples the samples of a batch; use sample or none with n_samples > 1")
        if self.objective == "infonce" and not (self.refine.truncate and self.refine.detach):
            raise ConfigError("infonce learns no descent: leave refine.truncate and refine.detach true")

    @property
    def max_steps(self) -> int:
        """Most refinement steps in inference."""
        return self.refine.max_steps

    @property
    def clip_range(self) -> float | None:
        """The clip in normalised units; ``None`` never clips."""
        if self.clip == "auto":
            return 1.0 if self.normalization.action in BOUNDED else None
        return self.clip
