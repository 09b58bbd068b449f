"""DSRL: a frozen policy whose latent noise is chosen by a small actor instead of drawn from N(0, I).

Source: Wagenmaker et al. 2025, *Steering Your Diffusion Policy with Latent Space Reinforcement Learning* (CoRL 2025,
arXiv 2506.15799): ``w = pi_W(s)``, ``a = decode(s, w)``; the policy is a black box, no gradient goes through it.
What differs: the latents are unit normal for every head, so the actor's bound means the same for all; latents are a
function of the row's key; the actor may choose fewer numbers than the latent has (``latent_maps``), with the base's own
law as their prior; a decoder other than the one the actor learned through is refused.
When to use: the base sometimes succeeds and its decoder is deterministic (flow and energy heads, DDIM with eta 0, ODE
samplers).  An actor is trained by ``rl.dsrl``; this file only needs something with the methods of ``NoiseActor``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.core.configs import dump_config
from robopolicy.core.errors import (
    ConfigError,
    HorizonMismatch,
    MissingCapability,
    NonDeterministicDecoder,
    PolicyInterfaceError,
)
from robopolicy.core.improver import Explored
from robopolicy.core.policy import Cap
from robopolicy.core.specs import ObservationSpec
from robopolicy.encoders.features import Features
from robopolicy.policies.acting import Acting, Keys
from robopolicy.wrappers.base import Around, Contexts
from robopolicy.wrappers.latent_maps import LatentMap
from robopolicy.wrappers.steer_config import LatentMapConfig
from robopolicy.wrappers.steer_probe import check_prior, warn_if_insensitive

PROBED = 4  # observations
EDGE = 0.95  # numbers beyond this share of the bound count as being at its edge
DECODING = ("sampler", "sampler_options", "num_inference_steps", "spacing", "clip", "guidance", "refine", "n_samples")


class NoiseActor(Protocol):
    """What chooses latents.  ``N`` rows, ``L`` numbers a row (those of ``latent_map``)."""

    observation_spec: ObservationSpec
    n_obs_steps: int
    latent_map: LatentMapConfig
    bound: float
    decoder: Mapping[str, Any] | None
    """``decoder_of`` the policy it learned through, or None if any will do."""

    def encode(self, checked: Mapping[str, Any], base: Any) -> Tensor:
        """Features ``(B, F)`` of the newest ``n_obs_steps`` physical observations; ``base``: the policy's context."""

    def numbers(self, features: Tensor, eps: Tensor | None, bound: float) -> Tensor:
        """``(N, L)`` for unit-normal ``eps`` ``(N, L)``, or the mode for None, within ``bound`` if it has one."""


class PriorActor(nn.Module):
    """Chooses as the base policy does: numbers are N(0, 1), clipped to the bound where there is one."""

    n_obs_steps = 1
    decoder: Mapping[str, Any] | None = None

    def __init__(
        self,
        latent_map: LatentMapConfig | None = None,
        bound: float = float("inf"),
        observation_spec: ObservationSpec | None = None,
    ) -> None:
        """``observation_spec``: what others want observed meanwhile (a replay); nothing of it is read."""
        super().__init__()
        self.latent_map, self.bound = latent_map or LatentMapConfig(), float(bound)
        self.observation_spec = observation_spec or ObservationSpec(())

    def encode(self, checked: Mapping[str, Any], base: Any) -> Tensor:
        """Nothing: ``(B, 0)``."""
        return torch.zeros(base.batch_size, 0)

    def numbers(self, features: Tensor, eps: Tensor | None, bound: float) -> Tensor:
        """``eps`` clipped; the mode is 0."""
        if eps is None:
            raise ConfigError("the prior has no mode to act by; sample from it (deterministic=False)")
        return eps.clamp(-bound, bound)


