"""Real-time chunking as a policy: ``act(obs, guide=...)`` draws a chunk that continues the one being executed.

Source: Black et al. 2025, *Real-Time Execution of Action Chunking Flow Policies* (arXiv 2506.07339).
What differs: it works for every head with a score on a Gaussian path (diffusion and EDM too, compositions of them),
with any of their samplers (``real_time.guided_denoiser`` has the derivation); without a guide it is the policy inside,
to the last bit; the noise of a chunk is the plain policy's.
When to use: the policy takes longer than a control step, and its chunks disagree where one replaces the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import ConfigError, InvalidAction, MissingCapability
from robopolicy.core.policy import Cap
from robopolicy.core.specs import ChannelKind
from robopolicy.policies.acting import Acting, Keys
from robopolicy.wrappers.base import Around, Contexts
from robopolicy.wrappers.execution.guide import Guide
from robopolicy.wrappers.execution.images import Images
from robopolicy.wrappers.real_time import Jacobian, guided_denoiser, steady_cap

Guides = Guide | None | Sequence[Guide | None]
Limit = float | Literal["auto", "none"] | None


class RealTimePolicy(Around):
    """See the module.  ``B`` observations, ``H`` horizon, ``D`` action channels.

    ``ActionChunk.info`` tells of guided batches how far each row's chunk is from what it should continue,
    ``prefix_error``: root mean square over the frozen steps, normalised units (0 for rows without a guide).
    """

    continues = True
    """Whether ``act`` takes a ``guide``."""
    requires = frozenset({Cap.SCORE})
    mend = (
        "real-time chunking pulls at every noise level: wrap the multi-step flow, diffusion or EDM policy inside, or a "
        "composition of them, and put rerankers and steering around this wrapper; run others with --execution async"
    )

    def __init__(self, policy: Acting, *, cap: Limit = "auto", jacobian: Jacobian = "true") -> None:
        """Wrap ``policy``, in evaluation mode.

        Args:
            policy: a head with a score, or a composition of such heads.
            cap: largest factor of the pull (``real_time.guidance_weight``): a number, ``auto`` or None for
                ``min(10, steps / 2)`` of the policy's sampler (``real_time.steady_cap``), ``none`` for no limit.
            jacobian: ``true`` pulls through the network (the paper's, one backward pass a query), ``identity`` leaves
                its Jacobian out (LeRobot's).

        Raises:
            MissingCapability: the policy cannot be asked at noise levels, or denoises something else than chunks.
            ConfigError: impossible numbers.
        """
        super().__init__([policy])
        _check_chunks(policy)
        if cap is not None and cap not in ("auto", "none") and (isinstance(cap, str) or not cap >= 0):
            raise ConfigError(f"cap must be auto, none or a number >= 0, got {cap!r}")
        if jacobian not in ("true", "identity"):
            raise ConfigError(f"jacobian must be true (the paper's) or identity, got {jacobian!r}")
        self._limit, self.jacobian = cap, jacobian
        self.action_spec, self.fps, self.path = policy.action_spec, policy.fps, policy.path
        self.latent_shape = policy.latent_shape
        self._guides: Sequence[Guide | None] | None = None
        self._bound(policy.action_spec.space)

    @property
    def cap(self) -> float:
        """Largest factor of the pull; ``auto`` follows the policy's number of steps."""
        if self._limit is None or self._limit == "auto":
            policy: Any = self.policy
            return steady_cap(len(policy.times))
        return float("inf") if self._limit == "none" else float(self._limit)

    @property
    def caps(self) -> frozenset[Cap]:  # type: ignore[override]
        """SAMPLE, and DECODE where the policy has it: what is nested around this wrapper sees the plain policy."""
        return self.policy.caps & {Cap.SAMPLE, Cap.DECODE}

    @property
    def tape_len(self) -> int:
        """That of the policy."""
        return self.policy.tape_len

    def set_sampler(self, **changes: Any) -> None:
        """As of the policy inside."""
        self.policy.set_sampler(**changes)

    def decode(self, ctx: Contexts, latent: Tensor, *, tape: Tensor | None = None) -> Tensor:
        """The policy's own chunks ``(N, H, D)``, without a guide."""
        return self.policy.decode(ctx.parts[0], latent, tape=tape)

    # -------------------------------------------------------------------------------------------------- acting

    def act(
        self,
        obs: Mapping[str, Any],
        noise_keys: Keys | None = None,
        observed_at: float | np.ndarray = 0.0,
        episodes: Sequence[Hashable] | None = None,
        guide: Guides = None,
    ) -> ActionChunk:
        """As ``Acting.act``; ``guide`` is what an executor says that the chunk shall continue, one or one a row.

        Without a guide, or where nothing is held, the chunk is the plain policy's, bit for bit.
        Raises ``InvalidAction`` for guides of another layout or number.
        """
        self._guides = [guide] if isinstance(guide, Guide) else guide
        try:
            return super().act(obs, noise_keys, observed_at, episodes)
        finally:
            self._guides = None

    def _chunks(self, ctx: Contexts, keys: Keys, names: Sequence[Hashable]) -> tuple[Tensor, dict[str, Tensor]]:
        guides = self._guides
        if guides is None or all(g is None or g.empty for g in guides):
            chunks, told = self.policy._chunks(ctx.parts[0], keys, names)
            return chunks, (told if guides is None else {"prefix_error": torch.zeros(len(keys))})
        previous, weights, frozen = self._held(guides, len(keys))
        latent, tape = self.policy.noise_of(keys)
        chunks = self._continue(ctx.parts[0], latent, tape, previous, weights)
        square = ((chunks - previous.nearest(chunks)).square() * frozen).sum((1, 2)) / frozen.sum((1, 2)).clamp(min=1)
        return chunks, {"prefix_error": square.sqrt()}

    def _continue(self, ctx: Any, latent: Tensor, tape: Tensor | None, previous: Images, weights: Tensor) -> Tensor:
        """Chunks ``(N, H, D)``; ``weights`` ``(N, H, D)``."""
        policy: Any = self.policy
        sampler = policy.sampler
        with torch.inference_mode(False), torch.set_grad_enabled(self.jacobian == "true"):
            denoise = guided_denoiser(
                policy.denoiser(ctx),  # made in this mode: tabulated forms have no gradient
                policy.path,
                previous.nearest,
                weights,
                cap=self.cap,
                jacobian=self.jacobian,
                clip=sampler.clip,
                keeps_eps=sampler.keeps_eps,
            )
        with torch.no_grad():
            z = latent * policy.path.prior_std
            chunks: Tensor = sampler(denoise, policy.path, policy.times, z, tape=tape)
        return chunks

    def _held(self, guides: Sequence[Guide | None], rows: int) -> tuple[Images, Tensor, Tensor]:
        """What is held, and ``(weights, frozen)``, each ``(B, H, D)``; channels that are padding are free."""
        spec = self.action_spec
        shape = (spec.horizon, spec.dim)
        if len(guides) != rows:
            raise InvalidAction(f"guide: {len(guides)} guides for {rows} observations; give one a row, None for none")
        previous, weights = np.zeros((rows, *shape), np.float32), np.zeros((rows, *shape), np.float32)
        frozen = np.zeros((rows, *shape), np.float32)
        counted = np.array([kind is not ChannelKind.PADDING for kind in spec.space.channel_kinds], np.float32)
        for row, guide in enumerate(guides):
            if guide is None:
                continue
            if guide.previous.shape != shape:
                raise InvalidAction(f"guide: expected previous {shape} (horizon, D), got {guide.previous.shape}")
            previous[row], weights[row] = guide.previous, guide.weights[:, None] * counted
            frozen[row] = (guide.weights[:, None] == 1) * counted
        images = Images(previous, spec.space, lambda x: self.norm.to_model(torch.from_numpy(x).to(self.device)))
        free = self.norm.free.to(self.device)
        pulled, fixed = (torch.from_numpy(x).to(self.device) * free for x in (weights, frozen))
        return images, pulled, fixed


def _check_chunks(policy: Acting) -> None:
    """``MissingCapability`` unless what the policy denoises is the chunk, step by step, on one noise path."""
    spec = policy.action_spec
    whose = f"RealTimePolicy: {type(policy).__name__}"
    if isinstance(policy, RealTimePolicy):
        raise MissingCapability(f"{whose} continues chunks already; wrap the policy inside it")
    if not spec.dt > 0:
        raise MissingCapability(f"{whose} says keyposes without dates, which do not continue one another")
    if tuple(policy.latent_shape) != (spec.horizon, spec.dim) or policy.path.per_channel:
        raise MissingCapability(
            f"{whose} denoises something else than its chunk of {spec.horizon} x {spec.dim} numbers"
        )
    if not hasattr(policy, "sampler"):
        raise MissingCapability(f"{whose} has no sampler of its own; wrap the policy inside it")


def real_time(policy: Acting, **options: Any) -> RealTimePolicy:
    """``policy`` if it continues chunks already, else wrapped."""
    return policy if isinstance(policy, RealTimePolicy) else RealTimePolicy(policy, **options)
