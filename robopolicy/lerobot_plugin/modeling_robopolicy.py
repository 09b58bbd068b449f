"""``RobopolicyPolicy``: any policy that ``robopolicy.load`` gives, as a LeRobot ``PreTrainedPolicy``.

Source: the interface of LeRobot 0.4.4 (``policies/pretrained.py``); queues as its diffusion policy keeps them: the
first observation stands for a history that is missing.  Differs: observations and actions are physical, the policy
normalises by itself; training is ``robopolicy train``.
"""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from robopolicy.api import find_policy, load
from robopolicy.core.errors import CheckpointError, ConfigError
from robopolicy.core.specs import TASK, FeatureKind
from robopolicy.lerobot_plugin.configuration_robopolicy import FOLDER, RobopolicyConfig


class RobopolicyPolicy(PreTrainedPolicy):  # type: ignore[misc]
    """See the module; ``policy`` is ours."""

    config_class = RobopolicyConfig
    name = "robopolicy"

    def __init__(self, config: RobopolicyConfig, **ignored: Any) -> None:
        super().__init__(config)
        if not config.checkpoint:
            raise ConfigError("robopolicy: no checkpoint; give --policy.checkpoint=RUN, or --policy.path=EXPORTED")
        self.policy = load(config.checkpoint, config.device or "cpu")
        config.read(self.policy)
        self.config = config
        self._episode = -1
        self.reset()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: RobopolicyConfig | None = None, **kwargs: Any
    ) -> RobopolicyPolicy:
        """From a folder that ``robopolicy lerobot export`` or ``save_pretrained`` wrote; only local ones."""
        folder = Path(pretrained_name_or_path) / FOLDER
        if not folder.is_dir():
            raise CheckpointError(f"{pretrained_name_or_path}: no folder '{FOLDER}' in it; robopolicy lerobot export")
        if config is None:
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path)
        config.checkpoint = str(folder)
        policy = cls(config)
        policy.eval()
        return policy

    def _save_pretrained(self, save_directory: Path) -> None:
        source = find_policy(self.config.checkpoint)
        if not source.is_dir():
            raise CheckpointError(f"{source}: only a single policy can be exported, not a nesting of several")
        target = Path(save_directory) / FOLDER
        if source.resolve() != target.resolve():
            shutil.copytree(source, target, dirs_exist_ok=True)
        before, self.config.checkpoint = self.config.checkpoint, FOLDER
        try:
            self.config._save_pretrained(save_directory)
        finally:
            self.config.checkpoint = before

    # -- acting --------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """A new episode."""
        self._episode += 1
        self._plans = 0
        self._seen: dict[str, deque[Any]] = {}
        self._actions: deque[Tensor] = deque()
        self.policy.reset()

    def noise_keys(self, rows: int) -> list[tuple[int, ...]] | None:
        """Keys of the next chunk's noise; ``None`` without a seed."""
        if self.config.seed is None:
            return None
        return [(self.config.seed, self._episode, self._plans, row) for row in range(rows)]

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """The next action ``(B, D)``, physical; a new chunk is computed when the last one is used up."""
        self._see(batch)
        if not self._actions:
            self._actions.extend(self._plan().unbind(1))
        return self._actions.popleft()

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """The chunk ``(B, n_action_steps, D)`` from this observation on, physical.

        ``batch``: one observation ``(B, ...)``, which joins the history, or whole histories ``(B, n_obs_steps, ...)``.
        """
        if self._whole(batch):
            return self._plan({f.key: batch[f.key] for f in self.policy.observation_spec.features})
        self._see(batch)
        return self._plan()

    def _whole(self, batch: dict[str, Any]) -> bool:
        vectors = [f for f in self.policy.observation_spec.features if f.shape and f.key in batch]
        return bool(vectors) and batch[vectors[0].key].ndim == len(vectors[0].shape) + 2

    def _see(self, batch: dict[str, Any]) -> None:
        for feature in self.policy.observation_spec.features:
            key = TASK if feature.kind is FeatureKind.LANGUAGE else feature.key
            if key not in batch:
                raise ConfigError(f"the policy needs '{feature.key}'; the batch has {', '.join(map(str, batch))}")
            queue = self._seen.setdefault(feature.key, deque(maxlen=self.config.n_obs_steps))
            queue.append(batch[key])
            while len(queue) < self.config.n_obs_steps:
                queue.append(batch[key])

    def _plan(self, observation: dict[str, Any] | None = None) -> Tensor:
        if observation is None:
            observation = {key: _stacked(list(queue)) for key, queue in self._seen.items()}
        rows = len(next(iter(observation.values())))
        chunk = self.policy.act(observation, noise_keys=self.noise_keys(rows))
        self._plans += 1
        first, count = chunk.spec.exec_start, self.config.n_action_steps
        assert count is not None  # since the checkpoint was read
        return torch.from_numpy(chunk.actions[:, first : first + count].copy()).to(self.policy.device)

    # -- training is elsewhere -----------------------------------------------------------------------------------------

    def forward(self, batch: dict[str, Any]) -> Any:
        """Not offered: raises ``NotImplementedError``."""
        raise NotImplementedError("train it with `robopolicy train`; LeRobot's trainer does not know its losses")

    def get_optim_params(self) -> dict[str, Any]:
        """The policy's parameters."""
        return {"params": list(self.policy.parameters())}


def _stacked(steps: list[Any]) -> Any:
    """Observations ``(B, ...)`` of consecutive steps as ``(B, steps, ...)``; texts as lists of lists."""
    if isinstance(steps[0], Tensor):
        return torch.stack(steps, dim=1)
    return [list(row) for row in zip(*([s] if isinstance(s, str) else s for s in steps), strict=True)]
