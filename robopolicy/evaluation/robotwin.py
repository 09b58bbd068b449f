"""Any checkpoint as a RoboTwin policy: keeps the observation window, plans chunks, answers in RoboTwin's numbers.

``RoboTwinPolicy`` is what an exported ``deploy_policy.py`` drives, ``XPolicyLabPolicy`` what an exported ``model.py``
serves.  Sources: the call orders of RoboTwin's ``script/eval_policy.py`` and ``eval_policy_client.py`` (branch
``stable_2.0``) and of ``scripts/eval_policy_xpolicylab.py`` with XPolicyLab's servers (``main``).

The window is Diffusion Policy's: the last ``n_obs_steps`` observations, the first of an episode standing for those
before it.  Some clients show only the observation they plan from (XPolicyLab's websocket client always does): then the
steps between were never seen, and an older observation in the window would be a whole chunk old.  The oldest step seen
since the last plan stands for the missing ones, as at the start of an episode; a policy with ``n_obs_steps`` 1 does not
notice.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from robopolicy.core.errors import ConfigError, InvalidObservation, did_you_mean
from robopolicy.core.specs import DEPTH, FeatureKind, ObservationSpec
from robopolicy.evaluation.checks import check_fits
from robopolicy.sim.pool import Description
from robopolicy.sim.robotwin.contract import (
    CAMERAS,
    SIDES,
    ActionType,
    Arms,
    camera_model,
    robotwin_actions,
    robotwin_spec,
    to_observation,
    to_robotwin_actions,
)
from robopolicy.sim.robotwin.xpolicylab import from_xpl, to_xpl_actions
from robopolicy.training.chunk_planner import language_keys, observed_keys

logger = logging.getLogger(__name__)
Raw = Mapping[str, Any]
WHO = "RoboTwin"
JOINT_NAMES = {"joint": "qpos", "qpos": "qpos", "ee": "ee", "endpose": "ee"}


@dataclasses.dataclass
class _Stream:
    """One environment's episode: its window, its text, how many chunks it had, and what was seen since the last."""

    window: deque[dict[str, np.ndarray]]
    task: str = ""
    chunks: int = 0
    seen: int = 0


