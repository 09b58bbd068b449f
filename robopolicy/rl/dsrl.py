"""DSRL as an improver: a noise actor for a frozen policy, from episodes with nothing but success at their end.

Source: Wagenmaker et al. 2025, *Steering Your Diffusion Policy with Latent Space Reinforcement Learning* (CoRL 2025,
arXiv 2506.15799).  ``dsrl_learner`` has the losses, ``wrappers.steer`` acts, this file puts them behind
``core.improver``: what is stored, how many updates a round brings, what a checkpoint holds.
Differs from the release: the actor's bound holds in both variants (there, noise aliasing ignores it), the warm-up
decodes once, time limits bootstrap; one encoder serves actor and critics and is taught by the critic's loss.
When to use: the base succeeds sometimes, and its weights cannot or should not be touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

from robopolicy.core.errors import CheckpointError, ConfigError, MissingRewards
from robopolicy.core.improver import Beginning, Improver, ReplayLayout, Work
from robopolicy.core.io import write_atomic
from robopolicy.core.specs import ACTION, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.policies.acting import Acting
from robopolicy.policies.chunk_config import DEFAULT_KINDS
from robopolicy.policies.setup import select_features
from robopolicy.rl.dsrl_config import DSRLConfig
from robopolicy.rl.dsrl_decoding import ReplayDecoder, check_askable, row_names
from robopolicy.rl.dsrl_learner import AliasedSAC, LatentBatch, LatentSAC
from robopolicy.rl.noise_actor import NoiseActor, save_noise_actor
from robopolicy.rl.sac import polyak, slow_copy, updates_due
from robopolicy.rl.transitions import DISCOUNT, LATENT, NEXT, REWARD
from robopolicy.wrappers.latent_maps import LatentMap
from robopolicy.wrappers.steer import PriorActor, SteeredPolicy, base_vector, decoder_of

UPDATE = "dsrl"
ACTOR, NESTING = "noise_actor", "policy.yaml"
COUNTERS = ("transitions", "updates", "bound")
STORED = (FeatureKind.STATE, FeatureKind.IMAGE, FeatureKind.DEPTH, FeatureKind.POSE)


class DSRLImprover(Improver):
    """See the module.  ``L`` numbers of a latent, ``k`` executed actions of ``D`` channels a decision."""

    name: ClassVar[str] = "dsrl"

    def __init__(self, config: DSRLConfig, beginning: Beginning) -> None:
        """``beginning.base`` is never changed.

        Raises:
            NonDeterministicDecoder, MissingCapability: the base cannot be steered, or not by this variant.
            ConfigError: settings that do not fit the base or the data.
        """
        base: Acting = beginning.base
        if config.variant == "sac" and beginning.offline:
            raise ConfigError("offline data carry no latents, so sac cannot learn from them; use dsrl.variant na")
        self.config, self.batch_size = config, config.batch_size
        SteeredPolicy(base, PriorActor(config.latent_map))  # refuses what cannot be steered, and says why
        if self.asks_base:
            check_askable(base, config.task)
        self.map = LatentMap(config.latent_map, base.latent_shape).to(base.device)
        self.decoder = ReplayDecoder(base, self.map, config.task, config.decode_batch)
        self.actor = self._make_actor(beginning)
        self.learner = self._make_learner()
        self.actor.head = self.learner.actor
        self.slow_encoder = slow_copy(self.actor.encoder) if self._taught() and self.actor.encoder else None
        self._offline, self._transitions, self._updates = beginning.offline, 0, 0
        self.layout = self._layout()
        self._steered: SteeredPolicy | None = None
        self._probed = False

    # -------------------------------------------------------------------------------------------- what it is made of

    @property
    def base(self) -> Acting:
        """The frozen policy."""
        return self.decoder.policy

    @property
    def bound(self) -> float:
        """Half-width of the box of latents once it is fully open."""
        return self.config.bound

    @property
    def resumable(self) -> bool:
        """Not within a block of ``refresh`` updates, whose decoded actions no checkpoint holds."""
        return self.config.variant == "sac" or self._updates % self.config.refresh == 0

    @property
    def asks_base(self) -> bool:
        """Whether an update asks the base policy."""
        return self.config.variant == "na" or self.config.features == "base"

    def _make_actor(self, beginning: Beginning) -> NoiseActor:
        config, base = self.config, self.base
        own = config.features == "own"
        spec = _readable(base, beginning.observation_spec, config) if own else ObservationSpec(())
        steps = config.n_obs_steps or base.action_spec.n_obs_steps
        if steps > base.action_spec.n_obs_steps:
            raise ConfigError(
                f"dsrl.n_obs_steps={steps}: the base policy's executor gives {base.action_spec.n_obs_steps}; lower it"
            )
        width = 0 if own else self._base_width()
        decoder = decoder_of(base)
        return NoiseActor(config, spec, steps, beginning.stats, self.map.dim, width, decoder, load_weights=True).to(
            base.device
        )

    def _base_width(self) -> int:
        blank = {
            f.key: torch.zeros((1, self.base.action_spec.n_obs_steps, *f.shape))
            for f in self.base.observation_spec.features
            if f.kind is not FeatureKind.LANGUAGE
        }
        return base_vector(self.decoder.context(blank)).shape[1]

    def _taught(self) -> list[nn.Parameter]:
        encoder = self.actor.encoder
        return [] if encoder is None else [p for p in encoder.parameters() if p.requires_grad]

    def _make_learner(self) -> LatentSAC | AliasedSAC:
        width, dims, taught = self.actor.feature_dim, self.map.dim, self._taught()
        if self.config.variant == "sac":
            return LatentSAC(self.config, width, dims, taught=taught).to(self.base.device)
        return AliasedSAC(self.config, width, dims, self.decoder, taught).to(self.base.device)

    def _layout(self) -> ReplayLayout:
        features: dict[str, FeatureSpec] = {f.key: f for f in self.actor.observation_spec.features}
        if self.asks_base:
            features |= {f.key: f for f in self.base.observation_spec.of_kind(*STORED)}
        spec = self.base.action_spec
        latent = (self.map.dim,) if self.config.variant == "sac" else None
        return ReplayLayout(
            tuple(features.values()), spec.n_obs_steps, spec.n_action_steps, spec.dim, latent, self.config.gamma
        )

    # ------------------------------------------------------------------------------------------------------ acting

    def explorer(self, warmup: bool) -> SteeredPolicy:
        """Samples of the actor; while warming up the base itself, for sac clipped to the box."""
        if warmup:
            bound = self.actor.bound if self.config.variant == "sac" else float("inf")
            prior = PriorActor(self.config.latent_map, bound, self.actor.observation_spec)
            policy = SteeredPolicy(self.base, prior, deterministic=False)
        else:
            policy = SteeredPolicy(self.base, self.actor, deterministic=False)
        policy.probe_next, self._probed = not self._probed, True
        return policy

    def candidates(self) -> Mapping[str, SteeredPolicy]:
        """The steered policy, by the actor's mode."""
        if self._steered is None:
            self._steered = SteeredPolicy(self.base, self.actor)
        return {"steered": self._steered}

    def set_bound(self, bound: float) -> None:
        """Let the actor choose within ``[-bound, bound]`` from now on (a curriculum grows it to ``self.bound``)."""
        if bound > self.config.bound:
            raise ConfigError(f"bound {bound:g} is beyond dsrl.bound={self.config.bound:g}; raise that")
        self._set_bound(bound)

    # ------------------------------------------------------------------------------------------------------ learning

    def offline_work(self) -> Sequence[Work]:
        """``offline_updates`` on offline data alone."""
        steps = self.config.offline_updates
        if steps and not self._offline:
            raise ConfigError("dsrl.offline_updates needs offline data; name them with --offline.paths, or set it to 0")
        self._forget()
        return (Work(UPDATE, steps, 1.0),) if steps else ()

    def online_work(self, transitions: int, env_steps: int) -> Sequence[Work]:
        """``utd`` updates a decision, and once ``first_updates`` more."""
        first = self.config.first_updates if not self._transitions and transitions else 0
        self._transitions += transitions
        self._forget()
        steps = first + updates_due(self._transitions, transitions, self.config.utd)
        mixing = self.config.offline_mixing if self._offline else 0.0
        return (Work(UPDATE, steps, mixing),)

    def step(self, kind: str, batch: Mapping[str, np.ndarray], generator: torch.Generator) -> dict[str, float]:
        """One update of temperature, critic, actor and slow critic, with its distillation (na)."""
        if kind != UPDATE:
            raise ConfigError(f"dsrl knows updates of kind '{UPDATE}', got '{kind}'")
        told = self.learner.update(self._batch(batch, generator), generator)
        if self.slow_encoder is not None:
            assert self.actor.encoder is not None
            polyak(self.actor.encoder, self.slow_encoder, self.config.polyak)
        self._updates += 1
        return told

    def _batch(self, batch: Mapping[str, np.ndarray], generator: torch.Generator) -> LatentBatch:
        for key in (REWARD, DISCOUNT):
            if key not in batch:
                raise MissingRewards(f"the batch has no '{key}'; transitions carry reward and discount")
        obs, ahead = ({key: batch[prefix + key] for key in self._stored} for prefix in ("", NEXT))
        asked = self.config.variant == "na"
        remember = self.config.refresh > 1 and asked
        names, next_names = (row_names(obs), row_names(ahead)) if remember else (None, None)
        ctx, next_ctx = (self.decoder.context(o) for o in (obs, ahead)) if asked else (None, None)
        features, next_features, slow = self._features(obs, ahead, ctx, next_ctx, generator)
        reward, discount = (torch.as_tensor(batch[k]).to(features.device, torch.float32) for k in (REWARD, DISCOUNT))
        return LatentBatch(
            features, next_features, self._action(batch), reward, discount, slow, ctx, next_ctx, names, next_names
        )

    @property
    def _stored(self) -> list[str]:
        return [f.key for f in self.layout.features]

    def _action(self, batch: Mapping[str, np.ndarray]) -> Tensor:
        """What the critic values of the stored transitions: executed actions, or latents."""
        if self.config.variant == "na":
            return self.decoder.executed(torch.as_tensor(batch[ACTION], dtype=torch.float32))
        if LATENT not in batch:
            raise ConfigError("the batch has no latents, which sac learns from: offline data have none; use variant na")
        return torch.as_tensor(batch[LATENT]).to(self.base.device, torch.float32).flatten(1)

    def _features(
        self, obs: Mapping[str, Any], ahead: Mapping[str, Any], ctx: Any, next_ctx: Any, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features here (with a graph where an encoder learns), next, and next by the slow encoder."""
        encoder = self.actor.encoder
        if encoder is None:
            parts = ((obs, ctx), (ahead, next_ctx))
            seen, seen_ahead = (base_vector(c if c is not None else self.decoder.context(o)) for o, c in parts)
            return seen, seen_ahead, None
        here, there = self.actor.inputs(obs), self.actor.inputs(ahead)
        crops = [self._crops(len(next(iter(part.values()))), generator) for part in (here, there)]
        with torch.no_grad():
            next_features = encoder(there, crops[1]).vector
            slow = None if self.slow_encoder is None else self.slow_encoder(there, crops[1]).vector
        return encoder(here, crops[0]).vector, next_features, slow

    def _crops(self, rows: int, generator: torch.Generator) -> dict[str, Tensor] | None:
        """Where each camera is cropped, at random."""
        encoder = self.actor.encoder
        if encoder is None or not encoder.cameras:
            return None
        shape = (rows, self.actor.n_obs_steps, 2)
        return {c.key: torch.rand(shape, generator=generator).to(self.base.device) for c in encoder.cameras}

    def _forget(self) -> None:
        if isinstance(self.learner, AliasedSAC):
            self.learner.forget()

    # --------------------------------------------------------------------------------------------------------- state

    def modules(self) -> nn.Module:
        """Learner, encoder and its slow copy; nothing of the base."""
        parts = {"learner": self.learner, "encoder": self.actor.encoder, "slow_encoder": self.slow_encoder}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def optimizers(self) -> Mapping[str, Optimizer]:
        """Those of the learner."""
        return self.learner.optimizers()

    def extra_state(self) -> dict[str, Any]:
        """Transitions and updates so far, and the bound of now."""
        self._forget()
        return {"transitions": self._transitions, "updates": self._updates, "bound": self.actor.bound}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``extra_state``."""
        if set(state) != set(COUNTERS):
            raise CheckpointError(
                f"dsrl: expected the counters {', '.join(COUNTERS)}, got {', '.join(map(str, state))}"
            )
        self._transitions, self._updates = int(state["transitions"]), int(state["updates"])
        self._set_bound(float(state["bound"]))
        self._forget()
        if isinstance(self.learner, AliasedSAC):
            self.learner.updates = self._updates

    def _set_bound(self, bound: float) -> None:
        """Of the actor and of its copy in the targets: a checkpoint knows one bound."""
        self.actor.set_bound(bound)
        if isinstance(self.learner, AliasedSAC) and self.learner.lagging is not None:
            self.learner.lagging.bound.fill_(bound)

    def save(self, directory: Path, base: str) -> Path:
        """Write the noise actor and a nesting of type ``steered``; returns the nesting's path."""
        save_noise_actor(self.actor, directory / ACTOR)
        nesting = {"format": 1, "type": "steered", "policy": base, "actor": ACTOR, "deterministic": True}
        write_atomic(directory / NESTING, yaml.safe_dump(nesting, sort_keys=False))
        return directory / NESTING

    def frozen_hash_parts(self) -> nn.Module:
        """The base policy."""
        return self.base


def _readable(base: Acting, place: ObservationSpec, config: DSRLConfig) -> ObservationSpec:
    """What the actor reads: ``observation_keys`` of the place, or the base's own state vectors and cameras."""
    if config.observation_keys is not None:
        return select_features(place, config.observation_keys)
    keys = [f.key for f in base.observation_spec.of_kind(*DEFAULT_KINDS)]
    if not keys:
        read = ", ".join(base.observation_spec.keys)
        raise ConfigError(f"the base policy reads no state vector and no camera ({read}); give dsrl.observation_keys")
    return base.observation_spec.select(keys)


def build(config: DSRLConfig, beginning: Beginning) -> DSRLImprover:
    """A new improver of the base policy in ``beginning``."""
    return DSRLImprover(config, beginning)
