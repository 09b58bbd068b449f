"""The policy type ``robopolicy`` of LeRobot: its settings.

Source: LeRobot 0.4.4, ``configs/policies.py``.  LeRobot finds the policy in ``modeling_robopolicy`` and its processors
in ``processor_robopolicy`` by the name of this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.optim.optimizers import AdamConfig

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ENVIRONMENT_STATE, FeatureKind, FeatureSpec

FOLDER = "robopolicy"
"""Folder of our own checkpoint within a LeRobot one."""


@PreTrainedConfig.register_subclass("robopolicy")
@dataclass
class RobopolicyConfig(PreTrainedConfig):  # type: ignore[misc]
    """A policy trained by ``robopolicy train``; everything else it says about itself."""

    checkpoint: str = ""
    """Run, checkpoint or policy folder, or what else ``robopolicy.load`` takes; a folder in an exported checkpoint."""
    seed: int | None = None
    """Seed of the policy's noise; unset: torch's own, as LeRobot's policies."""
    n_obs_steps: int = 1
    """The checkpoint's; another number is refused."""
    n_action_steps: int | None = None
    """Actions of a chunk that are executed before the next is asked for; unset: the checkpoint's."""
    horizon: int | None = None
    """The checkpoint's; another number is refused."""
    normalization_mapping: dict[str, NormalizationMode] | None = None
    """Unused: the policy normalises by itself, its numbers are physical."""

    @property
    def observation_delta_indices(self) -> list[int]:
        """Steps of an observation, the newest is 0."""
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        """Steps of a chunk; the first is that of the oldest observation."""
        return list(range(1 - self.n_obs_steps, 1 - self.n_obs_steps + (self.horizon or 1)))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return

    def get_optimizer_preset(self) -> Any:
        """LeRobot asks for one; training is ``robopolicy train``."""
        return AdamConfig()

    def get_scheduler_preset(self) -> None:
        """None."""
        return

    def validate_features(self) -> None:
        """Raise ``ConfigError`` if the checkpoint has not been read yet."""
        if not self.output_features:
            raise ConfigError("robopolicy: no features; give --policy.checkpoint, or export the checkpoint first")

    def read(self, policy: Any) -> None:
        """Take shapes and numbers of steps from a loaded policy.

        Raises ``ConfigError`` for numbers that were given and that it cannot have.
        """
        spec = policy.action_spec
        for name, given, unset in (("n_obs_steps", self.n_obs_steps, 1), ("horizon", self.horizon, None)):
            if given not in (unset, fixed := getattr(spec, name)):
                raise ConfigError(
                    f"robopolicy: {name}={given}, but the checkpoint has {fixed}; leave --policy.{name} out"
                )
        self.n_obs_steps, self.horizon = spec.n_obs_steps, spec.horizon
        self.n_action_steps = spec.n_action_steps if self.n_action_steps is None else self.n_action_steps
        self._check_actions(policy)
        self.input_features = {f.key: _feature(f) for f in policy.observation_spec.features if f.shape}
        self.output_features = {"action": PolicyFeature(FeatureType.ACTION, (spec.dim,))}

    def _check_actions(self, policy: Any) -> None:
        spec, given = policy.action_spec, self.n_action_steps
        room = spec.horizon - spec.exec_start
        if given is None or not 1 <= given <= room:
            raise ConfigError(
                f"robopolicy: n_action_steps={given}, expected 1..{room}: the checkpoint's horizon {spec.horizon} less "
                f"{spec.exec_start} past steps"
            )
        stride = getattr(getattr(policy, "needs", None), "chain_stride", 0)
        if stride and given != stride:
            raise ConfigError(
                f"robopolicy: n_action_steps={given}, but the policy carries a memory from chunk to chunk, {stride} "
                "steps apart; leave --policy.n_action_steps out"
            )


def _feature(feature: FeatureSpec) -> Any:
    if feature.kind is FeatureKind.IMAGE:
        return PolicyFeature(FeatureType.VISUAL, feature.shape)
    kind = FeatureType.ENV if feature.key == ENVIRONMENT_STATE else FeatureType.STATE
    return PolicyFeature(kind, feature.shape)