class SteeredPolicy(Around):
    """See the module.  ``B`` observations, ``L`` numbers that the actor chooses, ``H`` horizon, ``D`` action channels.

    ``ActionChunk.info`` tells of every row the root mean square of the actor's numbers, ``latent_rms`` (1 in the mean
    for the base's own), and the share of them near the bound, ``latent_edge``.
    """

    probe_next = False
    """Whether ``explore`` probes the latents' effect first, once."""
    requires = frozenset({Cap.DECODE})
    mend = (
        "a latent must decide the chunk: set a deterministic sampler (diffusion: ddim with eta 0, beso: an ODE solver, "
        "ebt: no noise and one start), or put this wrapper inside and the other one around it"
    )

    def __init__(
        self,
        policy: Acting,
        actor: NoiseActor,
        *,
        latent_map: LatentMapConfig | None = None,
        bound: float | None = None,
        deterministic: bool = True,
    ) -> None:
        """Wrap ``policy``, a black box in evaluation mode.

        Args:
            policy: anything that decodes deterministically: a head, a composition, a LeRobot policy.
            actor: chooses the latents.
            latent_map: what of the latent it chooses; the actor's own by default.
            bound: half-width of the box it chooses in; the actor's own by default.
            deterministic: act by the actor's mode; false samples, which rerankers around this policy need.

        Raises:
            NonDeterministicDecoder: a chunk of ``policy`` is no function of one latent.
            HorizonMismatch: the actor looks further back than the policy's executor.
            PolicyInterfaceError: the actor learned through another decoder.
            ConfigError: impossible numbers.
        """
        super().__init__([policy], [actor.observation_spec] if actor.observation_spec.features else [])
        if actor.n_obs_steps > policy.action_spec.n_obs_steps:
            raise HorizonMismatch(
                f"the actor looks at {actor.n_obs_steps} observation steps, the policy's executor gives "
                f"{policy.action_spec.n_obs_steps}; train the actor with n_obs_steps={policy.action_spec.n_obs_steps}"
            )
        check_decoder(policy, actor)
        check_prior(policy)
        self.actor = actor
        self.map = LatentMap(latent_map or actor.latent_map, policy.latent_shape).to(policy.device)
        if bound is not None and not bound > 0:
            raise ConfigError(f"bound must be > 0, got {bound:g}")
        self._box = None if bound is None else float(bound)
        self.deterministic = bool(deterministic)
        self.action_spec, self.fps, self.path = policy.action_spec, policy.fps, policy.path
        self.latent_shape, self.caps = (self.map.dim,), frozenset({Cap.SAMPLE})
        self._newest: Tensor | None = None
        self._bound(policy.action_spec.space)

    @property
    def latent_map(self) -> str:
        """What of the latent the actor chooses, in a word."""
        kind = self.map.kind
        return f"basis({self.map.rank}, {self.map.config.curves})" if kind == "basis" else kind

    @property
    def bound(self) -> float:
        """Half-width of the box that the actor chooses in."""
        return self.actor.bound if self._box is None else self._box

    def set_sampler(self, **changes: Any) -> None:
        """Refused: raises ``ConfigError``, since the actor's latents mean something under one decoder only."""
        raise ConfigError(
            f"the actor learned through this decoder; with {', '.join(changes)} changed its latents mean other chunks: "
            "change the base policy's own sampler and train the actor again"
        )

    def calibrate(self, observation_spec: ObservationSpec) -> None:
        """As ``Wrapper.calibrate``, of the actor too, which may see depth by itself."""
        super().calibrate(observation_spec)
        if hasattr(self.actor, "calibrate"):
            self.actor.calibrate(observation_spec)
            self._readers = (self.actor.observation_spec,) if self.actor.observation_spec.features else ()

    def require(self, *caps: Cap, whom: str) -> None:
        """As ``GenerativePolicy.require``; who needs DECODE is told why there is none."""
        if Cap.DECODE in caps:
            self._no_decoder(whom)
        super().require(*caps, whom=whom)

    def _no_decoder(self, whom: str) -> NoReturn:
        raise NonDeterministicDecoder(
            f"{whom} needs DECODE, and the latent of a steered policy is the actor's business; put {whom} around the "
            "policy inside, and this wrapper around that"
        )

    # ------------------------------------------------------------------------------------------------- steering

    def _encode(self, checked: Mapping[str, Any], *, memory: Any = None) -> Contexts:
        """The policy's encoding, and the actor's features after it."""
        ctx = super()._encode(checked, memory=memory)
        spec, steps = self.actor.observation_spec, self.actor.n_obs_steps
        own = {f.key: checked[f.key][:, -steps:] for f in spec.features}
        return ctx.joined(Features(vector=self.actor.encode(own, ctx.parts[0])))

    def numbers(self, ctx: Contexts, eps: Tensor | None) -> Tensor:
        """What the actor chooses ``(N, L)``: for unit-normal ``eps`` ``(N, L)``, or its mode for None."""
        prior = isinstance(self.actor, PriorActor)
        eps = self.map.prior(eps) if prior and eps is not None else eps
        return self.actor.numbers(ctx.parts[1].vector, eps, self.bound)

    def decode(self, ctx: Contexts, latent: Tensor, *, tape: Tensor | None = None) -> Tensor:
        """Chunks ``(N, H, D)`` of the policy for the actor's choice under its noise ``latent`` ``(N, L)``.

        ``tape`` ``(N, *policy.latent_shape)`` is the episode's of an additive map (default: a new one).
        """
        if tape is None:
            tape = self._to(self.map.draw_tape(len(latent)))
        return self.policy.decode(ctx.parts[0], self.map(self.numbers(ctx, latent), tape))

    def _chunks(self, ctx: Contexts, keys: Keys, names: Sequence[Hashable]) -> tuple[Tensor, dict[str, Tensor]]:
        eps = None if self.deterministic else self.noise_of(keys)[0]
        numbers = self.numbers(ctx, eps)
        self._newest = numbers
        latent = self.map(numbers, self._to(self.map.tape_of(keys)))
        chunks, told = self.policy._decode_with_info(ctx.parts[0], latent, None)
        edge = (numbers.abs() > EDGE * self.bound).float().mean(1)
        return chunks, {**told, "latent_rms": numbers.square().mean(1).sqrt(), "latent_edge": edge}

    def _to(self, tape: Tensor | None) -> Tensor | None:
        return None if tape is None else tape.to(self.device)

    # ------------------------------------------------------------------------------------------------- exploring

    def explore(self, obs: Mapping[str, Any], noise_keys: Keys, episodes: Sequence[Hashable] | None = None) -> Explored:
        """``act``, and the actor's numbers ``(B, L)``; see ``core.improver.Explorer``."""
        if self.probe_next:
            self.probe_next = False
            self.probe({key: value[:PROBED] for key, value in obs.items()})
        chunk = self.act(obs, noise_keys, episodes=episodes)
        newest, self._newest = self._newest, None
        assert newest is not None
        return Explored(chunk, newest.float().cpu().numpy().astype(np.float32))

    def probe(self, obs: Mapping[str, Any]) -> None:
        """``LatentInsensitivityWarning`` where the policy's chunks for ``obs`` hardly follow their latents."""
        with torch.no_grad():
            ctx = self.encode(obs)
        warn_if_insensitive(self.policy, ctx.parts[0], self.map)