class RoboTwinPolicy:
    """A policy with RoboTwin's calls: ``reset``, ``update_obs``, ``get_action``, and their batched forms.

    ``action_type``: what the actions are, "qpos" (joints) or "ee" (end-effector poses); default: what the checkpoint
    says.  ``arm_dims``: joints of the left and right arm without grippers, where they cannot be told from the
    checkpoint.  ``seed`` is RoboTwin's; the noise of a chunk is keyed by (seed, episode, environment, chunk), where the
    episode is the scene's seed if ``prepare_case`` told it, else the number of resets before.

    Raises:
        InvalidObservation, ActionSpaceMismatch, ConfigError: the checkpoint reads or does something else.
    """

    def __init__(
        self,
        policy: Any,
        seed: int = 0,
        action_type: str | None = None,
        arm_dims: Sequence[int] | None = None,
    ) -> None:
        self.policy = policy
        self.seed = int(seed)
        self.action_type = chosen_action_type(policy, action_type)
        self.arms = chosen_arms(policy, self.action_type, arm_dims)
        check_checkpoint(policy, self.arms, self.action_type)
        self.keys = observed_keys(policy)
        self._language = language_keys(policy)
        self._depth = [f.key for f in policy.observation_spec.of_kind(FeatureKind.DEPTH)]
        self._recurrent = bool(getattr(policy, "recurrent", False))
        self._streams: dict[int, _Stream] = {}
        self._latest: list[int] = []
        self._episode = -1
        self._told_seed: int | None = None
        self._gaps_told = False
        self.reset()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: str | Path) -> RoboTwinPolicy:
        """The policy that an exported folder describes.

        ``config`` has ``checkpoint`` (a path, relative to ``folder``), ``device``, ``seed``, ``action_type`` and
        ``arm_dims``; ``left_arm_dim`` and ``right_arm_dim``, where RoboTwin gives them, must agree.
        """
        from robopolicy.api import load

        checkpoint = Path(folder) / str(config.get("checkpoint") or "checkpoint")
        policy = load(checkpoint, device=str(config.get("device") or "cpu"))
        dims = config.get("arm_dims")
        told = [config.get(f"{side}_arm_dim") for side in SIDES]
        if None not in told:
            if dims is not None and list(dims) != told:
                raise ConfigError(f"arm_dims is {list(dims)}, but {WHO}'s robot has arms of {told} joints")
            dims = told
        return cls(policy, config.get("seed") or 0, config.get("action_type"), dims)

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk."""
        return int(self.policy.action_spec.n_action_steps)

    # ------------------------------------------------------------------------------------------------ episodes

    def prepare_case(self, case_meta: Mapping[str, Any] | None = None) -> None:
        """Before an episode: remember the scene's seed, if told, as the key of its noise."""
        seed = (case_meta or {}).get("seed")
        self._told_seed = None if seed is None else int(seed)

    def reset(self, case_meta: Any = None) -> None:
        """Begin an episode in every environment; everything observed is forgotten.

        A client that tells about the case here does what others do with ``prepare_case``.
        """
        if isinstance(case_meta, Mapping):
            self.prepare_case(case_meta)
        if self._told_seed is not None:
            self._episode, self._told_seed = self._told_seed, None
        else:
            self._episode += 1
        self._streams.clear()
        self._latest = []
        self.policy.reset()

    reset_model = reset  # the name RoboTwin's two-environment client calls

    # --------------------------------------------------------------------------------------------- observations

    def update_obs(self, observation: Raw) -> None:
        """Take one observation (RoboTwin's nested dict; the instruction under ``language``)."""
        self.update_obs_batch([observation])

    def update_obs_batch(self, observations: Sequence[Raw], env_idx_list: Sequence[int] | None = None) -> None:
        """Take one observation of each environment; its number is ``env_idx`` in it, or its place in the list."""
        numbers = env_idx_list or [int(o.get("env_idx", i)) for i, o in enumerate(observations)]
        if len(set(numbers)) != len(observations):
            raise InvalidObservation(f"{len(observations)} observations for the environments {list(numbers)}")
        for env, observation in zip(numbers, observations, strict=True):
            self._take(env, self._native(observation))
        self._latest = list(numbers)

    def _native(self, observation: Raw) -> Raw:
        return observation

    def _take(self, env: int, raw: Raw) -> None:
        stream = self._streams.get(env)
        if stream is None:
            self._calibrate(raw)
            stream = self._streams[env] = _Stream(deque(maxlen=self.policy.action_spec.n_obs_steps))
        stream.window.append(self._checked(to_observation(raw, self.keys)))
        stream.seen += 1
        stream.task = str(raw.get("language") or stream.task)

    def _checked(self, observed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for key, value in observed.items():
            want = tuple(self.policy.observation_spec[key].shape)
            if value.shape != want:
                raise InvalidObservation(
                    f"'{key}': the policy expects {want}, {WHO} gives {value.shape}; use the camera type and the robot "
                    "of its training data"
                )
        return observed

    def _calibrate(self, raw: Raw) -> None:
        """Take the depth cameras' calibrations from the scene; points are in the world frame."""
        if not self._depth:
            return
        spec = self.policy.observation_spec
        models = {key: camera_model(raw, key.removeprefix(DEPTH)) for key in self._depth}
        features = (dataclasses.replace(f, camera=models[f.key]) if f.key in models else f for f in spec.features)
        self.policy.calibrate(ObservationSpec(tuple(features)))

    # -------------------------------------------------------------------------------------------------- actions

    def get_action(self) -> Any:
        """The chunk of the environment observed last, ``(n_action_steps, D)`` float64 for ``take_action``."""
        return self.get_action_batch(self._latest[:1])[0]

    def get_action_batch(self, env_idx_list: Sequence[int] | None = None) -> list[Any]:
        """One chunk for each environment (default: those observed last), planned in one batch.

        Raises ``InvalidObservation`` for an environment that was not observed since the last reset.
        """
        numbers = list(self._latest if env_idx_list is None else env_idx_list)
        unseen = [env for env in numbers if env not in self._streams]
        if unseen or not numbers:
            raise InvalidObservation(f"no observation of environment {unseen or [0]} since the reset; update_obs first")
        streams = [self._streams[env] for env in numbers]
        windows = [self._window(s) for s in streams]
        obs: dict[str, Any] = {key: np.stack([np.stack([o[key] for o in w]) for w in windows]) for key in self.keys}
        for key in self._language:
            obs[key] = [[self._text(s)] * len(w) for s, w in zip(streams, windows, strict=True)]
        noise = [(self.seed, self._episode, env, s.chunks) for env, s in zip(numbers, streams, strict=True)]
        carried = {"episodes": numbers} if self._recurrent else {}
        planned = self.policy.act(obs, noise_keys=noise, **carried).executable
        for stream in streams:
            stream.chunks, stream.seen = stream.chunks + 1, 0
        return [self._answer(actions) for actions in planned]

    def _answer(self, actions: np.ndarray) -> Any:
        return to_robotwin_actions(actions, self.action_type, self.arms)

    def _window(self, stream: _Stream) -> list[dict[str, np.ndarray]]:
        """The last ``n_obs_steps`` observations, oldest first; see the module's words on gaps."""
        steps = self.policy.action_spec.n_obs_steps
        seen = list(stream.window)
        if stream.chunks and stream.seen < min(steps, self.n_action_steps):
            seen = seen[-max(stream.seen, 1) :]
            if not self._gaps_told:
                self._gaps_told = True
                logger.warning(
                    "the client shows %d of %d steps between two plans, the policy reads the last %d: the oldest shown "
                    "stands for the missing; train with n_obs_steps=1 for this client",
                    *(stream.seen, self.n_action_steps, steps),
                )
        return [seen[0]] * (steps - len(seen)) + seen

    def _text(self, stream: _Stream) -> str:
        if not stream.task:
            raise InvalidObservation("the policy reads the task's text, and no instruction came with the observation")
        return stream.task


class XPolicyLabPolicy(RoboTwinPolicy):
    """The same for XPolicyLab: observations in its format v1.0, chunks as lists of its action dicts."""

    def _native(self, observation: Raw) -> Raw:
        return from_xpl(observation)

    def _answer(self, actions: np.ndarray) -> Any:
        return to_xpl_actions(actions, self.action_type, self.arms)


# ------------------------------------------------------------------------------------------------- does it fit?


def chosen_action_type(policy: Any, asked: str | None) -> ActionType:
    """ "qpos" or "ee": as asked (XPolicyLab's "joint" is "qpos"), else as the checkpoint's action space says."""
    mode = policy.action_spec.space.mode
    told = {"joint_abs": "qpos", "absolute": "ee"}.get(mode)
    if asked and asked not in JOINT_NAMES:
        raise ConfigError(f"unknown action type '{asked}'" + did_you_mean(asked, JOINT_NAMES))
    choice = JOINT_NAMES[asked] if asked else told
    if choice is None:
        raise ConfigError(
            f"the checkpoint's actions are '{mode}'; {WHO} takes absolute joints or poses: say which with "
            f"action_type {' or '.join(get_args(ActionType))}"
        )
    return cast(ActionType, choice)


def chosen_arms(policy: Any, action_type: ActionType, arm_dims: Sequence[int] | None) -> Arms:
    """The arms: as told, else two equal ones from the length of the checkpoint's actions (six joints for poses)."""
    if arm_dims is not None:
        if len(arm_dims) != 2:
            raise ConfigError(f"arm_dims has {len(arm_dims)} entries, expected the joints of the left and right arm")
        return Arms(int(arm_dims[0]), int(arm_dims[1]))
    if action_type == "qpos":
        return Arms.of_dim(policy.action_spec.dim)
    state = next((f for f in policy.observation_spec.features if f.key == "observation.state"), None)
    return Arms() if state is None else Arms.of_dim(state.shape[0])


def check_checkpoint(policy: Any, arms: Arms, action_type: ActionType) -> None:
    """Raise the one line that says why this checkpoint cannot run in RoboTwin, if it cannot.

    Picture sizes are compared with the first observation; the rate is not compared (see ``contract``).
    """
    spec = policy.observation_spec
    offered = robotwin_offer(spec, arms)
    dt = policy.action_spec.dt
    rate = 1 / dt if dt > 0 else 1.0
    check_fits(policy, Description(offered, robotwin_actions(arms, action_type), rate, 1, ""), WHO)


def robotwin_offer(wanted: ObservationSpec, arms: Arms) -> ObservationSpec:
    """What RoboTwin offers these arms, with pictures of the sizes that ``wanted`` has."""
    offer, _ = robotwin_spec(cameras=CAMERAS, depth=True)
    features = []
    for feature in offer.features:
        if feature.key == "observation.state":
            feature = dataclasses.replace(feature, shape=(arms.dim,), names=arms.names)
        elif feature.kind in (FeatureKind.IMAGE, FeatureKind.DEPTH) and feature.key in wanted:
            feature = dataclasses.replace(feature, shape=wanted[feature.key].shape)
        features.append(feature)
    return ObservationSpec(tuple(features))
