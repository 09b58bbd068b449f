"""Heads by name: their configuration and their class, each imported when first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robopolicy.core.configs import build_config
from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.core.registry import Registry
from robopolicy.core.specs import ActionSpace, FeatureStats, ObservationSpec

if TYPE_CHECKING:
    from robopolicy.policies.base import Policy

POLICIES = Registry("policy")


@dataclass(frozen=True)
class PolicyEntry:
    """``(ConfigClass, PolicyClass)`` of one head, given as ``"module:Class"``; the first needs no torch."""

    config: str
    policy: str

    def __getitem__(self, index: int) -> type:
        module, _, name = (self.config, self.policy)[index].partition(":")
        found: type = getattr(importlib.import_module(module), name)
        return found

    def __iter__(self) -> Iterator[type]:
        return iter((self[0], self[1]))


def _head(name: str, stem: str) -> None:
    module = f"robopolicy.policies.{name}"
    POLICIES.add(name, PolicyEntry(f"{module}_config:{stem}Config", f"{module}:{stem}Policy"))


_head("diffusion", "Diffusion")
_head("flow", "Flow")
_head("beso", "Beso")
_head("ebt", "Ebt")
_head("seed_policy", "Seed")
_head("diffuser_actor_3d", "DiffuserActor3d")


def policy_config(data: Mapping[str, Any], where: str = "") -> Any:
    """The typed configuration of the head that ``data["type"]`` names.

    Raises ``ConfigError`` for unknown heads and keys; ``where`` (a file name) opens its message.
    """
    prefix = f"{where}: " if where else ""
    name = data.get("type") if isinstance(data, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"{prefix}expected a mapping with 'type', one of: {', '.join(POLICIES)}")
    if name not in POLICIES:
        raise ConfigError(f"{prefix}unknown policy type '{name}'" + did_you_mean(name, POLICIES))
    return build_config(POLICIES.get(name)[0], data, where)


def make_policy(
    config: Any,
    observation_spec: ObservationSpec,
    action_space: ActionSpace,
    fps: float,
    stats: Mapping[str, FeatureStats],
    load_weights: bool = True,
) -> Policy:
    """A new policy for ``config`` (a head's configuration), in training mode, on the CPU.

    ``fps`` is the rate of the action steps (Hz); ``stats`` are physical, by key, ``action`` included.
    ``load_weights=False`` skips pretrained encoders (their weights are about to be replaced anyway).
    """
    policy_class: Any = POLICIES.get(config.type)[1]
    policy: Policy = policy_class(config, observation_spec, action_space, fps, stats, load_weights)
    return policy