def decoder_of(policy: Any) -> dict[str, Any]:
    """What decides how ``policy`` turns a latent into a chunk, besides its weights, as plain data."""
    parents = getattr(policy, "parents", None)
    if parents:
        told: dict[str, Any] = {n: list(getattr(policy, n)) for n in ("weights",) if hasattr(policy, n)}
        told |= {n: getattr(policy, n) for n in ("leader", "operator") if hasattr(policy, n)}
        return {**told, "parts": [decoder_of(parent) for parent in parents]}
    config = getattr(policy, "config", None)
    plain = dump_config(config) if hasattr(config, "__pydantic_fields__") else {}
    return {name: plain[name] for name in DECODING if name in plain}


def check_decoder(policy: Acting, actor: NoiseActor) -> None:
    """``PolicyInterfaceError`` unless ``policy`` decodes as it did when the actor learned."""
    if actor.decoder is None:
        return
    now, then = decoder_of(policy), dict(actor.decoder)
    if now != then:
        changed = [k for k in sorted({*now, *then}) if now.get(k) != then.get(k)]
        pairs = ", ".join(f"{k} {then.get(k)!r}, now {now.get(k)!r}" for k in changed)
        raise PolicyInterfaceError(
            f"the actor learned through another decoder ({pairs}); set the base policy's sampler back, or train again"
        )


def base_vector(ctx: Any) -> Tensor:
    """The feature vector ``(B, F)`` of a policy's context, those of a composition side by side.

    Raises ``MissingCapability`` where a policy keeps its features in another form.
    """
    if isinstance(ctx, Contexts):
        return torch.cat([base_vector(part) for part in ctx.parts if part is not None], dim=1)
    vector = getattr(ctx, "vector", None)
    if not isinstance(vector, Tensor):
        raise MissingCapability("features: base needs a policy whose encoding is one vector; set features to own")
    return vector
