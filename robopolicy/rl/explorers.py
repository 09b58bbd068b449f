"""A policy as the explorer of a round: it acts as it is, and stores no latents (PA-RL's warm-up, plain collection)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from robopolicy.core.improver import Explored
from robopolicy.core.specs import ActionSpec, ObservationSpec


class PolicyExplorer:
    """Acts like ``policy`` (anything with ``act``, ``reset``, ``action_spec`` and ``observation_spec``)."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    @property
    def action_spec(self) -> ActionSpec:
        """The policy's."""
        spec: ActionSpec = self.policy.action_spec
        return spec

    @property
    def observation_spec(self) -> ObservationSpec:
        """The policy's."""
        spec: ObservationSpec = self.policy.observation_spec
        return spec

    @property
    def recurrent(self) -> bool:
        """Whether the policy carries a state through an episode."""
        return bool(getattr(self.policy, "recurrent", False))

    def explore(
        self,
        obs: Mapping[str, Any],
        noise_keys: Sequence[Sequence[int]],
        episodes: Sequence[Hashable] | None = None,
    ) -> Explored:
        """See ``core.improver.Explorer``."""
        named = {} if episodes is None else {"episodes": episodes}
        return Explored(self.policy.act(obs, noise_keys=noise_keys, **named))

    def reset(self, episodes: Sequence[Hashable] | None = None) -> None:
        """Forget what was carried for ``episodes`` (default: all)."""
        self.policy.reset() if episodes is None else self.policy.reset(episodes)
